"""Forgetting: how much more surprising ordinary text has become, as the ratio of token-level perplexities.

1.00 means nothing was forgotten, 1.15 that general text became 15 % more perplexing. Both models read the same tokens,
so they must share a tokenizer; the ratio says nothing across different bases. A first check, no knowledge exam.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.data.sample import Document, Sample
from danlu.data.tokens import Tokens
from danlu.engines.engine import Engine
from danlu.evaluation.perplexity import bits_per_byte, perplexity, perplexity_ratio
from danlu.evaluation.tasks.task import Result


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of general text as tokens; pieces of one source share a `group`."""

    id: str
    tokens: Tokens
    group: str = ""
    text: str = ""
    """The text where it is known whole; bits per byte are told where that is so of all."""


def passages_from(samples: Iterable[Sample], encode: Callable[[Sample], Sequence[Tokens]]) -> tuple[Passage, ...]:
    """Documents as scored pieces; the pieces of one document are one group. `encode` is the encoder with its ledger."""
    passages = []
    for sample in samples:
        pieces = encode(sample)
        whole = sample.text if isinstance(sample, Document) and len(pieces) == 1 else ""
        for number, tokens in enumerate(pieces, start=1):
            if tokens.num_supervised:
                name = f"{sample.origin}#{number}"
                passages.append(Passage(name, tokens, group=sample.group or str(sample.origin), text=whole))
    return tuple(passages)


class Forgetting:
    name = "forgetting"
    steps_per_item = 1

    def run(
        self, engine: Engine, items: Sequence[Passage], *, watch: Callable[[int], None] | None = None
    ) -> list[Result]:
        results = []
        scores = engine.score([item.tokens for item in items])
        for item, score in zip(items, scores, strict=True):
            num_tokens = len(score.log_probs)
            details = {"log_prob": score.total, "num_tokens": num_tokens}
            results.append(Result(item.id, perplexity(score.total, num_tokens), True, (), details))
        if watch is not None:
            watch(len(items))
        return results

    def compare(self, items: Sequence[Passage], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        tokens = [int(result.details["num_tokens"]) for result in base]
        assert tokens == [int(result.details["num_tokens"]) for result in tuned], "both score the same tokens"
        before = [float(result.details["log_prob"]) for result in base]
        after = [float(result.details["log_prob"]) for result in tuned]
        kept = [i for i in range(len(items)) if tokens[i] > 0 and math.isfinite(before[i]) and math.isfinite(after[i])]
        section: dict[str, Any] = {
            "num_texts": len(items), "num_tokens": sum(tokens), "num_unscored": len(items) - len(kept),
            "base": {"perplexity": perplexity(sum(before[i] for i in kept), sum(tokens[i] for i in kept))},
            "tuned": {"perplexity": perplexity(sum(after[i] for i in kept), sum(tokens[i] for i in kept))},
        }  # fmt: skip
        if kept:
            ratio = perplexity_ratio(
                [before[i] for i in kept], [after[i] for i in kept], [tokens[i] for i in kept],
                [items[i].group or items[i].id for i in kept],
            )  # fmt: skip
            section |= {"ratio": ratio.value, "interval": [ratio.low, ratio.high]}
        if kept and all(items[i].text for i in kept):
            num_bytes = sum(len(items[i].text.encode()) for i in kept)
            for side, log_probs in (("base", before), ("tuned", after)):
                section[side]["bits_per_byte"] = bits_per_byte(sum(log_probs[i] for i in kept), num_bytes)
        return section
