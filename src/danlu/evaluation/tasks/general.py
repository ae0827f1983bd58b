"""General ability: knowledge, arithmetic, code, translation, instructions, safety. Has training cost any of it?

Asked of base and tuned alike; what is judged is not the score but what was lost, overall and per category, against a
margin (`evaluation/loss.py`). Perplexity (`forgetting`) sees damage earlier; these questions see what it means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from danlu.evaluation.items import Item
from danlu.evaluation.loss import loss_bounds
from danlu.evaluation.tasks.kinds import OfKinds
from danlu.evaluation.tasks.task import Result, paired


class General(OfKinds):
    name = "general"

    def compare(self, items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
        categories = {}
        for name in sorted({item.category or "own" for item in items}):
            at = [i for i, item in enumerate(items) if (item.category or "own") == name]
            categories[name] = _bounded([items[i] for i in at], [base[i] for i in at], [tuned[i] for i in at])
        return _bounded(items, base, tuned) | {"categories": categories}


def _bounded(items: Sequence[Item], base: Sequence[Result], tuned: Sequence[Result]) -> dict[str, Any]:
    section = paired(items, base, tuned)
    changes = section["difference"]
    section["bounds"] = list(loss_bounds(changes["num_gained"], changes["num_lost"], len(items)))
    return section
