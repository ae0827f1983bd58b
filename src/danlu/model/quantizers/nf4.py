"""`nf4`: four bits an element, as in QLoRA (`danlu.ops.nf4`). A product reads the weight dequantised."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear
from danlu.ops.nf4 import NF4, dequantise, quantise


class NF4Linear(QuantizedLinear):
    kind: ClassVar[Quantize] = "nf4"
    packed: NF4

    def take(self, weight_NK: Tensor) -> None:
        self.packed = quantise(weight_NK)

    def dequantized(self, out_NK: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        return dequantise(self.packed, out_NK, dtype=dtype or self.dtype)
