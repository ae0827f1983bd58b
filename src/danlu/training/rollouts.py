"""Steps of an on-policy method: rows come from the feed, the model answers them, and its answers are what is computed.

A rank answers the rows that were dealt to it, all answers to a row together, so that no reward travels.
"""

from __future__ import annotations

import numpy as np

from danlu.data.dataset import Dataset
from danlu.model.model import Model
from danlu.training.feed import Feed, Loaded
from danlu.training.methods.method import OnPolicy
from danlu.training.ranks import Alone


class Rollouts:
    """Between the loop and a method that learns from its own answers."""

    def __init__(self, model: Model, method: OnPolicy, feed: Feed, dataset: Dataset, ranks: Alone) -> None:
        self.model, self.method, self.feed, self.dataset, self.ranks = model, method, feed, dataset, ranks

    def answered(self, loaded: Loaded) -> tuple[Loaded, dict[str, float]]:
        """The step with the model's answers in place of its rows, and their figures, of all ranks."""
        rows = [batch.items for batch in loaded.batches]
        items = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        self.model.eval()
        rollout = self.method.roll_out(np.sort(items), loaded.planned.number)
        return (
            self.feed.of_documents(loaded.planned, rollout.documents, rollout.items),
            self.method.told(self.ranks.add(rollout.sums)),
        )

    def judged(self, part: str) -> dict[str, float]:
        """Figures of the likeliest answers to a whole part's rows."""
        items = np.arange(len(self.dataset.part(part)))[self.ranks.index :: self.ranks.size]
        return self.method.told(self.ranks.add(self.method.judge(part, items)))
