"""The contract of a teacher: whoever answers prompts. `pipeline/teacher.py` makes one from an engine or a URL.

Every request carries the level of what it quotes and whether that was masked, and `check_cleared` stands before every
teacher outside this machine: nothing leaves it unmasked, and no level that the recipe does not name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from danlu.core.errors import DataError
from danlu.data.sample import Message, Sample
from danlu.recipe.synthesis import Level

LEVELS: tuple[Level, ...] = get_args(Level)
"""From open to closed."""


@dataclass(frozen=True, slots=True)
class Clearance:
    """What a text may be shown to: its level (None: never graded) and whether personal data in it was masked."""

    level: Level | None = None
    is_masked: bool = False
    where: str = ""
    """`file:line` of what is least cleared, for the error."""

    @classmethod
    def of(cls, sample: Sample) -> Clearance:
        level = sample.tags.get("level")
        known: Level | None = level if level in LEVELS else None
        return cls(known, sample.tags.get("masked") is True, str(sample.origin))

    @classmethod
    def highest(cls, clearances: Iterable[Clearance]) -> Clearance:
        """Of a text put together from several: the most closed of their levels, masked only if all are."""
        return max(clearances, key=Clearance._rank, default=OPEN)

    def _rank(self) -> tuple[bool, bool, int]:
        return self.level is None, not self.is_masked, LEVELS.index(self.level) if self.level else 0

    def tags(self) -> dict[str, Any]:
        """What a sample made from such a text inherits."""
        return ({"level": self.level} if self.level else {}) | ({"masked": True} if self.is_masked else {})


OPEN = Clearance("public", True)
"""Of what danlu brings along itself."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `clearance` speaks of everything that its messages quote."""

    messages: tuple[Message, ...]
    clearance: Clearance
    max_new_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """The teacher's words without its thinking. `undone`: not asked, because a cap was reached."""

    text: str
    finish: Literal["stop", "length", "error", "undone"]
    error: str = ""


class Teacher(Protocol):
    """Answers prompts; what it answered once is remembered and not asked again."""

    name: str
    is_external: bool
    """What it is told leaves this machine."""
    levels: frozenset[str]
    """What may be told to it if it is external."""

    @property
    def identity(self) -> str:
        """Digest of who answers: URL and model, or weights."""
        ...

    def answer(self, asks: Sequence[Ask], *, watch: Callable[[int], None] | None = None) -> list[Reply]:
        """One reply per request, in order. EngineError for a fault that concerns all of them (key, address);
        DataError when one of them is not cleared, before anything is sent."""
        ...

    def cost(self) -> dict[str, Any]:
        """JSON: requests, tokens, money spent and caps so far."""
        ...


def check_cleared(asks: Sequence[Ask], teacher: Teacher) -> None:
    """Refuse to tell an external teacher what was not masked, not graded, or is of a level not named in the recipe."""
    if not teacher.is_external:
        return
    for ask in asks:
        shown = ask.clearance
        if shown.level is None or not shown.is_masked:
            raise DataError("synthesis.not_masked", where=shown.where, teacher=teacher.name)
        if shown.level not in teacher.levels:
            raise DataError(
                "synthesis.level_withheld", where=shown.where, teacher=teacher.name, level=shown.level,
                allowed=", ".join(sorted(teacher.levels)) or "-",
            )  # fmt: skip
