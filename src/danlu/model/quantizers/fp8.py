"""`fp8`: e4m3 codes with a scale per output channel (`danlu.ops.fp8`), multiplied as they are by codes of the input,
which are made anew each time: what is rounded is the activations too, and the gradients on the way back."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear
from danlu.ops.fp8 import FP8, dequantise, product, product_back, quantise, quantise_rows


class FP8Linear(QuantizedLinear):
    kind: ClassVar[Quantize] = "fp8"
    can_keep_dequantized: ClassVar[bool] = False
    packed: FP8

    def take(self, weight_NK: Tensor) -> None:
        self.packed = quantise(weight_NK)

    def dequantized(self, out_NK: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        return dequantise(self.packed, out_NK, dtype=dtype or self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x.flatten(0, -2), self)  # type: ignore[no-untyped-call]
        return out.view(*x.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """x Wᵀ + b in codes, both ways."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, layer: FP8Linear) -> Tensor:
        ctx.layer = layer
        return product(*quantise_rows(x_TK), layer.packed, bias_N=layer.bias, dtype=x_TK.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad_TN,) = grads
        packed: FP8 = ctx.layer.packed
        return product_back(*quantise_rows(grad_TN, columns=packed.columns), packed, dtype=grad_TN.dtype), None
