"""Full fine-tuning: every weight trains, as an fp32 master with the forward under autocast in the compute dtype, or
without masters: bf16 weights that the optimizer rounds up or down by chance (half the memory of masters). Where masters
are offloaded, weights are bf16 as well, and the optimizer keeps their masters apart.

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

Masters = Literal["fp32", "none"]
Offload = Literal["none", "masters", "all"]

_TRAINED: WeakKeyDictionary[Model, tuple[torch.dtype, Masters, Offload]] = WeakKeyDictionary()
"""Models that are being trained: the dtype they came in, their masters and what of them lies away. Attaching again must
forget none of it."""


@dataclass(frozen=True)
class Full:
    """Every weight trains. `masters` and `offload` None: as they were on this model before, fp32 and here at first."""

    masters: Masters | None = None
    offload: Offload | None = None
    kind: Literal["full"] = "full"

    def attach(self, model: Model) -> AttachedFull:
        refuse_quantized(model, "adapter.kind: full")
        masters: Masters = "fp32"
        offload: Offload = "none"
        if model in _TRAINED:
            _, masters, offload = _TRAINED[model]
        return AttachedFull(model, masters=self.masters or masters, offload=self.offload or offload)


class AttachedFull:
    """A model all of whose weights train. `merge` casts the masters back to the dtype the model came in. With `masters`
    None nothing trains: for answering."""

    kind: Literal["full"] = "full"
    is_fresh = False
    can_disable = False

    def __init__(self, model: Model, *, masters: Masters | None, offload: Offload = "none") -> None:
        self.model, self.offload = model, offload
        self.compute_dtype = _TRAINED[model][0] if model in _TRAINED else next(model.parameters()).dtype
        if self.compute_dtype == torch.float16:
            if masters == "none":
                raise TrainingError("adapter.fp16_without_masters", where="adapter.masters")
            if offload != "none":
                raise TrainingError("adapter.fp16_offload", where="adapter.offload", given=offload)
        if masters:
            _TRAINED[model] = self.compute_dtype, masters, offload
        self.has_masters_apart = masters == "fp32" and offload != "none" and self.compute_dtype == torch.bfloat16
        self._is_gone = False
        for weight in model.parameters():
            if masters:
                wide = torch.promote_types(self.compute_dtype, torch.float32)
                is_wide = masters == "fp32" and not self.has_masters_apart
                weight.data = weight.data.to(wide if is_wide else self.compute_dtype).contiguous()
            weight.requires_grad_(masters is not None)

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
        _TRAINED.pop(self.model, None)

    def save(self, folder: Path) -> None:
        save_model(self.model, folder, self.compute_dtype)
