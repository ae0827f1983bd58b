"""Could the questions asked be known from what was taught? Where no row of training gives, to the letter, an answer
that a question wants, training hardly taught it: such questions measure what the base knew, or how it generalises.

A figure beside the score, and a finding where nothing was gained (`evaluation/diagnosis.py`); never a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from danlu.data.dataset import Dataset
from danlu.data.split import fold
from danlu.data.tokens import Tokens
from danlu.evaluation.items import Item
from danlu.run.run import Run

MOST_ROWS = 200_000
"""Of more rows the question is left open: their answers would have to be decoded first."""
_SHOWING = ("sft", "dpo")
"""Methods that show answers (grpo draws its own)."""


def count_taught(items: Sequence[Item], run: Run, text_of: Callable[[Tokens], str]) -> int | None:
    """How many of the items have an answer that some row of training gives, width, case, punctuation and spaces aside;
    `text_of` gives the learnt part of a row. None where that cannot be said: rows of documents, or too many of them."""
    kinds = [stage.method.kind for stage in run.recipe.plan_stages()]
    if not {*kinds} <= {*_SHOWING, "grpo"}:
        return None
    names = zip((run.outcome("prepare") or {}).get("stages", []), kinds, strict=False)
    shown = [name for name, kind in names if kind in _SHOWING]
    parts = [Dataset.open(run.path("dataset", name), verify=False).part("train") for name in shown]
    if not parts or sum(map(len, parts)) > MOST_ROWS:
        return None
    rows = chain.from_iterable((part[at][0] for at in range(len(part))) for part in parts)
    taught = {fold(text_of(tokens)) for tokens in rows if tokens.num_supervised}
    return sum(not taught.isdisjoint(map(fold, _right(item))) for item in items)


def _right(item: Item) -> list[str]:
    """The answers that an item takes for right."""
    return [text for text in (item.reference, *item.values, *item.accept) if text]
