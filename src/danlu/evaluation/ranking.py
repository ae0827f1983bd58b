"""Which of several trained models is best, and which cannot be told apart from it: paired by question, and corrected
for every pair there is, since the best one was picked by what it answered. Corrected for the comparisons with it alone,
sixteen equal trainings would be told apart in one sweep of seven.

The best of many looks better than it is, for luck was chosen too: its own figure is no promise. What was ranked on is
the validation part; the test part stays unseen, and judges the one that is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.evaluation.report import Report
from danlu.evaluation.stats import compare, holm

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trained model: `rights` is, by question, whether it was right and which cluster the question belongs to;
    `value` the mean of the metric, which parts those of equal accuracy."""

    name: str
    settings: Mapping[str, Any]
    accuracy: float
    interval: tuple[float, float]
    value: float
    rights: Mapping[str, tuple[bool, str]]
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any], told: Mapping[str, Any]) -> Candidate:
        """Of what `figures` said, once it has been JSON."""
        rights = {item: (bool(right), str(group)) for item, (right, group) in told["rights"].items()}
        low, high = told["interval"]
        return cls(name, settings, told["accuracy"], (low, high), told["value"], rights, told.get("seconds", 0.0))


@dataclass(frozen=True, slots=True)
class Placed:
    """A candidate beside the best: `behind` is best − this in accuracy with its interval, `is_apart` whether the two
    can be told apart."""

    candidate: Candidate
    behind: float
    interval: tuple[float, float]
    p_holm: float
    is_apart: bool

    def to_json(self) -> dict[str, Any]:
        one = self.candidate
        return {
            "trial": one.name, "settings": dict(one.settings), "accuracy": one.accuracy, "interval": list(one.interval),
            "value": one.value, "behind": self.behind, "behind_interval": list(self.interval), "p_holm": self.p_holm,
            "told_apart": self.is_apart, "seconds": round(one.seconds, 1),
        }  # fmt: skip


def figures(report: Report) -> dict[str, Any]:
    """What ranking needs of a report: its domain questions."""
    rows = [row for row in report.items if row["task"] == "domain"]
    return {
        "accuracy": report.tuned["accuracy"], "interval": list(report.tuned["interval"]),
        "value": sum(float(row["tuned"]["value"]) for row in rows) / max(1, len(rows)),
        "base": report.base["accuracy"], "num_items": len(rows),
        "rights": {row["id"]: [bool(row["tuned"]["right"]), row["group"]] for row in rows},
    }  # fmt: skip


def rank(candidates: Sequence[Candidate]) -> list[Placed]:
    """Best first. Each other one is tested against it on the questions that both were asked; where not all were asked
    the same (other rows, other cleaning) the place is by those that all were asked."""
    common = set.intersection(*(set(one.rights) for one in candidates)) if candidates else set()
    num_right = {one.name: sum(one.rights[item][0] for item in common) for one in candidates}
    ordered = sorted(
        candidates, key=lambda one: (-num_right[one.name], -one.accuracy, -one.value, one.seconds, one.name)
    )
    if not ordered:
        return []
    best = ordered[0]
    found = {}
    for one in ordered[1:]:
        shared = [item for item in best.rights if item in one.rights]
        pairs = [(one.rights[item][0], *best.rights[item]) for item in shared]
        if pairs:
            found[one.name] = compare([a for a, _, _ in pairs], [b for _, b, _ in pairs], [g for _, _, g in pairs])
    adjusted = holm({name: told.p for name, told in found.items()}, num_tests=math.comb(len(ordered), 2))
    placed = [Placed(best, 0.0, (0.0, 0.0), 1.0, False)]
    for one in ordered[1:]:
        if one.name not in found:  # asked of other questions: nothing is known
            placed.append(Placed(one, best.accuracy - one.accuracy, (-1.0, 1.0), 1.0, False))
            continue
        told = found[one.name]
        is_apart = adjusted[one.name] < SIGNIFICANT and told.low > 0
        placed.append(Placed(one, told.value, (told.low, told.high), adjusted[one.name], is_apart))
    return placed
