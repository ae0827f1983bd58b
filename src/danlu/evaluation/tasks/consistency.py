"""Consistency: each question asked several times at serving temperature.

consistent_right: right every time. consistent_wrong: wrong every time, in the same way. inconsistent: all else.
Only the first is "consistent": three equal wrong answers are no virtue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from danlu.engines.engine import Answer, Engine, Sampling
from danlu.evaluation.fold import agree
from danlu.evaluation.items import Item
from danlu.evaluation.tasks.task import Result, ask, judge, paired, shown

CLASSES = ("consistent_right", "consistent_wrong", "inconsistent")


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
        return [_result(answers, item) for item, *answers in zip(items, *rounds, strict=True)]

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        section = paired(items, base, tuned)
        for side, results in (("base", base), ("tuned", tuned)):
            counts = Counter(str(result.details["class"]) for result in results)
            section[side] |= {name: counts[name] / len(results) for name in CLASSES}
        return section | {"repeats": self.repeats, "temperature": self.sampling.temperature}


def _result(answers: Sequence[Answer], item: Item) -> Result:
    verdicts = [judge(answer, item) for answer in answers]
    texts = tuple(shown(answer) for answer in answers)
    is_right = all(verdict.right for verdict in verdicts)
    name = "consistent_right" if is_right else "inconsistent"
    if not any(verdict.right for verdict in verdicts) and agree(texts):
        name = "consistent_wrong"
    details: dict[str, Any] = {"class": name, "rights": [verdict.right for verdict in verdicts]}
    details |= {fault: True for fault in ("error", "cut") if any(verdict.details.get(fault) for verdict in verdicts)}
    return Result(item.id, fmean(verdict.value for verdict in verdicts), is_right, texts, details)
