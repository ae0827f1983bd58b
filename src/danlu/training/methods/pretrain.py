"""Next-token prediction on documents: continued pretraining, and pretraining from scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from danlu.data.sample import Kind
from danlu.model.model import Model
from danlu.training.batches import Batch
from danlu.training.likelihood import summed_nll
from danlu.training.methods.method import Loss, Stage


@dataclass(frozen=True)
class Pretrain:
    kind: Literal["pretrain"] = "pretrain"
    accepts: frozenset[Kind] = frozenset({"document"})
    # The shorter memory of squares is the usual choice for language models from scratch (Brown et al. 2020).
    betas: tuple[float, float] = (0.9, 0.95)

    def begin(self, stage: Stage) -> None: ...

    def num_units(self, batch: Batch) -> int:
        return batch.num_targets

    def loss(self, model: Model, batch: Batch) -> Loss:
        return Loss(summed_nll(model, batch), batch.num_targets)
