"""Domain: the held-out questions of the user's own field, asked once, greedily, of base and tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from danlu.engines.engine import Answer, Engine, Sampling
from danlu.evaluation.confusion import Confusion
from danlu.evaluation.items import Item
from danlu.evaluation.measures import classes_beside, corpus_beside, means_beside, score_beside
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown

_BESIDE = ("exact", "contains", "char_f1")
"""Metrics reported beside the one that counts; the recipe may name more."""

_PARTS: dict[str, Callable[[Item], str]] = {
    "language": lambda item: item.language,
    "document": lambda item: item.document,
    "kind": lambda item: item.kind,
}


class Domain:
    name = "domain"
    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None, *, beside: Sequence[str] = ()) -> None:
        """`beside`: names of further metrics."""
        self.sampling = sampling or Sampling()
        self.beside = tuple(dict.fromkeys((*_BESIDE, *beside)))

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        answers = ask(engine, items, self.sampling, watch=watch)
        return [_result(answer, item, self.beside) for answer, item in zip(answers, items, strict=True)]

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        section = paired(items, base, tuned)
        section["metrics"] = means_beside(items, base, tuned, self.beside)
        section["metrics"] |= corpus_beside(items, base, tuned, self.beside)
        section["metrics"] |= classes_beside(items, base, tuned)
        section["by"] = {part: groups for part in _PARTS if (groups := _split(items, base, tuned, part))}
        if any(item.labels for item in items):
            section["classes"] = {"base": _classes(items, base), "tuned": _classes(items, tuned)}
        return section


def _result(answer: Answer, item: Item, beside: Sequence[str]) -> Result:
    verdict = judge(answer, item)
    details = dict(verdict.details)
    if verdict.details["metric"] not in ("label", "choice", "format") and answer.finish != "error":
        details["metrics"] = score_beside(answer.text, item, beside)
    return Result(item.id, verdict.value, verdict.right, (shown(answer),), details)


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
    """Confusion counts (reference, then named; "" where no class was named) and their scores."""
    at = [i for i, item in enumerate(items) if item.labels]
    named = [str(results[i].details.get("label", "")) for i in at]
    return Confusion.of([items[i].reference for i in at], named).to_json()
