"""RMSNorm together with the low-rank pair of the projection that reads it. In the forward s = norm(x) Aᵀ is taken while
the norm is on the chip; a row is gone over twice, the second time in the cache: once for its rms, once to be scaled,
written and multiplied. In the backward grad_A = dsᵀ norm(x) needs the norm again, which is made of x and never leaves
the chip. Both multiply the norm as it is rounded to its dtype.

Shapes: T tokens, D width, R rank, P columns of a padding that holds R; in kernels C columns of a tile. Rows may lie
further apart than they are wide.
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
    project_,
    store_padding,
)
from danlu.ops.rms_norm import norm_forward, scaled

MOST_TOKENS, COLUMNS, NUM_WARPS = 64, 128, 8  # of a program's tile
REGISTERS = 128  # of a thread: two programs to a multiprocessor
BACK_TOKENS, BACK_COLUMNS, BACK_WARPS, BACK_STAGES, BACK_PROGRAMS = 64, 128, 8, 3, 2
"""Of the backward's tile, and how many programs each multiprocessor is given: more of them write more partial sums."""


def norm_forward_low_rank(
    x_TD: Tensor,
    weight_D: Tensor,
    eps: float,
    offset: float,
    A_RD: Tensor,
    *,
    out_TD: Tensor,
    out_TP: Tensor,
    ones_at: int | None = None,
    copy_TP: Tensor | None = None,
    add_TD: Tensor | None = None,
    sum_TD: Tensor | None = None,
) -> Tensor:
    """inverse_T. out_TD and, where an addition is asked for, sum_TD are as `rms_norm.norm_forward` has them, and
    out_TD Aᵀ is in the padding out_TP as `low_rank.project_` has it."""
    assert (add_TD is None) == (sum_TD is None), "a sum is what the caller keeps of an addition"
    if out_TP.shape[1] <= MAX_RANK and has_kernel(x_TD, A_RD, out_TD, out_TP):
        inverse_T = x_TD.new_empty(len(x_TD), dtype=torch.float32)
        wide, tokens = max(16, power_of_2(out_TP.shape[1])), _tokens(x_TD)
        _norm_kernel[(triton.cdiv(len(x_TD), tokens),)](
            x_TD, add_TD, sum_TD, weight_D, A_RD, out_TD, out_TP, copy_TP, inverse_T, len(x_TD), x_TD.stride(0),
            0 if add_TD is None else add_TD.stride(0), 0 if sum_TD is None else sum_TD.stride(0), A_RD.stride(0),
            out_TD.stride(0), out_TP.stride(0), 0 if copy_TP is None else copy_TP.stride(0), eps,
            D=x_TD.shape[1], R=len(A_RD), P=out_TP.shape[1], ONES=-1 if ones_at is None else ones_at, OFFSET=offset,
            TOKENS=tokens, COLUMNS=COLUMNS, WIDE=wide, num_warps=NUM_WARPS, num_stages=1,
            maxnreg=REGISTERS,
        )  # fmt: skip
        return inverse_T
    _, inverse_T = norm_forward(x_TD, weight_D, eps, offset, out_TD=out_TD, add_TD=add_TD, sum_TD=sum_TD)
    project_(out_TD, A_RD, out_TP, ones_at=ones_at, copy_TP=copy_TP)
    return inverse_T


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


def _tokens(x_TD: Tensor) -> int:
    """As many as leave a program for every multiprocessor: A is read once for all of them."""
    most = len(x_TD) // num_multiprocessors(x_TD.device)
    return min(MOST_TOKENS, max(16, power_of_2(most + 1) // 2))


@jit(do_not_specialize=["num_tokens"])
def _norm_kernel(  # type: ignore[no-untyped-def]
    x, add, total, weight, a, out, padding, copy, inverse, num_tokens, x_stride, add_stride, total_stride, a_stride,
    out_stride, padding_stride, copy_stride, eps,
    D: tl.constexpr, R: tl.constexpr, P: tl.constexpr, ONES: tl.constexpr, OFFSET: tl.constexpr,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    token_T = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    is_token_T, rank_R, local_C = token_T < num_tokens, tl.arange(0, WIDE), tl.arange(0, COLUMNS)
    x_at_TC = x + token_T[:, None] * x_stride + local_C[None, :]
    out_at_TC = out + token_T[:, None] * out_stride + local_C[None, :]
    a_at_RC = a + rank_R.to(tl.int64)[:, None] * a_stride + local_C[None, :]
    square_TC = tl.zeros((TOKENS, COLUMNS), dtype=tl.float32)
    for at in tl.range(0, D, COLUMNS, num_stages=3):
        mask_TC = is_token_T[:, None] & (at + local_C < D)[None, :]
        x_TC = tl.load(x_at_TC + at, mask=mask_TC, other=0.0).to(tl.float32)
        if add is not None:
            add_at_TC = add + token_T[:, None] * add_stride + (at + local_C)[None, :]
            sum_TC = (x_TC + tl.load(add_at_TC, mask=mask_TC, other=0.0).to(tl.float32)).to(x.dtype.element_ty)
            tl.store(total + token_T[:, None] * total_stride + (at + local_C)[None, :], sum_TC, mask=mask_TC)
            x_TC = sum_TC.to(tl.float32)
        square_TC += x_TC * x_TC
    if add is not None:
        tl.debug_barrier()  # what other threads wrote is read below
        x_at_TC = total + token_T[:, None] * total_stride + local_C[None, :]
    inverse_T = tl.rsqrt(tl.sum(square_TC, axis=1) / D + eps)
    tl.store(inverse + token_T, inverse_T, mask=is_token_T)
    sum_TR = tl.zeros((TOKENS, WIDE), dtype=tl.float32)
    next_TC = tl.load(x_at_TC, mask=is_token_T[:, None] & (local_C < D)[None, :], other=0.0)
    next_a_RC = tl.load(a_at_RC, mask=(rank_R < R)[:, None] & (local_C < D)[None, :], other=0.0)
    for at in range(0, D, COLUMNS):
        x_TC, a_RC = next_TC.to(tl.float32), next_a_RC
        is_column_C, is_next_C = at + local_C < D, at + COLUMNS + local_C < D
        # The next tile's journey begins before this one is computed.
        next_TC = tl.load(x_at_TC + at + COLUMNS, mask=is_token_T[:, None] & is_next_C[None, :], other=0.0)
        next_a_RC = tl.load(a_at_RC + at + COLUMNS, mask=(rank_R < R)[:, None] & is_next_C[None, :], other=0.0)
        weight_C = tl.load(weight + at + local_C, mask=is_column_C, other=0.0)
        normed_TC = scaled(x_TC * inverse_T[:, None], weight_C[None, :], x.dtype.element_ty, OFFSET).to(a_RC.dtype)
        tl.store(out_at_TC + at, normed_TC, mask=is_token_T[:, None] & is_column_C[None, :])
        sum_TR = tl.dot(normed_TC, tl.trans(a_RC), sum_TR)
    store_padding(sum_TR, padding, copy, token_T, num_tokens, padding_stride, copy_stride, P, ONES, WIDE)


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
