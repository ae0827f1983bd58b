"""Edge cases: sarcasm, negation, questions that no document answers, each beside ordinary controls.

The controls tell skill from a habit: a model that refuses everything is perfect on the unanswerable and useless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.engines.engine import Engine, Sampling
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.refusal import says_not_stated
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown, totals


class Edge:
    name = "edge"
    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        results = []
        for answer, item in zip(ask(engine, items, self.sampling, watch=watch), items, strict=True):
            verdict = judge(answer, item)
            details = dict(verdict.details)
            if item.kind == "unanswerable":
                details["refused"] = says_not_stated(shown(answer))
            results.append(Result(item.id, verdict.value, verdict.right, (shown(answer),), details))
        return results

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        kinds: dict[str, Any] = {}
        for kind in sorted({item.kind or "other" for item in items}):
            at = [i for i, item in enumerate(items) if (item.kind or "other") == kind]
            kinds[kind] = _compare_kind(
                [items[i] for i in at], [base[i] for i in at], [tuned[i] for i in at], is_refusal=kind == "unanswerable"
            )
        return paired(items, base, tuned) | {"kinds": kinds}


def _compare_kind(
    items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result], *, is_refusal: bool
) -> dict[str, Any]:
    edges = [i for i, item in enumerate(items) if not item.control] or list(range(len(items)))
    controls = [i for i, item in enumerate(items) if item.control]
    section = paired([items[i] for i in edges], [base[i] for i in edges], [tuned[i] for i in edges])
    for side, results in (("base", base), ("tuned", tuned)):
        if controls:
            section[side]["control"] = totals([items[i] for i in controls], [results[i] for i in controls])
        if is_refusal:
            section[side] |= _refusals(items, results)
        if (pairs := _pair_accuracy(items, results)) is not None:
            section[side]["pair_accuracy"] = pairs
    return section


def _pair_accuracy(items: Sequence[Item], results: Sequence[Result]) -> float | None:
    """Share of minimal pairs (edge case and control) with both answers right; None where nothing is paired."""
    pairs: dict[str, list[bool]] = {}
    for item, result in zip(items, results, strict=True):
        if item.pair:
            pairs.setdefault(item.pair, []).append(result.right)
    whole = [rights for rights in pairs.values() if len(rights) > 1]
    return sum(all(rights) for rights in whole) / len(whole) if whole else None


def _refusals(items: Sequence[Item], results: Sequence[Result]) -> dict[str, float]:
    """How often "not stated" was said where it is true (recall), and how true it was where it was said (precision)."""
    refused = [bool(result.details.get("refused")) for result in results]
    due = [not item.control for item in items]
    hits = sum(said and right for said, right in zip(refused, due, strict=True))
    precision = hits / sum(refused) if any(refused) else 0.0
    recall = hits / sum(due) if any(due) else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"refusal_precision": precision, "refusal_recall": recall, "refusal_f1": f1}
