"""What further metrics say of base and tuned, beside the verdict that counts: means, corpus scores, scores of classes.

Each entry is {"base", "tuned", "difference" (value, interval, p, test, detectable, direction)}; corpus scores add their
`signature`, and `scale`: 100 for BLEU and chrF, which run to 100 as everyone prints them; all else lies in [0, 1].
Items that failed to be answered count as empty answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Protocol

from danlu.evaluation.clusters import clusters
from danlu.evaluation.confusion import classes_of, tally_of
from danlu.evaluation.items import Item
from danlu.evaluation.metrics import METRICS, CorpusMetric
from danlu.evaluation.stats import compare, compare_tallies

CLASS_SCORES = ("macro_f1", "micro_f1", "mcc")


class Answered(Protocol):
    """What a task's Result offers here."""

    @property
    def answers(self) -> tuple[str, ...]: ...

    @property
    def details(self) -> dict[str, Any]: ...


def score_beside(answer_text: str, item: Item, names: Sequence[str]) -> dict[str, float]:
    """The item's value by each metric; kept in a Result's details as `metrics`."""
    return {name: METRICS.load(name)().score(answer_text, item).value for name in names}


def means_beside(
    items: Sequence[Item], base: Sequence[Answered], tuned: Sequence[Answered], names: Sequence[str]
) -> dict[str, Any]:
    """Means of the values that `score_beside` left in the details, on items where one side has one."""
    told: dict[str, Any] = {}
    for name in names:
        at = [i for i in range(len(items)) if name in _values(base[i]) or name in _values(tuned[i])]
        if not at:
            continue
        before, after = ([float(_values(side[i]).get(name, 0.0)) for i in at] for side in (base, tuned))
        difference = compare(before, after, clusters([items[i] for i in at]))
        told[name] = {"base": fmean(before), "tuned": fmean(after), "difference": difference.to_json()}
    return told


def corpus_beside(
    items: Sequence[Item], base: Sequence[Answered], tuned: Sequence[Answered], names: Sequence[str]
) -> dict[str, Any]:
    """Corpus scores: of the metrics named over all items in words (`score_beside` was asked of them), and of any other
    over the items that it judges."""
    told: dict[str, Any] = {}
    judges = [str(result.details.get("metric", "")) for result in base]
    for name in dict.fromkeys((*names, *sorted(set(judges) - {""}))):
        at = [
            i
            for i, item in enumerate(items)
            if item.reference and (judges[i] == name or (name in names and (_values(base[i]) or _values(tuned[i]))))
        ]
        metric = METRICS.load(name)() if at else None
        if not isinstance(metric, CorpusMetric):
            continue
        asked = [items[i] for i in at]
        corpora = [metric.corpus([_answer(side[i]) for i in at], asked) for side in (base, tuned)]
        found = compare_tallies(corpora[0].tally, corpora[1].tally, clusters(asked), span=100)
        told[name] = {
            "base": found.base, "tuned": found.tuned, "difference": found.to_json(),
            "signature": corpora[0].signature, "scale": 100,
        }  # fmt: skip
    return told


def classes_beside(items: Sequence[Item], base: Sequence[Answered], tuned: Sequence[Answered]) -> dict[str, Any]:
    """Macro and micro F1 and MCC of the items with labels; a parse failure is wrong for its class."""
    at = [i for i, item in enumerate(items) if item.labels]
    if not at:
        return {}
    true = [items[i].reference for i in at]
    named = [[str(side[i].details.get("label", "")) for i in at] for side in (base, tuned)]
    classes, groups = classes_of(true, *named), clusters([items[i] for i in at])
    told = {}
    for score in CLASS_SCORES:
        tallies = [tally_of(true, side, classes, score) for side in named]
        found = compare_tallies(tallies[0], tallies[1], groups, span=2 if score == "mcc" else 1)
        told[score] = {"base": found.base, "tuned": found.tuned, "difference": found.to_json()}
    return told


def _values(result: Answered) -> dict[str, float]:
    values: dict[str, float] = result.details.get("metrics", {})
    return values


def _answer(result: Answered) -> str:
    return result.answers[0] if result.answers else ""
