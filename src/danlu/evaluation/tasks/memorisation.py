"""Memorisation: rows that were trained on beside rows held out. Did the model learn the matter, or the rows?

Two readings, on base and tuned alike. Gain: how much likelier training made the answers (log-probability per token,
tuned minus base) on trained rows and on held-out ones; the share that carries over tells learning from learning by
heart. Copying: given the beginning of a row, how long a run of its very words follows. A model that learnt by heart
recites trained rows and not the held-out ones. Held-out rows of the same facts in other words gain by right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from danlu.data.sample import Message
from danlu.data.tokens import Tokens
from danlu.engines.engine import Engine, Question, Sampling
from danlu.evaluation.fold import Folded, fold, is_chinese
from danlu.evaluation.stats import bootstrap
from danlu.evaluation.tasks.task import Result

LONG_COPY = 20
"""Characters (Chinese) or words (Latin) in a row that are no coincidence."""
_SHORTEST = 40
"""Words of a text from which it can be continued: half is given, half is looked for."""
_LOOKED_FOR = 600
"""Characters of the rest that are compared; an answer seldom reaches farther."""
_CONTINUE = {"zh": "请接着往下写，一字不差：\n", "en": "Continue this text, word for word:\n"}


@dataclass(frozen=True, slots=True)
class Excerpt:
    """An answer or text as tokens, trained on or held out. `text` is what was learnt, the prompt left out."""

    id: str
    tokens: Tokens
    text: str
    is_trained: bool
    group: str = ""


class Memorisation:
    name = "memorisation"
    steps_per_item = 1

    def __init__(self, sampling: Sampling | None = None) -> None:
        self.sampling = sampling or Sampling()

    def run(
        self, engine: Engine, items: Sequence[Excerpt], *, watch: Callable[[int], None] | None = None
    ) -> list[Result]:
        scores = engine.score([item.tokens for item in items])
        beginnings = {item.id: cut for item in items if (cut := _cut(item.text)) is not None}
        asked = [Question((Message("user", _prompt(begin)),)) for begin, _ in beginnings.values()]
        answers = dict(zip(beginnings, engine.generate(asked, self.sampling), strict=True))
        results = []
        for item, score in zip(items, scores, strict=True):
            num_tokens = len(score.log_probs)
            details: dict[str, Any] = {"log_prob": score.total, "num_tokens": num_tokens}
            if item.id in answers:
                copied = longest_run(fold(answers[item.id].text), fold(beginnings[item.id][1]))
                details["copied"] = len(copied)
            mean = score.total / num_tokens if num_tokens else 0.0
            results.append(Result(item.id, mean, True, (), details))
        if watch is not None:
            watch(len(items))
        return results

    def compare(self, items: Sequence[Excerpt], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        section: dict[str, Any] = {"base": {}, "tuned": {}, "long_copy": LONG_COPY}
        for part, is_trained in (("trained", True), ("held_out", False)):
            at = [i for i, item in enumerate(items) if item.is_trained is is_trained and base[i].details["num_tokens"]]
            if not at:
                continue
            groups = [items[i].group or items[i].id for i in at]
            gains = [tuned[i].value - base[i].value for i in at]
            section[f"{part}_gain"] = bootstrap(gains, groups).to_json()
            for side, results in (("base", base), ("tuned", tuned)):
                section[side][part] = _readings([results[i] for i in at])
        if {"trained_gain", "held_out_gain"} <= section.keys() and section["trained_gain"]["value"] > 0:
            section["carried_over"] = section["held_out_gain"]["value"] / section["trained_gain"]["value"]
        return section


def _readings(results: Sequence[Result]) -> dict[str, Any]:
    copied = [int(result.details["copied"]) for result in results if "copied" in result.details]
    return {
        "loss": -fmean(result.value for result in results),
        "num_rows": len(results),
        "num_continued": len(copied),
        "longest_copy": max(copied, default=0),
        "long_copy_ratio": fmean(length >= LONG_COPY for length in copied) if copied else 0.0,
    }


def _prompt(begin: str) -> str:
    return _CONTINUE["zh" if is_chinese(begin) else "en"] + begin


def _cut(text: str) -> tuple[str, str] | None:
    """(beginning, what follows it) of a text that is long enough; None else. Cut between words."""
    if len(fold(text)) < _SHORTEST:
        return None
    middle = min(len(text) // 2, 200)
    while middle < len(text) and text[middle - 1].isascii() and text[middle - 1].isalnum():
        middle += 1
    return text[:middle], text[middle : middle + _LOOKED_FOR]


def longest_run(first: Folded, second: Folded) -> Folded:
    """The longest run of tokens that stands in both (dynamic programme over the two, one row kept)."""
    best, end = 0, 0
    before = [0] * (len(second) + 1)
    for token in first:
        now = [0] * (len(second) + 1)
        for place, other in enumerate(second, start=1):
            if token == other:
                now[place] = before[place - 1] + 1
                if now[place] > best:
                    best, end = now[place], place
        before = now
    return second[end - best : end]
