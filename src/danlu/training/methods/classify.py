"""Classification: cross-entropy between a text's class and what an encoder's head says (Devlin et al. 2019, §4.1).

A batch holds, last in each document, the number of its class. It is taken away before the encoder reads the text; the
loss is a sum over documents.

Shapes: T tokens of all texts, N texts, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from danlu.data.sample import Kind
from danlu.model.classifier import Classifier
from danlu.model.model import Model
from danlu.ops.attention import Bounds
from danlu.training.batches import Batch
from danlu.training.methods.method import Loss, Stage


@dataclass(frozen=True)
class Classify:
    kind: Literal["classify"] = "classify"
    accepts: frozenset[Kind] = frozenset({"label"})
    betas: tuple[float, float] = (0.9, 0.999)

    def begin(self, stage: Stage) -> None: ...

    def num_units(self, batch: Batch) -> int:
        return batch.num_targets

    def loss(self, model: Model, batch: Batch) -> Loss:
        assert isinstance(model, Classifier), "preparing refuses every other base"
        is_text_T = torch.ones_like(batch.ids_T, dtype=torch.bool)
        is_text_T[batch.rows_S + 1] = False
        bounds = Bounds.of([length - 1 for length in batch.bounds.lengths])
        logits_NC = model.logits(model.firsts(batch.ids_T[is_text_T], bounds))
        wide_NC = logits_NC if logits_NC.dtype == torch.float64 else logits_NC.float()
        value = torch.nn.functional.cross_entropy(wide_NC, batch.targets_S, reduction="sum")
        num_right = (wide_NC.detach().argmax(-1) == batch.targets_S).sum()
        return Loss(value, batch.num_targets, {"accuracy": num_right})
