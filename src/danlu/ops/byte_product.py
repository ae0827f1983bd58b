"""A few rows times weights of one byte an element with a scale per output channel, decoded on the way (`few_rows.py`):
int8 codes times rows as they are, and e4m3 codes times rows of e4m3 codes with a scale each.

Int8 codes are exact in 16 bits, and their scale multiplies the sum: nothing of the weight is rounded at all. Products
of two e4m3 codes are what `fp8.product` computes, with sums in full fp32.

Shapes: B rows, K inputs, N outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.few_rows import Tiling, arrivals, finish, shares_room, tiling
from danlu.ops.kernels import fits, jit, tl, triton

CHUNK = 128
"""Inputs that a program multiplies at once: of each output a whole line of memory."""
LARGEST_SIZE = 2**31
"""Elements of a weight that 32 bits count."""


def takes(codes_NK: Tensor) -> bool:
    """Whether the kernel multiplies by these: whole chunks, wherever they lie."""
    return codes_NK.shape[1] % CHUNK == 0 and codes_NK.numel() < LARGEST_SIZE and fits(codes_NK)


def product(
    x_BK: Tensor,
    codes_NK: Tensor,
    scale_N: Tensor,
    bias_N: Tensor | None = None,
    *,
    scale_B: Tensor | None = None,
    dtype: torch.dtype | None = None,
    tiles: Tiling | None = None,
) -> Tensor:
    """out_BN = x Wᵀ + bias in `dtype`, or x's; `scale_B` is that of rows in codes."""
    dtype = dtype or x_BK.dtype
    if not takes(codes_NK):
        return reference_product(x_BK, codes_NK, scale_N, bias_N, scale_B=scale_B, dtype=dtype)
    (num_rows, num_inputs), num_outputs = x_BK.shape, len(codes_NK)
    if tiles is None:
        num_chunks, outputs = num_inputs // CHUNK, 32 if num_rows <= 8 else 64
        tiles = tiling(
            num_rows, num_outputs, num_chunks, x_BK.device, outputs=outputs, fewest_chunks=4, num_stages=3
        )  # fmt: skip
    out_BN = torch.empty(num_rows, num_outputs, dtype=dtype, device=x_BK.device)
    shares = shares_room(tiles, num_rows, num_outputs, x_BK.device)
    _product_kernel[(triton.cdiv(num_outputs, tiles.outputs), tiles.num_shares, triton.cdiv(num_rows, tiles.rows))](
        x_BK, codes_NK, scale_N, scale_B, bias_N, out_BN, shares, arrivals(x_BK.device),
        num_rows, x_BK.stride(0), codes_NK.stride(0), num_outputs,
        num_inputs // CHUNK, tiles.share, tiles.num_shares, IS_WHOLE=tiles.num_shares == 1,
        ROWS=tiles.rows, OUTPUTS=tiles.outputs, CHUNK=CHUNK,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return out_BN


def reference_product(
    x_BK: Tensor,
    codes_NK: Tensor,
    scale_N: Tensor,
    bias_N: Tensor | None = None,
    *,
    scale_B: Tensor | None = None,
    dtype: torch.dtype,
) -> Tensor:
    """In fp32, rounded once."""
    out_BN = (x_BK.float() @ codes_NK.float().T) * scale_N
    if scale_B is not None:
        out_BN *= scale_B[:, None]
    return (out_BN if bias_N is None else out_BN + bias_N.float()).to(dtype)


@jit(do_not_specialize=["num_rows", "num_chunks", "share", "num_shares"])
def _product_kernel(  # type: ignore[no-untyped-def]
    x, codes, scale, row_scale, bias, out, shares, arrived,
    num_rows, x_stride, codes_stride, num_outputs, num_chunks, share, num_shares,
    IS_WHOLE: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Some outputs of some rows, over one share of the inputs."""
    at_N, row_B = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    own_N = tl.minimum(at_N, num_outputs - 1)
    first = tl.program_id(1) * share
    end = tl.minimum(first + share, num_chunks)
    sum_NB = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for chunk in range(first, end):
        at_K = chunk * CHUNK + tl.arange(0, CHUNK)
        x_BK = tl.load(x + row_B[:, None] * x_stride + at_K[None, :], mask=(row_B < num_rows)[:, None], other=0.0)
        code_NK = tl.load(codes + own_N[:, None] * codes_stride + at_K[None, :])
        if row_scale is None:
            code_NK = code_NK.to(x.dtype.element_ty)
        sum_NB = tl.dot(code_NK, tl.trans(x_BK), sum_NB, input_precision="ieee")
    sum_NB *= tl.load(scale + own_N)[:, None]
    if row_scale is not None:
        sum_NB *= tl.load(row_scale + row_B, mask=row_B < num_rows, other=0.0)[None, :]
    finish(sum_NB, out, bias, shares, arrived, row_B, at_N, num_rows, num_outputs, num_shares, IS_WHOLE)
