"""What the codes of both formats stand for, by our own reading of them.

A code is four bits; a group of input columns shares a scale and a zero for each output row, and a weight is
(code - zero) · scale. Eight codes lie in a word of 32 bits. AWQ packs along the outputs, in the order 0 2 4 6 1 3 5 7
(Lin et al. 2023, arXiv:2306.00978, as AutoAWQ's `gemm` version stores it). GPTQ packs along the inputs, keeps zeros
less one, and names each input's group in `g_idx` (Frantar et al. 2022, arXiv:2210.17323, as AutoGPTQ's version 1
stores it).

Shapes: N output rows, D input columns, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from danlu.exports.structure import TYPES, UNCODED, Layout
from danlu.model.shards import Entry

Name = Literal["awq", "gptq"]
PARTS = ("qweight", "qzeros", "scales", "g_idx")
GROUPS = (128, 64, 32)
"""Sizes that readers take, the usual one first."""
BITS = 4
NUM_STEPS = (1 << BITS) - 1
_AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where the codes of a word belong."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """`format` is what auto-round calls it. `is_symmetric`: zeros are all 8."""

    name: Name
    format: str
    is_symmetric: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """What a layer's codes need to stand for anything."""
        return PARTS if self.name == "gptq" else PARTS[:3]

    def values(self, parts: Mapping[str, Tensor]) -> Tensor:
        """weight_ND in fp32 of a layer's parts."""
        scales_GN = parts["scales"].float()
        if self.name == "awq":
            codes_DN, zeros_GN = _in_order(_unpacked(parts["qweight"])), _in_order(_unpacked(parts["qzeros"]))
            group_D = torch.arange(len(codes_DN)) // (len(codes_DN) // len(scales_GN))
        else:
            codes_DN, zeros_GN = _unpacked(parts["qweight"].T).T, _unpacked(parts["qzeros"]) + 1
            group_D = parts["g_idx"].long()
        return ((codes_DN - zeros_GN[group_D]) * scales_GN[group_D]).T.contiguous()

    def layout(self, name: str, shape_ND: tuple[int, ...], group: int) -> Layout:
        """What a weight lies as in the files."""
        num_out, num_in = shape_ND
        stem, word, half = name.removesuffix("weight"), TYPES[torch.int32], TYPES[torch.float16]
        is_along_outputs = self.name == "awq"
        layout = {
            stem + "qweight": Entry(word, (num_in, num_out // 8) if is_along_outputs else (num_in // 8, num_out)),
            stem + "qzeros": Entry(word, (num_in // group, num_out // 8)),
            stem + "scales": Entry(half, (num_in // group, num_out)),
        }
        return layout if is_along_outputs else layout | {stem + "g_idx": Entry(word, (num_in,))}

    def header(self, group: int) -> dict[str, Any]:
        """The checkpoint's `quantization_config`: what readers ask of the format, each field said once."""
        shared = {
            "quant_method": self.name, "bits": BITS, "group_size": group, "sym": self.is_symmetric, "data_type": "int",
        }  # fmt: skip
        if self.name == "awq":
            return shared | {"version": "gemm", "zero_point": True, "modules_to_not_convert": list(UNCODED)}
        return shared | {"checkpoint_format": "gptq", "desc_act": False, "lm_head": False}

    def spacing(self, weight_ND: Tensor, group: int) -> Tensor:
        """How far apart the numbers lie that a group can hold, rounded to nearest."""
        groups = weight_ND.float().reshape(len(weight_ND), -1, group)
        if self.is_symmetric:
            span = 2 * groups.abs().amax(-1, keepdim=True)
        else:
            span = groups.amax(-1, keepdim=True).clamp_min(0.0) - groups.amin(-1, keepdim=True).clamp_max(0.0)
        return (span / NUM_STEPS).expand(groups.shape).reshape(weight_ND.shape)


SCHEMES: Mapping[str, Scheme] = {
    "awq": Scheme("awq", "auto_awq", is_symmetric=False),
    "gptq": Scheme("gptq", "auto_gptq", is_symmetric=True),
}


def group_of(widths: set[int]) -> int | None:
    """The largest group that divides every width; None where there is none."""
    return next((size for size in GROUPS if not any(width % size for width in widths)), None)


def _unpacked(words: Tensor) -> Tensor:
    """[A, B] words to [A, 8 B] codes, the lowest four bits first."""
    return ((words[:, :, None] >> torch.arange(0, 32, 4)) & 15).reshape(len(words), -1)


def _in_order(codes: Tensor) -> Tensor:
    return codes.reshape(len(codes), -1, 8)[:, :, list(_AWQ_ORDER)].reshape(len(codes), -1)
