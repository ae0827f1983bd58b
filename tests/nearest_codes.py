"""Four-bit codes nearest to a model's weights, by a packer written once more from the formats' own words (AutoAWQ's
`gemm`, AutoGPTQ's version 1): what our decoder is tried on, and what stands in for auto-round where it would take hours.

Shapes: N output rows, D input columns, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.core.files import write_json
from danlu.exports.calibrated.schemes import Scheme
from danlu.exports.calibrated.write import kept_dtype
from danlu.exports.compressed.write import write_shards
from danlu.exports.structure import coded_weights, config_of
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.weights import fuse

AWQ_PLACES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which code stands where in a word."""
Tensors = dict[str, Tensor]


def write_nearest(model: Model, folder: Path, scheme: Scheme, group: int) -> None:
    """config.json and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shards(_tensors(model, scheme, group), folder)
    write_json(folder / "config.json", config_of(model, kept_dtype(model), scheme.header(group)))


def _tensors(model: Model, scheme: Scheme, group: int) -> Iterator[tuple[str, Tensor]]:
    layers, whole = coded_weights(model), {name: weight.detach() for name, weight in model.named_parameters()}
    for name, weight in fuse(whole, family_of(model.config)).items():
        if name in layers:
            for part, tensor in coded(weight, scheme, group).items():
                yield f"{name.removesuffix('weight')}{part}", tensor
        else:
            yield name, weight.to(kept_dtype(model)).contiguous()


def coded(weight_ND: Tensor, scheme: Scheme, group: int) -> Tensors:
    """A layer's parts."""
    num_out, num_in = weight_ND.shape
    groups = weight_ND.float().reshape(num_out, -1, group)
    if scheme.is_symmetric:
        scale = groups.abs().amax(-1, keepdim=True) / 7.5
        zero = torch.full_like(scale, 8.0)
    else:
        low, high = groups.amin(-1, keepdim=True).clamp_max(0.0), groups.amax(-1, keepdim=True).clamp_min(0.0)
        scale = (high - low) / 15
        zero = (-low / scale.clamp_min(1e-8)).round().clamp(0, 15)
    scale = scale.clamp_min(1e-7).half()
    codes = (groups / scale.float() + zero).round().clamp(0, 15).reshape(num_out, num_in).T.long()
    return pack(codes, zero[..., 0].T.long(), scale[..., 0].T.contiguous(), scheme.name)


def pack(codes_DN: Tensor, zeros_GN: Tensor, scales_GN: Tensor, name: str) -> Tensors:
    if name == "awq":
        words = {"qweight": words_of(codes_DN, AWQ_PLACES), "qzeros": words_of(zeros_GN, AWQ_PLACES)}
        return words | {"scales": scales_GN}
    group = len(codes_DN) // len(zeros_GN)
    return {
        "qweight": words_of(codes_DN.T, range(8)).T.contiguous(), "qzeros": words_of(zeros_GN - 1, range(8)),
        "scales": scales_GN, "g_idx": torch.arange(len(codes_DN), dtype=torch.int32) // group,
    }  # fmt: skip


def words_of(codes: Tensor, places: Any) -> Tensor:
    """[A, 8 B] codes to [A, B] words; `places` says which code stands where, the lowest four bits first."""
    eights = codes.reshape(len(codes), -1, 8)[:, :, list(places)] & 15
    words = (eights << torch.arange(0, 32, 4)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
