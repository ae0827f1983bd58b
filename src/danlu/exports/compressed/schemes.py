"""FP8 and INT8 by row: each output row of a weight has one scale, each token's inputs one of their own when it runs.

Nothing is searched for and no data is needed: the scale is the row's largest value over the largest code. `fp8` is
E4M3 (1 sign, 4 exponent, 3 mantissa bits; Micikevicius et al. 2022, arXiv:2209.05433).

Shapes: N output rows, D input columns; inputs are [..., D].
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danlu.exports.structure import TYPES, UNCODED, Layout
from danlu.model.shards import Entry

SchemeName = Literal["fp8", "int8"]
SCALE = "_scale"
"""Behind the name of the weight that it belongs to."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Scheme:
    """`largest` is the largest code; inputs are scaled by their largest value over `input_largest`, as the reader has
    it."""

    name: SchemeName
    format: str
    type: str
    dtype: torch.dtype
    largest: float
    input_largest: float

    def codes(self, weight_ND: Tensor, scale_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(codes_ND, scale_N1). Codes are chosen with the scale as it is stored."""
        wide = weight_ND.float()
        scale = (wide.abs().amax(1, keepdim=True) / self.largest).clamp_min(_TINY).to(scale_dtype)
        return self._coded(wide / scale.float()), scale

    def values(self, codes_ND: Tensor, scale_N1: Tensor) -> Tensor:
        return codes_ND.float() * scale_N1.float()

    def inputs(self, x: Tensor) -> Tensor:
        """What enters a product when the model runs: rounded, token by token."""
        scale = (x.float().abs().amax(-1, keepdim=True) / self.input_largest).clamp_min(_TINY)
        return (self._coded(x.float() / scale).float() * scale).to(x.dtype)

    def spacing(self, weight_ND: Tensor) -> Tensor:
        """How far apart the numbers lie that a row can hold, around each of its values."""
        scale = (weight_ND.float().abs().amax(1, keepdim=True) / self.largest).clamp_min(_TINY)
        if self.dtype == torch.int8:
            return scale.expand(weight_ND.shape)
        # E4M3: 2^-3 of a number's own power of two, and 2^-9 below the smallest of those
        exponent = torch.frexp((weight_ND.float() / scale).abs().clamp_min(2.0**-6)).exponent - 1
        return torch.ldexp(scale.expand(weight_ND.shape), exponent - 3)

    def _coded(self, values: Tensor) -> Tensor:
        if self.dtype == torch.int8:
            return values.round().clamp(-128, 127).to(torch.int8)
        return values.clamp(-self.largest, self.largest).to(self.dtype)

    def layout(self, name: str, shape_ND: tuple[int, ...], kept: torch.dtype) -> Layout:
        """What a weight lies as in the files."""
        return {name: Entry(TYPES[self.dtype], shape_ND), name + SCALE: Entry(TYPES[kept], (shape_ND[0], 1))}

    def header(self) -> dict[str, Any]:
        """The checkpoint's `quantization_config`."""
        shared = {"num_bits": 8, "type": self.type, "symmetric": True, "group_size": None, "block_structure": None}
        group = {
            "targets": ["Linear"],
            "weights": shared | {"strategy": "channel", "dynamic": False},
            "input_activations": shared | {"strategy": "token", "dynamic": True},
            "output_activations": None,
        }
        return {
            "quant_method": "compressed-tensors", "format": self.format, "quantization_status": "compressed",
            "config_groups": {"group_0": group}, "ignore": list(UNCODED), "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }  # fmt: skip


SCHEMES: Mapping[str, Scheme] = {
    "fp8": Scheme("fp8", "float-quantized", "float", torch.float8_e4m3fn, 448.0, 448.0),
    "int8": Scheme("int8", "int-quantized", "int", torch.int8, 127.0, 127.5),
}


@contextlib.contextmanager
def rounding_inputs(model: nn.Module, scheme: Scheme, names: set[str]) -> Iterator[None]:
    """Inside the block what enters the layers of these names is rounded first."""

    def before(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (scheme.inputs(given[0]), *given[1:])

    hooks = [layer.register_forward_pre_hook(before) for name, layer in model.named_modules() if name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
