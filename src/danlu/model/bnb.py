"""Checkpoints that bitsandbytes has quantised to NF4, as `…-bnb-4bit` repositories hold them.

Beside the codes `X.weight` (bytes, two elements each) lie `X.weight.absmax`, `.quant_map`, with double quantisation
`.nested_absmax` and `.nested_quant_map`, and JSON as bytes in `.quant_state.bitsandbytes__nf4`: shape, block sizes, the
nested scales' offset. Layers that were left out have an ordinary `X.weight`. FP4 and LLM.int8() are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import ModelError
from danlu.ops.nf4 import NF4, VALUES, Nested

STATE = ".quant_state.bitsandbytes__nf4"
FOREIGN_STATE = ".quant_state.bitsandbytes__fp4"
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE, FOREIGN_STATE)


def check_config(settings: Mapping[str, Any], where: str) -> None:
    """ModelError unless a config.json's `quantization_config` tells of NF4 codes."""
    method = settings.get("quant_method", "?")
    if method != "bitsandbytes":
        raise ModelError("model.quantized", where=where, tensor="quantization_config", dtype=method)
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        raise ModelError("model.quantized_bnb", where=where, given="LLM.int8() (load_in_8bit)")
    kind = settings.get("bnb_4bit_quant_type", "fp4")  # bitsandbytes' own default
    if kind != "nf4":
        raise ModelError("model.quantized_bnb", where=where, given=kind)


def is_part(name: str) -> bool:
    """A tensor that describes another one's codes."""
    return name.endswith(PARTS)


def read_packed(name: str, read: Callable[[str], Tensor | None], where: Path) -> NF4:
    """The NF4 weight called `name`. `read` gives a stored tensor, or None where there is none."""

    def need(part: str) -> Tensor:
        tensor = read(name + part)
        if tensor is None:
            raise ModelError("model.quantized_incomplete", where=str(where), tensor=name, missing=part)
        return tensor

    state = _state(need(STATE), where, name)
    values = need(".quant_map").float()
    if values.shape != (16,) or not torch.allclose(values, torch.tensor(VALUES), atol=1e-6, rtol=0):
        raise ModelError("model.quantized_bnb", where=str(where), given=f"{name}: quant_map")
    codes = need("").view(torch.uint8).reshape(-1)
    scales = need(".absmax").reshape(-1)
    if state.nested_block is not None:
        offset, block = torch.tensor(state.offset), state.nested_block
        nested_scale, levels = need(".nested_absmax").float(), need(".nested_quant_map").float()
        absmax: Tensor | Nested = Nested(scales, nested_scale, levels, offset, block)
    else:
        absmax = scales.float()
    weight = NF4(codes, absmax, state.shape, state.block)
    _check_sizes(weight, where, name)
    return weight


@dataclass(frozen=True, slots=True)
class _State:
    shape: tuple[int, int]
    block: int
    nested_block: int | None
    offset: float


def _state(raw: Tensor, where: Path, name: str) -> _State:
    try:
        told = json.loads(bytes(raw.tolist()))
        if told["quant_type"] != "nf4":
            raise ModelError("model.quantized_bnb", where=str(where), given=f"{name}: {told['quant_type']}")
        num_rows, num_columns = (int(size) for size in told["shape"])
        nested_block = int(told["nested_blocksize"]) if "nested_blocksize" in told else None
        offset = float(told["nested_offset"]) if nested_block else 0.0
        return _State((num_rows, num_columns), int(told["blocksize"]), nested_block, offset)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("model.corrupt", where=str(where), why=f"{name}{STATE}: {error}") from error


def _check_sizes(weight: NF4, where: Path, name: str) -> None:
    num = weight.shape[0] * weight.shape[1]
    num_blocks = -(-num // max(weight.block, 1))
    nested = weight.absmax
    is_right = len(weight.codes) == -(-num // 2) and weight.block >= 32 and weight.block & (weight.block - 1) == 0
    if isinstance(nested, Nested):
        is_right &= len(nested.codes) == num_blocks and len(nested.scale) == -(-num_blocks // max(nested.block, 1))
        is_right &= len(nested.levels) == 256 and nested.codes.dtype == torch.uint8
    else:
        is_right &= len(nested) == num_blocks
    if not is_right:
        raise ModelError("model.corrupt", where=str(where), why=f"{name}: sizes do not fit the shape {weight.shape}")
