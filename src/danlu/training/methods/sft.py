"""Supervised fine-tuning: next-token prediction on the answers, the rest of a conversation being context.

Which tokens are learnt was decided when the data was encoded; the loss reads it from the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from danlu.data.sample import Kind
from danlu.model.model import Model
from danlu.training.batches import Batch
from danlu.training.likelihood import summed_nll
from danlu.training.methods.method import Loss, Stage


@dataclass(frozen=True)
class SFT:
    kind: Literal["sft"] = "sft"
    accepts: frozenset[Kind] = frozenset({"conversation", "label"})
    betas: tuple[float, float] = (0.9, 0.999)

    def begin(self, stage: Stage) -> None: ...

    def num_units(self, batch: Batch) -> int:
        return batch.num_targets

    def loss(self, model: Model, batch: Batch) -> Loss:
        return Loss(summed_nll(model, batch), batch.num_targets)
