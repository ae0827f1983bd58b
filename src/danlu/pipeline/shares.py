"""How much of each step is replay: read from the plan of the steps, so that the training loop need not know.

The card says how many items at the end of the train part are replay (`facts.replay`). A step holds whole items, so one
step has a little more and the next a little less; over an epoch the share is the recipe's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from danlu.data.dataset import Dataset
from danlu.training.plan import Plan


def replay_shares(dataset: Dataset, plan: Plan, number: int) -> Iterator[dict[str, float]]:
    """For each step after `number`: {"replay_share": share of its tokens}, or {} where nothing is replayed."""
    part = dataset.part("train")
    replay = dataset.card.facts.get("replay") or {}
    first = len(part) - int(replay.get("items", 0))
    for planned in plan.steps_after(number):
        if first == len(part):
            yield {}
            continue
        items = np.concatenate(planned.pieces)
        lengths = part.lengths[items]
        yield {"replay_share": round(float(lengths[items >= first].sum() / lengths.sum()), 4)}
