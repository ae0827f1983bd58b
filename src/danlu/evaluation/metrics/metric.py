"""The contract of a metric, and which one judges an item unless the item names its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from danlu.evaluation.fold import fold
from danlu.evaluation.items import Item

# A reference longer than this is a sentence, to be met in its words; a shorter one is a value, to be contained.
VALUE_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Verdict:
    """value in [0, 1]; `right` is what accuracy counts; details explain it to a reader of the report."""

    value: float
    right: bool
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert 0.0 <= self.value <= 1.0, f"a verdict lies in [0, 1], not at {self.value}"


class Metric(Protocol):
    """Judges one answer. Stateless."""

    name: str

    def score(self, answer_text: str, item: Item) -> Verdict:
        """How right the answer is, as the item sees it."""
        ...


def metric_for(item: Item) -> str:
    """The name of the metric whose verdict counts for the item."""
    if item.metric:
        return item.metric
    if item.labels:
        return "label"
    if item.kind == "unanswerable" and not item.control:
        return "refusal"
    if item.values or item.accept or len(fold(item.reference)) <= VALUE_TOKENS:
        return "contains"
    return "char_f1"
