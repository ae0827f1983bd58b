"""Int8 weights: one scale per output channel, symmetric, the largest magnitude at ±127.

Weight-only: dequantised before a product. Not covered: products on int8 codes, outlier columns (LLM.int8(), Dettmers et
al. 2022, arXiv:2208.07339).

Shapes: N output channels, K input channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, tl, triton

COLUMNS, ROWS = 512, 8


@dataclass(frozen=True, slots=True)
class Int8:
    """codes [N, K] · scale [N, 1] is the weight."""

    codes: Tensor
    scale: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        num_rows, num_columns = self.codes.shape
        return num_rows, num_columns

    @property
    def num_bytes(self) -> int:
        return self.codes.nbytes + self.scale.nbytes

    def to(self, device: torch.device | str) -> Int8:
        return Int8(self.codes.to(device), self.scale.to(device))


def quantise(weight_NK: Tensor) -> Int8:
    """Nearest codes; a row of zeros has scale 0."""
    wide_NK = weight_NK.float()
    scale_N = wide_NK.abs().amax(-1) / 127
    inverse_N = torch.where(scale_N > 0, scale_N.reciprocal(), 0.0)
    return Int8((wide_NK * inverse_N[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale_N)


def dequantise(weight: Int8, out_NK: Tensor | None = None, *, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The weight in `out_NK` (its dtype rules; rows may be the leading columns of a wider buffer), else anew in
    `dtype`. Values are multiplied in fp32 and rounded once."""
    if out_NK is None:
        out_NK = torch.empty(weight.shape, dtype=dtype, device=weight.codes.device)
    assert tuple(out_NK.shape) == weight.shape and out_NK.stride(1) == 1, "rows of the weight's width, last dim dense"
    if not fits(weight.codes, out_NK):
        return out_NK.copy_(weight.codes.float() * weight.scale[:, None])
    num_rows, num_columns = weight.shape
    _dequantise_kernel[(triton.cdiv(num_rows, ROWS), triton.cdiv(num_columns, COLUMNS))](
        weight.codes, weight.scale, out_NK, num_rows, num_columns, weight.codes.stride(0), out_NK.stride(0),
        ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    return out_NK


@jit
def _dequantise_kernel(  # type: ignore[no-untyped-def]
    codes, scales, out, num_rows, num_columns, codes_stride, out_stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    row_R = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column_C = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_there_RC = (row_R < num_rows)[:, None] & (column_C < num_columns)[None, :]
    scale_R = tl.load(scales + row_R, mask=row_R < num_rows, other=0.0)
    code_RC = tl.load(codes + row_R[:, None] * codes_stride + column_C[None, :], mask=is_there_RC, other=0)
    value_RC = code_RC.to(tl.float32) * scale_R[:, None]
    tl.store(out + row_R[:, None] * out_stride + column_C[None, :], value_RC.to(out.dtype.element_ty), mask=is_there_RC)
