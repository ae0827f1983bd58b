"""FP8 products with a scale per row: e4m3 codes of activations and of a frozen weight, both ways.

A weight is quantised once, one scale per output channel; an activation each time, one scale per token. The product is
`torch._scaled_mm`. Backward contracts over output channels, whose scales cannot leave that sum: they are folded into
the incoming gradient before its own quantisation, so one set of codes serves both directions (`quantise_rows(grad,
columns=weight.columns)`). Hopper multiplies only operands that are dense along the sum, so backward reads the codes
turned: kept beside them, or made each time. Where a device has no such product its arithmetic is emulated in fp32.
What quantises inside the ops that produce the rows stands in `fp8_rows.py`. Not covered: gradients of the weight.

Formats: e4m3 of Micikevicius et al. 2022, arXiv:2209.05433: largest 448, 3 bits of mantissa.
Shapes: T tokens, N output channels, K input channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, power_of_2, tl

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
SMALLEST_AMAX = 1e-30
"""A row of zeros has a scale too; the reciprocal of this is far from overflowing."""
WIDEST_TILE = 4096
ROWS_AT_A_TIME = 4096


@dataclass(frozen=True, slots=True)
class FP8:
    """codes [N, K] · scale [N, 1] is the weight. Scales are powers of two: exact in any float dtype, and multiplying by
    them rounds nothing. `turned` [K, N] is the same codes dense along N, if they are kept."""

    codes: Tensor
    scale: Tensor
    turned: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        num_rows, num_columns = self.codes.shape
        return num_rows, num_columns

    @property
    def columns(self) -> Tensor:
        """What backward folds into the gradient, at half the bytes of fp32."""
        return self.scale.to(torch.bfloat16)

    @property
    def num_bytes(self) -> int:
        turned = 0 if self.turned is None else self.turned.nbytes
        return self.codes.nbytes + self.scale.nbytes + turned

    def to(self, device: torch.device | str) -> FP8:
        turned = None if self.turned is None else self.turned.to(device)
        return FP8(self.codes.to(device), self.scale.to(device), turned)


def quantise(weight_NK: Tensor) -> FP8:
    """Codes of a weight in any float dtype, some rows at a time."""
    codes_NK = torch.empty(weight_NK.shape, dtype=E4M3, device=weight_NK.device)
    scale_N = torch.empty(len(weight_NK), device=weight_NK.device)
    for start in range(0, len(weight_NK), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        wide = weight_NK[part].float()
        fraction, exponent = torch.frexp(wide.abs().amax(-1).clamp_min(SMALLEST_AMAX) / LARGEST)
        scale_N[part] = torch.ldexp(torch.ones_like(fraction), exponent - (fraction == 0.5).to(exponent.dtype))
        codes_NK[part] = (wide / scale_N[part, None]).to(E4M3)
    return FP8(codes_NK, scale_N)


def dequantise(weight: FP8, out_NK: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The weight in `out_NK` (its dtype rules; rows may be the leading columns of a wider buffer), else anew in
    `dtype`. Exact: four significant bits and a power of two."""
    if out_NK is None:
        out_NK = torch.empty(weight.shape, dtype=dtype, device=weight.codes.device)
    return out_NK.copy_(weight.codes).mul_(weight.scale[:, None].to(out_NK.dtype))


def turn(codes_NK: Tensor) -> Tensor:
    """codes_KN, dense along N."""
    return codes_NK.view(torch.uint8).t().contiguous().view(E4M3)


def with_turned(weight: FP8) -> FP8:
    """The weight with its codes kept both ways: twice the bytes, no turning at each backward."""
    return weight if weight.turned is not None else replace(weight, turned=turn(weight.codes))


def stack(weights: Sequence[FP8]) -> FP8:
    """Weights of one width below each other, as one product takes q, k and v."""
    return FP8(
        torch.cat([weight.codes.view(torch.uint8) for weight in weights]).view(E4M3),
        torch.cat([weight.scale for weight in weights]),
    )


def unstack(weight: FP8, sizes: Sequence[int]) -> list[FP8]:
    """Views of a stacked weight's rows."""
    codes, scales = torch.split(weight.codes, list(sizes)), torch.split(weight.scale, list(sizes))
    return [FP8(codes_NK, scale_N) for codes_NK, scale_N in zip(codes, scales, strict=True)]


# ---- products


Way = Literal["rows", "tensor", "emulated"]
"""How a product is taken: with scales inside it; without, and scaled afterwards; in fp32 on the codes' values."""


@functools.cache
def way_on(device: torch.device) -> Way:
    """The best way that the device has. Tiny products are tried: Hopper and data-centre Blackwell take scales by row,
    Ada and consumer Blackwell, depending on torch, only one for the whole tensor, older cards have no fp8."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return "emulated"
    codes, ones = torch.zeros(16, 16, device=device).to(E4M3), torch.ones(16, device=device)
    ways: tuple[Way, ...] = ("rows", "tensor")
    for way in ways:
        try:
            product(codes, ones, FP8(codes, ones), way=way)
        except RuntimeError:  # this build of torch has no such kernel for this card
            continue
        return way
    return "emulated"


def _way(way: Way | None, codes: Tensor, weight: FP8) -> Way:
    """Tensor cores take fp8 operands in sixteens, and at least one row."""
    if any(size % 16 for size in weight.shape) or not len(codes):
        return "emulated"
    return way or way_on(codes.device)


def product(
    codes_TK: Tensor,
    scale_T: Tensor,
    weight: FP8,
    *,
    bias_N: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    way: Way | None = None,
) -> Tensor:
    """out_TN = x Wᵀ + bias. On the device it accumulates in the tensor cores' own, shorter, sums, and the result passes
    through bf16 whatever `dtype` is. `way` None is the device's best."""
    match _way(way, codes_TK, weight):
        case "emulated":
            wide_TN = (codes_TK.float() @ weight.codes.float().t()) * scale_T[:, None] * weight.scale
            return (wide_TN if bias_N is None else wide_TN + bias_N).to(dtype)
        case "rows":
            out_TN = _multiply(codes_TK, weight.codes.t(), scale_T[:, None], weight.scale[None], is_fast=True)
        case "tensor":
            one = _ones(1, codes_TK.device)
            out_TN = _multiply(codes_TK, weight.codes.t(), one, one, is_fast=True)
            out_TN.mul_(scale_T[:, None]).mul_(weight.scale)
    return (out_TN if bias_N is None else out_TN.add_(bias_N)).to(dtype)


def product_back(
    codes_TN: Tensor,
    scale_T: Tensor,
    weight: FP8,
    *,
    dtype: torch.dtype = torch.bfloat16,
    is_fast: bool = False,
    way: Way | None = None,
) -> Tensor:
    """dx_TK of a gradient whose rows were quantised with the weight's channel scales folded in. `is_fast` accumulates
    as forward does."""
    way = _way(way, codes_TN, weight)
    if way == "emulated":
        return ((codes_TN.float() @ weight.codes.float()) * scale_T[:, None]).to(dtype)
    turned_KN = turn(weight.codes) if weight.turned is None else weight.turned
    if way == "rows":
        ones = _ones(weight.shape[1], codes_TN.device)
        out_TK = _multiply(codes_TN, turned_KN.t(), scale_T[:, None], ones[None], is_fast=is_fast)
    else:
        one = _ones(1, codes_TN.device)
        out_TK = _multiply(codes_TN, turned_KN.t(), one, one, is_fast=is_fast).mul_(scale_T[:, None])
    return out_TK.to(dtype)


def _multiply(left: Tensor, right: Tensor, left_scale: Tensor, right_scale: Tensor, *, is_fast: bool) -> Tensor:
    """[T, N] in bf16 of codes [T, K], dense along K, and [K, N], dense along K as well."""
    out: Tensor = torch._scaled_mm(
        left, right, scale_a=left_scale, scale_b=right_scale, out_dtype=torch.bfloat16, use_fast_accum=is_fast
    )
    return out


@functools.lru_cache(maxsize=64)
def _ones(num: int, device: torch.device) -> Tensor:
    return torch.ones(num, device=device)


# ---- rows


def quantise_rows(x_TK: Tensor, *, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(codes_TK, scale_T): x, or x · columns[None] where given, with one scale per row. Rows of x may lie further apart
    than K; codes are dense. What is not a number stays so and spoils its own row."""
    if not writes_codes(x_TK):
        return reference_quantise_rows(x_TK, columns=columns)
    if x_TK.stride(1) != 1:
        x_TK = x_TK.contiguous()
    codes_TK = torch.empty(x_TK.shape, dtype=E4M3, device=x_TK.device)
    scale_T = torch.empty(len(x_TK), device=x_TK.device)
    width = x_TK.shape[1]
    tile = min(power_of_2(width), WIDEST_TILE)
    if len(x_TK):
        _quantise_rows_kernel[(len(x_TK),)](
            x_TK, columns, codes_TK, scale_T, width, x_TK.stride(0),
            HAS_COLUMNS=columns is not None, TILE=tile, num_warps=max(1, tile // 512),
        )  # fmt: skip
    return codes_TK, scale_T


def reference_quantise_rows(x_TK: Tensor, *, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The same in plain torch. Tensors divide tensors: where one of the two is a number, torch multiplies by a rounded
    reciprocal (a divisor's on a GPU only), and the last bit of that is another."""
    wide_TK = x_TK.float() if columns is None else x_TK.float() * columns.float()
    amax_T = wide_TK.abs().amax(-1).clamp_min(SMALLEST_AMAX)
    largest_T = torch.full_like(amax_T, LARGEST)
    codes_TK = (wide_TK * (largest_T / amax_T)[:, None]).clamp(-LARGEST, LARGEST).to(E4M3)
    return codes_TK, amax_T / largest_T


def writes_codes(*tensors: Tensor | None) -> bool:
    """Whether a kernel that writes e4m3 may take these; cards before Ada cannot convert to it."""
    is_new = all(_is_new(tensor.device) for tensor in tensors if tensor is not None)
    return is_new and fits(*tensors)


@functools.cache
def _is_new(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


@jit
def inverse_and_scale(amax):  # type: ignore[no-untyped-def]
    """(what to multiply a row with, what its codes are worth), rounded as in the reference."""
    amax = tl.maximum(amax, 1e-30)
    return tl.math.div_rn(448.0, amax), tl.math.div_rn(amax, 448.0)


@jit
def to_codes(value):  # type: ignore[no-untyped-def]
    """e4m3; a value that is not a number stays one."""
    return tl.where(value == value, tl.minimum(tl.maximum(value, -448.0), 448.0), value).to(tl.float8e4nv)


@jit
def _quantise_rows_kernel(  # type: ignore[no-untyped-def]
    x, columns, codes, scale, width, x_stride, HAS_COLUMNS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """One row; it is read twice, the second time from the cache."""
    row = tl.program_id(0).to(tl.int64)
    amax = 0.0
    for start in range(0, width, TILE):
        at = start + tl.arange(0, TILE)
        value = tl.load(x + row * x_stride + at, mask=at < width, other=0.0).to(tl.float32)
        if HAS_COLUMNS:
            value *= tl.load(columns + at, mask=at < width, other=0.0).to(tl.float32)
        amax = tl.maximum(amax, tl.max(tl.abs(value), axis=0))
    inverse, worth = inverse_and_scale(amax)
    tl.store(scale + row, worth)
    for start in range(0, width, TILE):
        at = start + tl.arange(0, TILE)
        value = tl.load(x + row * x_stride + at, mask=at < width, other=0.0).to(tl.float32)
        if HAS_COLUMNS:
            value *= tl.load(columns + at, mask=at < width, other=0.0).to(tl.float32)
        tl.store(codes + row * width + at, to_codes(value * inverse), mask=at < width)
