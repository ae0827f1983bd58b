"""A quantised base's weights for answering on a card: codes of layers that read the same input are one product.

A few rows are multiplied by the codes as they lie (`ops/few_rows.py`): that is what a step of decoding waits for. For
more rows NF4 and int8 are dequantised into room that all products share, unless the layers keep their dequantised
weights anyway; fp8 multiplies codes by codes either way, as the layers themselves do.

Codes that do not lie below one another are moved there once, and the layers' own become views of them; but not while
the model trains, whose recorded steps know where codes lie.

Shapes: T tokens, K inputs, N outputs of all layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.model.quantizers.fp8 import FP8Linear
from danlu.model.quantizers.int8 import Int8Linear
from danlu.model.quantizers.nf4 import NF4Linear
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.ops import byte_product, fp8, nf4_product
from danlu.ops.adjoining import adjoined, moved_together
from danlu.ops.few_rows import MOST_ROWS
from danlu.ops.kernels import fits

MOST_ROWS_BESIDE_KEPT, MOST_FP8_ROWS = 32, 32
"""Beyond, a product with weights that are kept in 16 bits, and the card's own product of codes, are as fast."""
FewRows = Callable[[Tensor, Tensor | None], Tensor]
"""x_TK and a bias to out_TN."""


class Scratch:
    """Room for one product's dequantised weights."""

    def __init__(self, num_elements: int, dtype: torch.dtype, device: torch.device) -> None:
        self.room = torch.empty(num_elements, dtype=dtype, device=device)

    def matrix(self, layers: Sequence[QuantizedLinear]) -> Tensor:
        """weight_NK, until the next is asked for."""
        sizes = [layer.out_features for layer in layers]
        weight_NK = self.room[: sum(sizes) * layers[0].in_features].view(sum(sizes), -1)
        for layer, rows in zip(layers, torch.split(weight_NK, sizes), strict=True):
            layer.dequantized(rows)
        return weight_NK


class Codes:
    """x_TK times NF4 or int8 weights."""

    def __init__(
        self, layers: Sequence[QuantizedLinear], bias_N: Tensor | None, scratch: Scratch, *, may_move: bool
    ) -> None:
        self.layers, self.bias_N, self.scratch = list(layers), bias_N, scratch
        self.are_kept = all(layer.has_cache for layer in layers)
        self.most_rows = MOST_ROWS_BESIDE_KEPT if self.are_kept else MOST_ROWS
        multiply = _nf4 if isinstance(layers[0], NF4Linear) else _int8
        self.few = multiply(layers, may_move=may_move)

    def __call__(self, x_TK: Tensor) -> Tensor:
        if self.few is not None and len(x_TK) <= self.most_rows and fits(x_TK):
            return self.few(x_TK, self.bias_N)
        if self.are_kept:
            parts = [F.linear(x_TK, layer.weight(x_TK.dtype)) for layer in self.layers]
            out_TN = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
            return out_TN if self.bias_N is None else out_TN.add_(self.bias_N)
        return F.linear(x_TK, self.scratch.matrix(self.layers), self.bias_N)


class FP8Codes:
    """Codes of x_TK times fp8 weights."""

    def __init__(self, layers: Sequence[FP8Linear], bias_N: Tensor | None, *, may_move: bool) -> None:
        found = _bytes(layers, may_move=may_move)
        self.weights = [layer.packed for layer in layers] if found is None else [fp8.FP8(found[0], found[1])]
        self.bias_N = bias_N
        codes = [weight.codes for weight in self.weights]
        self.has_few = all(fp8.writes_codes(part) and byte_product.takes(part) for part in codes)

    def __call__(self, x_TK: Tensor) -> Tensor:
        codes_TK, scale_T = fp8.quantise_rows(x_TK)
        multiply = self._few if self.has_few and len(x_TK) <= MOST_FP8_ROWS else fp8.product
        if len(self.weights) == 1:
            return multiply(codes_TK, scale_T, self.weights[0], bias_N=self.bias_N, dtype=x_TK.dtype)
        parts = [multiply(codes_TK, scale_T, weight, dtype=x_TK.dtype) for weight in self.weights]
        out_TN = torch.cat(parts, dim=-1)
        return out_TN if self.bias_N is None else out_TN.add_(self.bias_N)

    @staticmethod
    def _few(
        codes_TK: Tensor, scale_T: Tensor, weight: fp8.FP8, *, bias_N: Tensor | None = None, dtype: torch.dtype
    ) -> Tensor:
        return byte_product.product(codes_TK, weight.codes, weight.scale, bias_N, scale_B=scale_T, dtype=dtype)


def _nf4(layers: Sequence[QuantizedLinear], *, may_move: bool) -> FewRows | None:
    weights = [layer.packed for layer in layers if isinstance(layer, NF4Linear)]
    whole = nf4_product.below_one_another(weights)
    if whole is None and may_move and len(weights) > 1:
        moved = nf4_product.moved(weights)
        whole = nf4_product.below_one_another(moved)
        if whole is not None:
            for layer, packed in zip(layers, moved, strict=True):
                assert isinstance(layer, NF4Linear), "layers of one kind"
                layer.packed = packed
    if whole is not None:
        return lambda x_TK, bias_N: nf4_product.product(x_TK, whole, bias_N)
    apart = [nf4_product.below_one_another([weight]) for weight in weights]
    each = [rows for rows in apart if rows is not None]
    if len(each) < len(weights):
        return None

    def multiply(x_TK: Tensor, bias_N: Tensor | None) -> Tensor:
        out_TN = torch.cat([nf4_product.product(x_TK, rows) for rows in each], dim=-1)
        return out_TN if bias_N is None else out_TN.add_(bias_N)

    return multiply


def _int8(layers: Sequence[QuantizedLinear], *, may_move: bool) -> FewRows | None:
    found = _bytes(layers, may_move=may_move)
    if found is None or not byte_product.takes(found[0]):
        return None
    codes_NK, scale_N = found
    return lambda x_TK, bias_N: byte_product.product(x_TK, codes_NK, scale_N, bias_N)


def _bytes(layers: Sequence[QuantizedLinear], *, may_move: bool) -> tuple[Tensor, Tensor] | None:
    """(codes_NK, scale_N) of layers with one byte an element."""
    own = [layer for layer in layers if isinstance(layer, Int8Linear | FP8Linear)]

    def found() -> tuple[Tensor, Tensor] | None:
        codes, scale = adjoined([layer.codes for layer in own]), adjoined([layer.packed.scale for layer in own])
        return None if codes is None or scale is None else (codes, scale)

    if (there := found()) is not None or not may_move:
        return there
    codes = moved_together([layer.codes for layer in own])
    scales = moved_together([layer.packed.scale for layer in own])
    for layer, codes_NK, scale_N in zip(own, codes, scales, strict=True):
        layer.packed = replace(layer.packed, codes=codes_NK, scale=scale_N)
    return found()
