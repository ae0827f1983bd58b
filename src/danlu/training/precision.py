"""In which number format a model computes while it trains. Masters, optimizer states, losses and norms' statistics are
fp32 everywhere; this is about the products between them.

Frozen weights compute in the dtype they lie in. Where every weight trains, they are fp32 masters and the forward runs
under autocast in the dtype the model came in. fp16 (cards before Ampere) scales its loss; it never runs on a CPU, where
it is emulated. Which dtype suits a device is decided when the model is loaded.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from danlu.adapters.adapter import Attached


@dataclass(frozen=True, slots=True)
class Precision:
    """`dtype` of the big products; `is_autocast` where the weights are wider masters."""

    device: torch.device
    dtype: torch.dtype
    is_autocast: bool

    @classmethod
    def of(cls, device: torch.device, attached: Attached) -> Precision:
        """What an adapter asks for: autocast where weights of the model itself train as wider masters."""
        masters = attached.parameters().values() if attached.kind == "full" else ()
        return cls(device, attached.compute_dtype, any(weight.dtype != attached.compute_dtype for weight in masters))

    @property
    def is_scaled(self) -> bool:
        """fp16's gradients underflow unless the loss is scaled up."""
        return self.dtype == torch.float16

    def forward(self) -> AbstractContextManager[object]:
        """The context a forward runs in."""
        if self.is_autocast:
            return torch.autocast(self.device.type, dtype=self.dtype)
        return contextlib.nullcontext()
