"""Full fine-tuning: every weight trains, as an fp32 master; the forward runs under autocast in the compute dtype.

Tied weights are one parameter and train as one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from danlu.adapters.adapter import find_unsound
from danlu.core.errors import TrainingError
from danlu.model.build import save_model
from danlu.model.model import Model
from danlu.model.quantized import refuse_quantized

_WIDENED: WeakKeyDictionary[Model, torch.dtype] = WeakKeyDictionary()
"""Models that hold masters now, and the dtype they came in: attaching again must not forget it."""


@dataclass(frozen=True)
class Full:
    """Every weight trains."""

    kind: Literal["full"] = "full"

    def attach(self, model: Model) -> AttachedFull:
        refuse_quantized(model, "adapter.kind: full")
        return AttachedFull(model)


class AttachedFull:
    """A model all of whose weights train. `merge` casts the masters back to the dtype the model came in. Without
    `widens` there are no masters: for answering, not for training."""

    kind: Literal["full"] = "full"
    is_fresh = False
    can_disable = False

    def __init__(self, model: Model, *, widens: bool = True) -> None:
        self.model = model
        self.compute_dtype = _WIDENED.get(model, next(model.parameters()).dtype)
        if widens:
            _WIDENED[model] = self.compute_dtype
        self._is_gone = False
        for weight in model.parameters():
            if widens:
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))
            weight.requires_grad_(widens)

    @torch.no_grad()
    def settle(self) -> None:
        for weight in self.model.parameters():
            weight.copy_(weight.to(self.compute_dtype))

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.named_parameters())

    def disabled(self) -> AbstractContextManager[None]:
        raise AssertionError("full fine-tuning leaves no bare model behind: look at `can_disable` first")

    def check(self) -> None:
        if name := find_unsound({name: weight.data for name, weight in self.parameters().items()}):
            raise TrainingError("adapter.not_finite", where=name)

    def merge(self) -> None:
        if self._is_gone:
            raise TrainingError("adapter.merged_twice")
        for weight in self.model.parameters():
            weight.data = weight.data.to(self.compute_dtype)
            weight.requires_grad_(False)
        self._is_gone = True
        _WIDENED.pop(self.model, None)

    def save(self, folder: Path) -> None:
        save_model(self.model, folder, self.compute_dtype)
