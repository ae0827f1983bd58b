"""Consistency: the same question several times, in three ways.

`sampled`: at serving temperature, as users meet it. `greedy`: at temperature 0, where an answer that changes is the
server's doing. `wordings`: the same question in other words (rows of one group with the same key), greedily.

consistent_right: right every time. consistent_wrong: wrong every time, in the same way. inconsistent: all else.
Only the first is "consistent": three equal wrong answers are no virtue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from danlu.engines.engine import Answer, Engine, Sampling
from danlu.evaluation.items import Item, choose_items
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown
from danlu.evaluation.wordings import CLASSES, class_of, shares, wordings_of

WAYS = ("sampled", "greedy", "wordings")
GREEDY_ITEMS = 60
"""So many questions show whether a server is steady at temperature 0."""
MOST_WORDINGS = 4
"""The question and three paraphrases."""


class Consistency:
    name = "consistency"

    def __init__(self, sampling: Sampling | None = None, *, repeats: int = 3) -> None:
        assert repeats >= 2, "consistency needs a second answer"
        self.sampling = sampling or Sampling(temperature=0.7, top_p=0.95)
        self.repeats = self.steps_per_item = repeats

    def run(self, engine: Engine, items: Sequence[Item], *, watch: Callable[[int], None] | None = None) -> list[Result]:
        rounds = [
            ask(engine, items, replace(self.sampling, seed=self.sampling.seed + turn), watch=watch)
            for turn in range(self.repeats)
        ]
        results = [_result(answers, item) for item, *answers in zip(items, *rounds, strict=True)]
        for way, found in (("greedy", self._greedy(engine, items)), ("wordings", self._wordings(engine, items))):
            for result in results:
                if result.item in found:
                    result.details[way] = found[result.item]
        return results

    def _greedy(self, engine: Engine, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
        """By item: what it came to when asked `repeats` times at temperature 0. The seed changes nothing but the
        remembered answer's key, so that the engine is truly asked again."""
        chosen = choose_items(items, GREEDY_ITEMS)
        still = Sampling(max_new_tokens=self.sampling.max_new_tokens, stop=self.sampling.stop)
        rounds = [ask(engine, chosen, replace(still, seed=turn)) for turn in range(self.repeats)]
        return {item.id: _told(answers, [item] * self.repeats) for item, *answers in zip(chosen, *rounds, strict=True)}

    def _wordings(self, engine: Engine, items: Sequence[Item]) -> dict[str, dict[str, Any]]:
        """By a question's first wording: what its wordings came to."""
        asked = [wordings[:MOST_WORDINGS] for wordings in wordings_of(items)]
        still = Sampling(max_new_tokens=self.sampling.max_new_tokens, stop=self.sampling.stop)
        answers = iter(ask(engine, [item for wordings in asked for item in wordings], still))
        return {wordings[0].id: _told([next(answers) for _ in wordings], wordings) for wordings in asked}

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        section = paired(items, base, tuned)
        ways: dict[str, dict[str, Any]] = {way: {} for way in WAYS}
        for side, results in (("base", base), ("tuned", tuned)):
            ways["sampled"][side] = shares([str(result.details["class"]) for result in results])
            for way in WAYS[1:]:
                ways[way][side] = shares([r.details[way]["class"] for r in results if way in r.details])
            section[side] |= {name: ways["sampled"][side][name] for name in CLASSES}
        told = {way: sides for way, sides in ways.items() if sides["tuned"]["num_items"]}
        return section | {"repeats": self.repeats, "temperature": self.sampling.temperature, "ways": told}


def _told(answers: Sequence[Answer], items: Sequence[Item]) -> dict[str, Any]:
    verdicts = [judge(answer, item) for answer, item in zip(answers, items, strict=True)]
    texts = [shown(answer) for answer in answers]
    rights = [verdict.right for verdict in verdicts]
    return {"class": class_of(rights, texts), "rights": rights, "answers": texts}


def _result(answers: Sequence[Answer], item: Item) -> Result:
    verdicts = [judge(answer, item) for answer in answers]
    texts = tuple(shown(answer) for answer in answers)
    rights = [verdict.right for verdict in verdicts]
    details: dict[str, Any] = {"class": class_of(rights, texts), "rights": rights}
    details |= {fault: True for fault in ("error", "cut") if any(verdict.details.get(fault) for verdict in verdicts)}
    return Result(item.id, fmean(verdict.value for verdict in verdicts), all(rights), texts, details)
