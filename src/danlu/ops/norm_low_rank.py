"""RMSNorm's output once more, for the low-rank pair of the projection that reads it: grad_A = dsᵀ norm(x) needs the
norm again, which is made of x and never leaves the chip. It is multiplied as it is rounded to its dtype.

Shapes: T tokens, D width, R rank; in kernels C columns of a tile. Rows may lie further apart than they are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.kernels import jit, power_of_2, tl, triton
from danlu.ops.low_rank import (
    MAX_RANK,
    add_parts,
    add_product_,
    best_split,
    has_kernel,
    num_multiprocessors,
)
from danlu.ops.rms_norm import scaled

REGISTERS = 128  # of a thread: two programs to a multiprocessor
BACK_TOKENS, BACK_COLUMNS, BACK_WARPS, BACK_STAGES, BACK_PROGRAMS = 64, 128, 8, 3, 2
"""Of the backward's tile, and how many programs each multiprocessor is given: more of them write more partial sums."""


def add_normed_product_(
    grad_A_RD: Tensor,
    ds_TR: Tensor,
    x_TD: Tensor,
    weight_D: Tensor,
    inverse_T: Tensor,
    offset: float = 0.0,
    *,
    scale: float = 1.0,
) -> None:
    """grad_A (fp32) += scale · dsᵀ norm(x), where `inverse_T` is what the norm's forward gave."""
    if ds_TR.shape[1] <= MAX_RANK and has_kernel(x_TD, ds_TR):
        _add_normed_product(grad_A_RD, ds_TR, x_TD, weight_D, inverse_T, offset, scale)
        return
    wide_TD = x_TD.to(inverse_T.dtype) * inverse_T[:, None]
    if offset:
        normed_TD = wide_TD.mul_(weight_D.to(wide_TD.dtype) + offset).to(x_TD.dtype)
    else:
        normed_TD = wide_TD.to(x_TD.dtype) * weight_D.to(x_TD.dtype)
    add_product_(grad_A_RD, ds_TR, normed_TD, scale)


def _add_normed_product(
    grad_A_RD: Tensor, ds_TR: Tensor, x_TD: Tensor, weight_D: Tensor, inverse_T: Tensor, offset: float, scale: float
) -> None:
    """A program owns some columns and a stretch of the tokens; a second kernel sums the stretches in fixed order."""
    (num_tokens, D), rank = x_TD.shape, ds_TR.shape[1]
    padded = max(16, power_of_2(rank))
    num_tiles, num_steps = triton.cdiv(D, BACK_COLUMNS), triton.cdiv(num_tokens, BACK_TOKENS)
    slots = num_multiprocessors(x_TD.device) * BACK_PROGRAMS
    tokens_per_split = BACK_TOKENS * triton.cdiv(num_steps, best_split(num_tiles, num_steps, slots))
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    parts = torch.empty(num_splits, D, padded, dtype=torch.float32, device=x_TD.device)
    _product_kernel[(num_tiles, num_splits)](
        x_TD, weight_D, inverse_T, ds_TR, parts, num_tokens, tokens_per_split, x_TD.stride(0), ds_TR.stride(0),
        D=D, R=rank, OFFSET=offset, TOKENS=BACK_TOKENS, COLUMNS=BACK_COLUMNS, RANK=padded,
        num_warps=BACK_WARPS, num_stages=BACK_STAGES, maxnreg=REGISTERS,
    )  # fmt: skip
    add_parts(parts, grad_A_RD.mT, scale, adds=True)


@jit(do_not_specialize=["num_tokens", "tokens_per_split"])
def _product_kernel(  # type: ignore[no-untyped-def]
    x, weight, inverse, ds, parts, num_tokens, tokens_per_split, x_stride, ds_stride,
    D: tl.constexpr, R: tl.constexpr, OFFSET: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1).to(tl.int64)
    column_C, rank_R = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, RANK)
    is_column_C = column_C < D
    weight_C = tl.load(weight + column_C, mask=is_column_C, other=0.0)
    begin = split * tokens_per_split
    sum_CR = tl.zeros((COLUMNS, RANK), dtype=tl.float32)
    for at in range(0, tokens_per_split, TOKENS):
        token_T = begin + at + tl.arange(0, TOKENS)
        is_token_T = token_T < num_tokens
        x_at_TC = x + token_T[:, None] * x_stride + column_C[None, :]
        x_TC = tl.load(x_at_TC, mask=is_token_T[:, None] & is_column_C[None, :], other=0.0).to(tl.float32)
        inverse_T = tl.load(inverse + token_T, mask=is_token_T, other=0.0)
        ds_at_TR = ds + token_T[:, None] * ds_stride + rank_R[None, :]
        ds_TR = tl.load(ds_at_TR, mask=is_token_T[:, None] & (rank_R < R)[None, :], other=0.0)
        normed_TC = scaled(x_TC * inverse_T[:, None], weight_C[None, :], x.dtype.element_ty, OFFSET).to(ds_TR.dtype)
        sum_CR = tl.dot(tl.trans(normed_TC), ds_TR, sum_CR)
    at_CR = parts + (split * D + column_C)[:, None] * RANK + rank_R[None, :]
    tl.store(at_CR, sum_CR, mask=is_column_C[:, None])
