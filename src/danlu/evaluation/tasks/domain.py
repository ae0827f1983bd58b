"""Domain: the held-out questions of the user's own field, asked once, greedily, of base and tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from danlu.engines.engine import Answer, Engine, Sampling
from danlu.evaluation.items import Item
from danlu.evaluation.metrics import METRICS
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown

_BESIDE = ("exact", "contains", "char_f1")
"""Metrics reported beside the one that counts."""

_PARTS: dict[str, Callable[[Item], str]] = {
    "language": lambda item: item.language,
    "document": lambda item: item.document,
    "kind": lambda item: item.kind,
}


class Domain:
    name = "domain"
    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        answers = ask(engine, items, self.sampling, watch=watch)
        return [_result(answer, item) for answer, item in zip(answers, items, strict=True)]

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        section = paired(items, base, tuned)
        section["metrics"] = {
            name: {"base": _mean(base, name), "tuned": _mean(tuned, name)}
            for name in _BESIDE
            if any(name in result.details.get("metrics", {}) for result in (*base, *tuned))
        }
        section["by"] = {part: groups for part in _PARTS if (groups := _split(items, base, tuned, part))}
        if any(item.labels for item in items):
            section["classes"] = {"base": _classes(items, base), "tuned": _classes(items, tuned)}
        return section


def _result(answer: Answer, item: Item) -> Result:
    verdict = judge(answer, item)
    details = dict(verdict.details)
    if verdict.details["metric"] != "label" and answer.finish != "error":
        details["metrics"] = {name: METRICS.load(name)().score(answer.text, item).value for name in _BESIDE}
    return Result(item.id, verdict.value, verdict.right, (shown(answer),), details)


def _mean(results: Sequence[Result], name: str) -> float:
    return fmean(result.details.get("metrics", {}).get(name, 0.0) for result in results)


def _split(
    items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result], part: str
) -> dict[str, dict[str, Any]]:
    """The same comparison within each language, document, ...; {} where there is only one."""
    names = {item.id: _PARTS[part](item) for item in items}
    found = sorted(set(names.values()) - {""})
    if len(found) < 2:
        return {}
    places = {name: [i for i, item in enumerate(items) if names[item.id] == name] for name in found}
    return {
        name: paired([items[i] for i in at], [base[i] for i in at], [tuned[i] for i in at])
        for name, at in places.items()
    }


def _classes(items: Sequence[Item], results: Sequence[Result]) -> dict[str, Any]:
    """Confusion counts (reference, then named; "" where no class was named) and macro F1."""
    confusion: dict[str, dict[str, int]] = {}
    for item, result in zip(items, results, strict=True):
        row = confusion.setdefault(item.reference, {})
        answered = str(result.details.get("label", ""))
        row[answered] = row.get(answered, 0) + 1
    scores = []
    for label in confusion:
        hits = confusion[label].get(label, 0)
        named = sum(row.get(label, 0) for row in confusion.values())
        wanted = sum(confusion[label].values())
        scores.append(2 * hits / (named + wanted))
    return {"confusion": confusion, "macro_f1": fmean(scores) if scores else 0.0}
