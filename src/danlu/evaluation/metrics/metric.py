"""The contract of a metric, and which one judges an item unless the item names its own.

Most metrics judge one answer; some also have a score of the whole corpus, which is not the mean of its answers'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from danlu.evaluation.fold import fold
from danlu.evaluation.items import Item
from danlu.evaluation.stats import Tally

# A reference longer than this is a sentence, to be met in its words; a shorter one is a value, to be contained.
VALUE_TOKENS = 12
RIGHT_FROM = 0.5


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


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a corpus' score is made of, item by item, and the signature without which the number means nothing."""

    tally: Tally
    signature: str


@runtime_checkable
class CorpusMetric(Protocol):
    """A metric that also has a score of all answers together, from sums per item (see `stats/corpus.py`)."""

    name: str

    def score(self, answer_text: str, item: Item) -> Verdict: ...

    def corpus(self, answer_texts: Sequence[str], items: Sequence[Item]) -> Corpus:
        """The sums of these answers; `Corpus.tally.total` is the score."""
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


def right_from(item: Item) -> float:
    """From which overlap on an answer counts as right: the item's rule, or a half."""
    return float(item.rules.get("right_from", RIGHT_FROM))
