"""Two reports side by side: did the second tuned model do better than the first, on the questions both were asked?

Paired by item, task by task, Holm over the tasks. What only one report asked is counted, not used. Comparable is what
was asked alike: where the reports' questions, base or dataset differ, `changes` says so before any figure is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.core.messages import listed
from danlu.evaluation.report import Report
from danlu.evaluation.stats import Comparison, compare, holm

DOMAIN = "domain"
_TOLD = ("base", "recipe", "dataset", "code")
"""Of the footer: what explains a difference before the training does."""


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """One task: second − first, on `num_shared` questions; those that only one report holds are counted, not used.
    `p_holm` is p over all tasks that were compared."""

    task: str
    comparison: Comparison
    num_shared: int
    num_only_first: int
    num_only_second: int
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    p_holm: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return self.comparison.to_json() | {
            "task": self.task, "num_shared": self.num_shared, "num_only_first": self.num_only_first,
            "num_only_second": self.num_only_second, "gained": list(self.gained), "lost": list(self.lost),
            "p_holm": self.p_holm,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """What else differs between the two: a word of the footer with both values."""

    what: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class SideBySide:
    """All tasks that both reports asked, the headline first."""

    first: Report
    second: Report
    tasks: tuple[ReportComparison, ...]
    changes: tuple[Change, ...]
    names: tuple[str, str]
    """What the two are called beside each other: reports of one recipe all bear its name."""

    @property
    def headline(self) -> ReportComparison:
        return self.tasks[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "first": _side(self.first, self.names[0]), "second": _side(self.second, self.names[1]),
            "tasks": [one.to_json() for one in self.tasks],
            "changes": [{"what": one.what, "first": one.first, "second": one.second} for one in self.changes],
        }  # fmt: skip


def compare_reports(
    first: Report, second: Report, *, task: str = DOMAIN, margin: float | None = None
) -> ReportComparison:
    """One task, paired by item id. Raises EvaluationError when the reports share no question of it."""
    before, after = _items(first, task), _items(second, task)
    shared = [name for name in before if name in after]
    if not shared:
        raise EvaluationError("evaluation.nothing_shared", given=f"{first.name}, {second.name}", where=task)
    was = [bool(before[name]["tuned"]["right"]) for name in shared]
    now = [bool(after[name]["tuned"]["right"]) for name in shared]
    found = compare(was, now, [before[name]["group"] for name in shared], margin=margin)
    return ReportComparison(
        task,
        found,
        len(shared),
        len(before) - len(shared),
        len(after) - len(shared),
        tuple(name for name, old, new in zip(shared, was, now, strict=True) if new and not old),
        tuple(name for name, old, new in zip(shared, was, now, strict=True) if old and not new),
        found.p,
    )


def side_by_side(
    first: Report, second: Report, *, names: tuple[str, str] | None = None, margin: float | None = None
) -> SideBySide:
    """Every task that both have asked of right-or-wrong questions. EvaluationError where there is none."""
    asked = dict.fromkeys([DOMAIN, *(row["task"] for row in first.items)])
    both = [task for task in asked if _items(first, task).keys() & _items(second, task).keys()]
    called = names or (first.name, second.name)
    if not both:
        raise EvaluationError("evaluation.nothing_shared", given=listed(called), where=DOMAIN)
    found = [compare_reports(first, second, task=task, margin=margin) for task in both]
    adjusted = holm({one.task: one.comparison.p for one in found})
    tasks = tuple(_with_holm(one, adjusted[one.task]) for one in found)
    return SideBySide(first, second, tasks, tuple(_changes(first, second)), called)


def _with_holm(one: ReportComparison, p: float) -> ReportComparison:
    return ReportComparison(
        one.task, one.comparison, one.num_shared, one.num_only_first, one.num_only_second, one.gained, one.lost, p
    )


def _items(report: Report, task: str) -> dict[str, Mapping[str, Any]]:
    return {row["id"]: row for row in report.items if row["task"] == task and "right" in row["tuned"]}


def _changes(first: Report, second: Report) -> list[Change]:
    pairs = [(what, str(first.footer.get(what, "-")), str(second.footer.get(what, "-"))) for what in _TOLD]
    return [Change(*pair) for pair in pairs if pair[1] != pair[2]]


def _side(report: Report, name: str) -> dict[str, Any]:
    gate = report.gate or {}
    return {
        "name": name, "created": report.created, "accuracy": report.tuned.get("accuracy"),
        "interval": report.tuned.get("interval"), "gate": gate.get("decision"), "recipe": report.footer.get("recipe"),
        "dataset": report.footer.get("dataset"),
    }  # fmt: skip
