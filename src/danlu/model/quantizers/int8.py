"""`int8`: eight bits an element with a scale per output channel (`danlu.ops.int8`). A product reads the weight
dequantised."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear
from danlu.ops.int8 import Int8, dequantise, quantise


class Int8Linear(QuantizedLinear):
    kind: ClassVar[Quantize] = "int8"
    packed: Int8

    def take(self, weight_NK: Tensor) -> None:
        self.packed = quantise(weight_NK)

    def dequantized(self, out_NK: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        return dequantise(self.packed, out_NK, dtype=dtype or self.dtype)
