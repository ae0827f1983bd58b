"""The contract of a task, and the asking and judging that the tasks with answers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from danlu.engines.engine import Answer, Engine, Sampling
from danlu.evaluation.clusters import clusters
from danlu.evaluation.fold import final_answer
from danlu.evaluation.items import Item
from danlu.evaluation.metrics import METRICS, Verdict, metric_for
from danlu.evaluation.stats import compare, proportion

ItemT = TypeVar("ItemT", contravariant=True)
_FAULTS = ("error", "parse_failure", "cut", "hedged")


@dataclass(frozen=True, slots=True)
class Result:
    """What one engine did with one item. `answers` is empty where tokens are scored, not generated."""

    item: str
    value: float
    right: bool
    answers: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"answers": list(self.answers), "right": self.right, "value": self.value, "details": self.details}


class Task(Protocol[ItemT]):
    """Runs on one engine at a time; base and tuned get the same items and the same sampling."""

    name: str

    steps_per_item: int
    """How many answers or scores one item costs, for the progress bar."""

    def run(
        self, engine: Engine, items: Sequence[ItemT], *, watch: Callable[[int], None] | None = None
    ) -> list[Result]:
        """One result per item, in order; `watch(n)` is told of each n answers finished."""
        ...

    def compare(self, items: Sequence[ItemT], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        """The task's section of the report: totals of both, intervals, tests."""
        ...


def ask(
    engine: Engine, items: Sequence[Item], sampling: Sampling, *, watch: Callable[[int], None] | None = None
) -> list[Answer]:
    return engine.generate([item.question for item in items], sampling, watch=watch)


def judge(answer: Answer, item: Item) -> Verdict:
    """The verdict that counts for the item. A failed answer is wrong, and its details say that it failed."""
    name = metric_for(item)
    if answer.finish == "error":
        return Verdict(0.0, False, {"metric": name, "error": answer.error or "error"})
    metric = METRICS.load(name, where=f"item {item.id}")()
    verdict = metric.score(answer.text, item)
    cut = {"cut": True} if answer.finish == "length" else {}
    return Verdict(verdict.value, verdict.right, {"metric": name} | verdict.details | cut)


def shown(answer: Answer) -> str:
    return final_answer(answer.text) if answer.finish != "error" else ""


def totals(items: Sequence[Item], results: Sequence[Result]) -> dict[str, Any]:
    """Accuracy with its interval, and what went wrong otherwise than by a wrong answer."""
    estimate = proportion([result.right for result in results], clusters(items))
    faults = Counter(fault for result in results for fault in _FAULTS if result.details.get(fault))
    return {
        "accuracy": estimate.value,
        "interval": [estimate.low, estimate.high],
        "num_items": estimate.num_items,
        "num_groups": estimate.num_groups,
        "num_right": sum(result.right for result in results),
        "faults": dict(faults),
    }


def paired(items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
    """Totals of both and their difference."""
    comparison = compare([result.right for result in base], [result.right for result in tuned], clusters(items))
    return {"base": totals(items, base), "tuned": totals(items, tuned), "difference": comparison.to_json()}
