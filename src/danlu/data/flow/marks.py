"""What was done to a row and by which stage, and what a stage did to all rows of a shard: the funnel of the report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from danlu.data.stage import Fate


@dataclass(frozen=True, slots=True)
class Mark:
    """A fate and the name of the stage it came from; `read` is the reader."""

    stage: str
    fate: Fate


@dataclass(slots=True)
class Passed:
    """Rows that went through one stage, by reason what became of them."""

    name: str
    rows_in: int = 0
    rows_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    flagged: Counter[str] = field(default_factory=Counter)

    def count(self, fate: Fate, num: int = 1) -> None:
        counts = {"drop": self.dropped, "change": self.changed, "flag": self.flagged}[fate.action]
        counts[fate.reason] += num

    def merge(self, other: Passed) -> None:
        assert self.name == other.name, "stages of one name add up"
        self.rows_in += other.rows_in
        self.rows_out += other.rows_out
        for own, more in ((self.dropped, other.dropped), (self.changed, other.changed), (self.flagged, other.flagged)):
            own.update(more)

    def to_json(self) -> dict[str, Any]:
        reasons = {"dropped": self.dropped, "changed": self.changed, "flagged": self.flagged}
        return {
            "name": self.name, "rows_in": self.rows_in, "rows_out": self.rows_out,
            **{name: dict(sorted(counts.items())) for name, counts in reasons.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Passed:
        counts = (Counter(value[name]) for name in ("dropped", "changed", "flagged"))
        return cls(value["name"], value["rows_in"], value["rows_out"], *counts)


def add_up(funnels: list[list[Passed]]) -> list[Passed]:
    """One funnel of several shards'; stages in the order in which they were met."""
    found: dict[str, Passed] = {}
    for funnel in funnels:
        for passed in funnel:
            found.setdefault(passed.name, Passed(passed.name)).merge(passed)
    return list(found.values())
