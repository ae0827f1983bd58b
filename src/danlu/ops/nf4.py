"""NF4: four-bit weights with one scale per 64 (Dettmers et al. 2023, arXiv:2305.14314), laid out as bitsandbytes does.

Elements of a weight [N, K] are taken row after row; a block of 64 shares `absmax`, and each element becomes the nearest
of 16 values between -1 and 1, the first of two in the high half of a byte. Double quantisation: `absmax` minus its mean
is itself stored in 8 bits of the dynamic map (Dettmers 2015, arXiv:1511.04561), 256 to an fp32 scale. What is
dequantised here equals what bitsandbytes dequantises, bit for bit. Not covered: FP4, products on packed codes.

Shapes: N output channels, K input channels, B blocks, S blocks of blocks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, tl, triton

BLOCK, NESTED_BLOCK = 64, 256
VALUES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The paper's appendix E: quantiles of a normal distribution, scaled to [-1, 1], with an exact zero."""
CHUNK = 2**24
"""Elements that are quantised at a time, so that fp32 copies stay small; a multiple of both blocks' product."""


@dataclass(frozen=True, slots=True)
class Nested:
    """absmax_B in 8 bits: `levels[codes] * scale + offset` with codes [B], and one scale of [S] per `block` codes."""

    codes: Tensor
    scale: Tensor
    levels: Tensor
    offset: Tensor
    block: int = NESTED_BLOCK


@dataclass(frozen=True, slots=True)
class NF4:
    """A weight [N, K]: two elements to a byte, and per block of them the largest magnitude, in fp32 or nested."""

    codes: Tensor
    absmax: Tensor | Nested
    shape: tuple[int, int]
    block: int = BLOCK

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> tuple[Tensor, ...]:
        nested = self.absmax
        if isinstance(nested, Tensor):
            return self.codes, nested
        return self.codes, nested.codes, nested.scale, nested.levels, nested.offset

    def to(self, device: torch.device | str) -> NF4:
        """A copy there."""
        nested = self.absmax
        if isinstance(nested, Nested):
            absmax: Tensor | Nested = Nested(
                nested.codes.to(device, copy=True), nested.scale.to(device, copy=True),
                nested.levels.to(device, copy=True), nested.offset.to(device, copy=True), nested.block,
            )  # fmt: skip
        else:
            absmax = nested.to(device, copy=True)
        return replace(self, codes=self.codes.to(device, copy=True), absmax=absmax)


# ---- in


def quantise(weight_NK: Tensor, *, is_double: bool = True) -> NF4:
    """Codes of a weight in any float dtype. The scale enters as a reciprocal, as in bitsandbytes."""
    num_rows, num_columns = weight_NK.shape
    flat = weight_NK.reshape(-1)
    codes, absmax = [], []
    for part in torch.split(flat, CHUNK):
        packed, largest = _quantise_part(part.float())
        codes.append(packed)
        absmax.append(largest)
    absmax_B = torch.cat(absmax)
    return NF4(torch.cat(codes), nest(absmax_B) if is_double else absmax_B, (num_rows, num_columns))


def _quantise_part(wide: Tensor) -> tuple[Tensor, Tensor]:
    blocks = torch.nn.functional.pad(wide, (0, -len(wide) % BLOCK)).view(-1, BLOCK)
    absmax_B = blocks.abs().amax(-1)
    scaled = (blocks * absmax_B.clamp_min(1e-38).reciprocal()[:, None]).clamp_(-1, 1).view(-1)
    values = values_on(wide.device)
    halves = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2, out_int32=True).to(torch.uint8)
    halves = halves[: len(wide) + len(wide) % 2]  # an odd last element is followed by the code of a padded zero
    return (halves[::2] << 4) | halves[1::2], absmax_B


def nest(absmax_B: Tensor) -> Nested:
    """Double quantisation of the scales."""
    offset = absmax_B.mean()
    centred = absmax_B - offset
    blocks = torch.nn.functional.pad(centred, (0, -len(centred) % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    scale_S = blocks.abs().amax(-1)
    scaled = (blocks * scale_S.clamp_min(1e-38).reciprocal()[:, None]).clamp_(-1, 1).view(-1)[: len(centred)]
    levels = dynamic_levels(absmax_B.device)
    codes_B = torch.bucketize(scaled, (levels[1:] + levels[:-1]) / 2, out_int32=True).to(torch.uint8)
    return Nested(codes_B, scale_S, levels, offset)


@functools.cache
def dynamic_levels(device: torch.device) -> Tensor:
    """The 256 values of the signed dynamic map, ascending: seven decades with 1, 2, 4 … 64 steps each way, 0 and 1."""
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        steps = 10 ** (decade - 6) * ((edges[1:] + edges[:-1]) / 2)
        levels += steps.tolist() + (-steps).tolist()
    return torch.tensor(sorted(levels), dtype=torch.float32, device=device)


@functools.cache
def values_on(device: torch.device) -> Tensor:
    return torch.tensor(VALUES, dtype=torch.float32, device=device)


@functools.cache
def _pairs(device: torch.device) -> Tensor:
    """[256, 2]: what each byte stands for."""
    byte = torch.arange(256, device=device)
    return values_on(device)[torch.stack([byte >> 4, byte & 15], dim=-1)]


# ---- out


def dequantise(weight: NF4, out_NK: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The weight in `out_NK` (its dtype rules; rows may be the leading columns of a wider buffer), else anew in
    `dtype`. Values are multiplied in fp32 and rounded once."""
    if out_NK is None:
        out_NK = torch.empty(weight.shape, dtype=dtype, device=weight.codes.device)
    assert tuple(out_NK.shape) == weight.shape and out_NK.stride(1) == 1, "rows of the weight's width, last dim dense"
    if fits(weight.codes, out_NK):
        _launch(weight, out_NK)
        return out_NK
    return out_NK.copy_(reference_dequantise(weight))


def reference_dequantise(weight: NF4) -> Tensor:
    """[N, K] in fp32."""
    num = weight.shape[0] * weight.shape[1]
    values = _pairs(weight.codes.device).index_select(0, weight.codes.int()).view(-1)[:num]
    blocks = torch.nn.functional.pad(values, (0, -num % weight.block)).view(-1, weight.block)
    return (blocks * absmax_of(weight)[:, None]).view(-1)[:num].view(weight.shape)


def absmax_of(weight: NF4) -> Tensor:
    """absmax_B in fp32, whether it is nested or not."""
    nested = weight.absmax
    if isinstance(nested, Tensor):
        return nested
    levels_B = nested.levels.index_select(0, nested.codes.int())
    return levels_B * nested.scale.repeat_interleave(nested.block)[: len(levels_B)] + nested.offset


def rows_of(weight: NF4, sizes: list[int]) -> list[NF4]:
    """A weight cut along its rows, as one that holds several stacked is. Nested scales become fp32 (4 bytes per block
    instead of one): the same values. A cut must fall between two blocks."""
    num_columns = weight.shape[1]
    absmax_B, parts, start = absmax_of(weight), [], 0
    for size in sizes:
        end = start + size * num_columns
        assert start % weight.block == 0 and end % 2 == 0, "a cut falls between two blocks"
        codes = weight.codes[start // 2 : end // 2].clone()
        absmax = absmax_B[start // weight.block : -(-end // weight.block)].clone()
        parts.append(NF4(codes, absmax, (size, num_columns), weight.block))
        start = end
    return parts


# ---- Triton


def _launch(weight: NF4, out_NK: Tensor) -> None:
    num_rows, num_columns = weight.shape
    num_blocks = -(-num_rows * num_columns // weight.block)
    nested = weight.absmax
    is_nested = isinstance(nested, Nested)
    absmax, scale, levels, offset, per_scale = (
        (nested.codes, nested.scale, nested.levels, nested.offset, nested.block)
        if isinstance(nested, Nested)
        else (nested, nested, nested, nested, 1)
    )
    blocks = 4096 // weight.block
    _dequantise_kernel[(triton.cdiv(num_blocks, blocks),)](
        weight.codes, absmax, scale, levels, offset, values_on(out_NK.device), out_NK,
        num_rows * num_columns, len(weight.codes), num_columns, out_NK.stride(0),
        PER_SCALE=per_scale, IS_NESTED=is_nested, IS_EVEN=num_columns % weight.block == 0,
        HALF=weight.block // 2, BLOCKS=blocks,
        num_warps=4, enable_fp_fusion=False,  # a fused multiply-add would round the scale once instead of twice
    )  # fmt: skip


@jit
def _dequantise_kernel(  # type: ignore[no-untyped-def]
    codes, absmax, scale, levels, offset, values, out,
    num_elements, num_bytes, num_columns, out_stride,
    PER_SCALE: tl.constexpr, IS_NESTED: tl.constexpr, IS_EVEN: tl.constexpr, HALF: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of scales each; IS_EVEN: no block lies in two rows."""
    first = tl.program_id(0).to(tl.int64) * BLOCKS
    block_B = first + tl.arange(0, BLOCKS)
    is_there_B = block_B * (2 * HALF) < num_elements
    if IS_NESTED:
        level_B = tl.load(levels + tl.load(absmax + block_B, mask=is_there_B, other=0).to(tl.int32))
        absmax_B = level_B * tl.load(scale + block_B // PER_SCALE, mask=is_there_B, other=0.0) + tl.load(offset)
    else:
        absmax_B = tl.load(absmax + block_B, mask=is_there_B, other=0.0)
    byte_BH = tl.arange(0, BLOCKS)[:, None] * HALF + tl.arange(0, HALF)[None, :]
    element_BE = tl.arange(0, BLOCKS)[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    num_left = num_elements - first * (2 * HALF)
    # A bound in bytes, not in elements: the compiler sees that whole words lie within it.
    num_bytes_left = num_bytes - first * HALF
    packed_BH = tl.load(codes + first * HALF + byte_BH, mask=byte_BH < num_bytes_left, other=0).to(tl.int32)
    high_BH = tl.load(values + (packed_BH >> 4)) * absmax_B[:, None]
    low_BH = tl.load(values + (packed_BH & 15)) * absmax_B[:, None]
    both_BE = tl.join(high_BH, low_BH).reshape(BLOCKS, 2 * HALF).to(out.dtype.element_ty)
    if IS_EVEN:
        per_row = num_columns // (2 * HALF)
        start_B = block_B // per_row * out_stride + block_B % per_row * (2 * HALF)
        place_BE = start_B[:, None] + tl.arange(0, 2 * HALF)[None, :]
    else:
        place_BE = (first * (2 * HALF) + element_BE) // num_columns * out_stride
        place_BE += (first * (2 * HALF) + element_BE) % num_columns
    tl.store(out + place_BE, both_BE, mask=element_BE < num_left)
