"""What the tasks with kinds of questions share: totals per kind, controls, pairs, and what each kind is told by.

Controls tell skill from a habit: a model that refuses everything is perfect on the unanswerable, and useless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from danlu.engines.engine import Engine, Sampling
from danlu.evaluation.confusion import Confusion
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.refusal import says_not_stated
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown, totals
from danlu.evaluation.wordings import class_of, shares, wordings_of

MOST_CATEGORIES = 12
"""A kind with more categories than this names words, not parts."""


class OfKinds:
    """A task whose items are asked once each, and compared kind by kind."""

    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        return run_kinds(engine, items, self.sampling, watch=watch)

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        return compare_kinds(items, base, tuned)


def run_kinds(
    engine: Engine, items: Sequence[Item], sampling: Sampling, *, watch: Callable[[int], None] | None = None
) -> list[Result]:
    """Each item asked once; beside the verdict, whether an answer says that it does not know."""
    results = []
    for answer, item in zip(ask(engine, items, sampling, watch=watch), items, strict=True):
        verdict = judge(answer, item)
        details = dict(verdict.details)
        if item.kind == "unanswerable":
            details["refused"] = says_not_stated(shown(answer))
        results.append(Result(item.id, verdict.value, verdict.right, (shown(answer),), details))
    return results


def compare_kinds(items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
    """Totals of all, and under `kinds` those of each kind with its controls."""
    kinds: dict[str, Any] = {}
    for kind in sorted({item.kind or "other" for item in items}):
        at = [i for i, item in enumerate(items) if (item.kind or "other") == kind]
        kinds[kind] = _compare_kind(kind, [items[i] for i in at], [base[i] for i in at], [tuned[i] for i in at])
    return paired(items, base, tuned) | {"kinds": kinds}


def _compare_kind(kind: str, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
    edges = [i for i, item in enumerate(items) if not item.control] or list(range(len(items)))
    controls = [i for i, item in enumerate(items) if item.control]
    section = paired([items[i] for i in edges], [base[i] for i in edges], [tuned[i] for i in edges])
    for side, results in (("base", base), ("tuned", tuned)):
        told = section[side]
        if controls:
            told["control"] = totals([items[i] for i in controls], [results[i] for i in controls])
            told["control_gap"] = told["control"]["accuracy"] - told["accuracy"]
        if kind == "unanswerable":
            told |= _refusals(items, results)
        if any(item.forbid for item in items):
            told["leak_ratio"] = _leak_ratio(items, results)
        if any(item.labels for item in items):
            named = [str(result.details.get("label", "")) for result in results]
            told["macro_f1"] = Confusion.of([item.reference for item in items], named).score("macro_f1")
        if kind == "format":
            told["loose"] = fmean(result.right or bool(result.details.get("loose")) for result in results)
        if wordings := _wordings(items, results):
            told["wordings"] = wordings
        if (pairs := _pair_accuracy(items, results)) is not None:
            told["pair_accuracy"] = pairs
        if categories := _by_category([items[i] for i in edges], [results[i] for i in edges]):
            told["categories"] = categories
    return section


def _wordings(items: Sequence[Item], results: Sequence[Result]) -> dict[str, Any]:
    """Of questions asked in several wordings: how many were answered alike, and right; {} where there are none."""
    by_id = {result.item: result for result in results}
    asked = [[by_id[item.id] for item in wordings] for wordings in wordings_of(items)]
    told = [class_of([r.right for r in some], [r.answers[0] if r.answers else "" for r in some]) for some in asked]
    return shares(told) if told else {}


def _by_category(items: Sequence[Item], results: Sequence[Result]) -> dict[str, float]:
    """Accuracy of each part of a suite; {} where there is one, or none worth the name."""
    names = sorted({item.category for item in items if item.category})
    if not 2 <= len(names) <= MOST_CATEGORIES:
        return {}
    rights: dict[str, list[bool]] = {name: [] for name in names}
    for item, result in zip(items, results, strict=True):
        if item.category:
            rights[item.category].append(result.right)
    return {name: fmean(found) for name, found in rights.items()}


def _leak_ratio(items: Sequence[Item], results: Sequence[Result]) -> float:
    """Share of answers, among those that could, that give away what they must not."""
    guarded = [result for item, result in zip(items, results, strict=True) if item.forbid]
    return fmean(bool(result.details.get("leaked")) for result in guarded)


def _pair_accuracy(items: Sequence[Item], results: Sequence[Result]) -> float | None:
    """Share of minimal pairs (edge case and control) with all answers right; None where nothing is paired."""
    pairs: dict[str, list[bool]] = {}
    for item, result in zip(items, results, strict=True):
        if item.pair:
            pairs.setdefault(item.pair, []).append(result.right)
    whole = [rights for rights in pairs.values() if len(rights) > 1]
    return fmean(all(rights) for rights in whole) if whole else None


def _refusals(items: Sequence[Item], results: Sequence[Result]) -> dict[str, float]:
    """How often "not stated" was said where it is true (recall), and how true it was where it was said (precision)."""
    refused = [bool(result.details.get("refused")) for result in results]
    due = [not item.control for item in items]
    hits = sum(said and right for said, right in zip(refused, due, strict=True))
    precision = hits / sum(refused) if any(refused) else 0.0
    recall = hits / sum(due) if any(due) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"refusal_precision": precision, "refusal_recall": recall, "refusal_f1": f1}
