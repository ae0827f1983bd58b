"""A reason that can be said in either language."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from danlu.core.messages import Language, lookup


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is a key of the catalogue's room `advice`; `values` fill it."""

    code: str
    values: dict[str, Any] = field(default_factory=dict)

    def text(self, language: Language | None = None) -> str:
        return lookup(f"advice.{self.code}", language)[0].format(**self.values)

    def fix(self, language: Language | None = None) -> str:
        """What to do about it; "" where the catalogue has nothing."""
        return lookup(f"advice.{self.code}", language)[1].format(**self.values)

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "values": self.values, "text": self.text()} | (
            {"fix": fix} if (fix := self.fix()) else {}
        )
