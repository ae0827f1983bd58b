"""Two reports side by side: did the second tuned model do better than the first, on the questions both were asked?"""

from __future__ import annotations

from dataclasses import dataclass

from danlu.core.errors import EvaluationError
from danlu.evaluation.report import Report
from danlu.evaluation.stats import Comparison, compare


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """second − first, on `num_shared` questions; those that only one report holds are counted, not used."""

    comparison: Comparison
    num_shared: int
    num_only_first: int
    num_only_second: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]


def compare_reports(first: Report, second: Report, *, task: str = "domain") -> ReportComparison:
    """Paired by item id. Raises EvaluationError when the reports share no question."""
    before = {row["id"]: row for row in first.items if row["task"] == task}
    after = {row["id"]: row for row in second.items if row["task"] == task}
    shared = [name for name in before if name in after]
    if not shared:
        raise EvaluationError("evaluation.nothing_shared", given=f"{first.name}, {second.name}", where=task)
    was = [bool(before[name]["tuned"]["right"]) for name in shared]
    now = [bool(after[name]["tuned"]["right"]) for name in shared]
    comparison = compare(was, now, [before[name]["group"] for name in shared])
    return ReportComparison(
        comparison,
        len(shared),
        len(before) - len(shared),
        len(after) - len(shared),
        tuple(name for name, old, new in zip(shared, was, now, strict=True) if new and not old),
        tuple(name for name, old, new in zip(shared, was, now, strict=True) if old and not new),
    )
