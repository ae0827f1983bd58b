"""Full fine-tuning: every weight trains, as an fp32 master with the forward under autocast in the compute dtype, or
without masters: bf16 weights that the optimizer rounds up or down by chance (half the memory of masters). Where masters
are offloaded, weights are bf16 as well, and the optimizer keeps their masters apart.

Or every weight of some decoder layers: the others, embedding, head and last norm stay as they are, in the dtype they
came in. The backward ends at the lowest layer that trains, for nothing below it asks for a gradient.

Tied weights are one parameter and train as one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import nn

from danlu.adapters.adapter import find_unsound, layer_of
from danlu.core.errors import TrainingError
from danlu.model.build import save_model
from danlu.model.model import Model
from danlu.model.quantized import refuse_quantized
from danlu.recipe.layers import Layers, chosen_layers

Masters = Literal["fp32", "none"]
Offload = Literal["none", "masters", "all"]

_TRAINED: WeakKeyDictionary[Model, tuple[torch.dtype, Full]] = WeakKeyDictionary()
"""Models that are being trained: the dtype they came in, and how. Attaching again must forget none of it."""


@dataclass(frozen=True)
class Full:
    """Every weight trains, or every weight of `layers` (as `adapter.layers` says them). What is None is as it was on
    this model before; at first: masters in fp32, here, of all weights."""

    masters: Masters | None = None
    offload: Offload | None = None
    layers: Layers = None
    kind: Literal["full"] = "full"

    def attach(self, model: Model) -> AttachedFull:
        refuse_quantized(model, "adapter.kind: full")
        _, before = _TRAINED.get(model, (None, Full()))
        whole = replace(
            self, masters=self.masters or before.masters or "fp32", offload=self.offload or before.offload or "none",
            layers=before.layers if self.layers is None else self.layers,
        )  # fmt: skip
        return AttachedFull(model, whole)


class AttachedFull:
    """A model whose weights train. `merge` casts the masters back to the dtype the model came in. With `full` None
    nothing trains: for answering."""

    kind: Literal["full"] = "full"
    is_fresh = False
    can_disable = False

    def __init__(self, model: Model, full: Full | None) -> None:
        masters = full.masters if full else None
        offload: Offload = (full and full.offload) or "none"
        self.model, self.offload = model, offload
        self.compute_dtype = _TRAINED[model][0] if model in _TRAINED else next(model.parameters()).dtype
        if self.compute_dtype == torch.float16:
            if masters == "none":
                raise TrainingError("adapter.fp16_without_masters", where="adapter.masters")
            if offload != "none":
                raise TrainingError("adapter.fp16_offload", where="adapter.offload", given=offload)
        if full:
            _TRAINED[model] = self.compute_dtype, full
        self.has_masters_apart = masters == "fp32" and offload != "none" and self.compute_dtype == torch.bfloat16
        self._is_gone = False
        self._names = _names_of(model, full) if full else frozenset()
        wide = torch.promote_types(self.compute_dtype, torch.float32)
        for name, weight in model.named_parameters():
            if full:
                is_wide = name in self._names and masters == "fp32" and not self.has_masters_apart
                weight.data = weight.data.to(wide if is_wide else self.compute_dtype).contiguous()
            weight.requires_grad_(name in self._names)

    @torch.no_grad()
    def settle(self) -> None:
        for weight in self.model.parameters():
            weight.copy_(weight.to(self.compute_dtype))

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: weight for name, weight in self.model.named_parameters() if name in self._names}

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


def _names_of(model: Model, full: Full) -> frozenset[str]:
    """The parameters that train."""
    chosen = chosen_layers(full.layers, model.spec.num_layers)
    return frozenset(name for name, _ in model.named_parameters() if chosen is None or layer_of(name) in chosen)
