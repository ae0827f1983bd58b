"""Checkpoints that bitsandbytes has quantised to NF4, as `…-bnb-4bit` repositories hold them.

Beside the codes `X.weight` (bytes, two elements each) lie `X.weight.absmax`, `.quant_map`, with double quantisation
`.nested_absmax` and `.nested_quant_map`, and JSON as bytes in `.quant_state.bitsandbytes__nf4`: shape, block sizes, the
nested scales' offset. Layers that were left out have an ordinary `X.weight`. FP4 and LLM.int8() are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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
MOST_STATE_BYTES = 4096
"""Of the JSON; bitsandbytes writes two hundred."""
BLOCKS, NESTED_BLOCKS = (64, 4096), (1, 4096)
"""From the least to the largest, powers of two."""
STORAGE = (torch.uint8, torch.int8, torch.float16, torch.bfloat16, torch.float32)
"""What codes may be dressed as (`bnb_4bit_quant_storage`)."""
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def check_config(settings: Any, where: str) -> None:
    """ModelError unless a config.json's `quantization_config` tells of NF4 codes."""
    if not isinstance(settings, dict):
        given = json.dumps(settings)[:60]
        raise ModelError("model.quantized", where=where, tensor="quantization_config", dtype=given)
    method = settings.get("quant_method", "?")
    if method != "bitsandbytes":
        raise ModelError("model.quantized", where=where, tensor="quantization_config", dtype=method)
    if settings.get("load_in_8bit") or settings.get("_load_in_8bit"):
        raise ModelError("model.quantized_bnb", where=where, given="LLM.int8() (load_in_8bit)")
    kind = settings.get("bnb_4bit_quant_type", "fp4")  # bitsandbytes' own default
    if kind != "nf4":
        raise ModelError("model.quantized_bnb", where=where, given=kind)


def read_packed(name: str, read: Callable[[str], Tensor | None], where: Path) -> NF4:
    """The NF4 weight called `name`. `read` gives a stored tensor, or None where there is none."""

    def need(part: str, dtypes: tuple[torch.dtype, ...]) -> Tensor:
        tensor = read(name + part)
        if tensor is None:
            raise ModelError("model.quantized_incomplete", where=str(where), tensor=name, missing=part)
        if tensor.dtype not in dtypes or not tensor.ndim:
            why = f"{name}{part}: {str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"
            raise ModelError("model.corrupt", where=str(where), why=why)
        return tensor.reshape(-1)

    state = _state(need(STATE, (torch.uint8,)), where, name)
    values = need(".quant_map", FLOATS).float()
    if values.shape != (16,) or not torch.allclose(values, torch.tensor(VALUES), atol=1e-6, rtol=0):
        raise ModelError("model.quantized_bnb", where=str(where), given=f"{name}: quant_map")
    codes = need("", STORAGE).view(torch.uint8)
    if state.nested_block is not None:
        offset, block = torch.tensor(state.offset), state.nested_block
        nested_scale, levels = need(".nested_absmax", FLOATS).float(), need(".nested_quant_map", FLOATS).float()
        absmax: Tensor | Nested = Nested(need(".absmax", (torch.uint8,)), nested_scale, levels, offset, block)
    else:
        absmax = need(".absmax", FLOATS).float()
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
        if len(raw) > MOST_STATE_BYTES:
            raise ValueError(f"{len(raw)} bytes")
        told = json.loads(bytes(raw.tolist()))
        if told["quant_type"] != "nf4":
            raise ModelError("model.quantized_bnb", where=str(where), given=f"{name}: {told['quant_type']!r:.60}")
        num_rows, num_columns = (_size("shape", size) for size in told["shape"])
        block = _block("blocksize", told["blocksize"], BLOCKS)
        if "nested_blocksize" not in told:
            return _State((num_rows, num_columns), block, None, 0.0)
        nested_block = _block("nested_blocksize", told["nested_blocksize"], NESTED_BLOCKS)
        return _State((num_rows, num_columns), block, nested_block, _offset(told["nested_offset"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("model.corrupt", where=str(where), why=f"{name}{STATE}: {str(error)[:200]}") from error


def _size(key: str, told: object) -> int:
    if type(told) is not int or told < 1:  # True is an int too
        raise ValueError(f"{key} {told!r:.40}")
    return told


def _block(key: str, told: object, bounds: tuple[int, int]) -> int:
    size = _size(key, told)
    if not bounds[0] <= size <= bounds[1] or size & (size - 1):
        raise ValueError(f"{key} {size}: not a power of two from {bounds[0]} to {bounds[1]}")
    return size


def _offset(told: object) -> float:
    offset = float(told) if type(told) in (int, float) else math.nan  # type: ignore[arg-type]
    if not abs(offset) <= torch.finfo(torch.float32).max:
        raise ValueError(f"nested_offset {told!r:.40}")
    return offset


def _check_sizes(weight: NF4, where: Path, name: str) -> None:
    num = weight.shape[0] * weight.shape[1]
    num_blocks = -(-num // weight.block)
    nested = weight.absmax
    is_right = len(weight.codes) == -(-num // 2)
    if isinstance(nested, Nested):
        is_right &= len(nested.codes) == num_blocks and len(nested.scale) == -(-num_blocks // nested.block)
        is_right &= len(nested.levels) == 256
    else:
        is_right &= len(nested) == num_blocks
    if not is_right:
        raise ModelError("model.corrupt", where=str(where), why=f"{name}: sizes do not fit the shape {weight.shape}")
