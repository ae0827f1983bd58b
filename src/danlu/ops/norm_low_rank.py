"""RMSNorm together with the low-rank pair of the projection that reads it: s = norm(x) Aᵀ is taken while the norm is on
the chip, so that it is not read again for a product that does next to no arithmetic.

A row is gone over twice, the second time in the cache: once for its rms, once to be scaled, written and multiplied.

Shapes: T tokens, D width, R rank, P columns of a padding that holds R; in kernels C columns of a tile. Rows may lie
further apart than they are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.kernels import jit, power_of_2, tl, triton
from danlu.ops.low_rank import MAX_RANK, has_kernel, num_multiprocessors, project_, store_padding
from danlu.ops.rms_norm import norm_forward, scaled

MOST_TOKENS, COLUMNS, NUM_WARPS = 64, 128, 8  # of a program's tile
REGISTERS = 128  # of a thread: two programs to a multiprocessor


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
) -> Tensor:
    """inverse_T. out_TD is `rms_norm.norm_forward`'s, and out_TD Aᵀ is in the padding out_TP as `low_rank.project_` has
    it."""
    if out_TP.shape[1] <= MAX_RANK and has_kernel(x_TD, A_RD, out_TD, out_TP):
        inverse_T = x_TD.new_empty(len(x_TD), dtype=torch.float32)
        wide, tokens = max(16, power_of_2(out_TP.shape[1])), _tokens(x_TD)
        _norm_kernel[(triton.cdiv(len(x_TD), tokens),)](
            x_TD, weight_D, A_RD, out_TD, out_TP, copy_TP, inverse_T, len(x_TD), x_TD.stride(0), A_RD.stride(0),
            out_TD.stride(0), out_TP.stride(0), 0 if copy_TP is None else copy_TP.stride(0), eps,
            D=x_TD.shape[1], R=len(A_RD), P=out_TP.shape[1], ONES=-1 if ones_at is None else ones_at, OFFSET=offset,
            TOKENS=tokens, COLUMNS=COLUMNS, WIDE=wide, num_warps=NUM_WARPS, num_stages=1,
            maxnreg=REGISTERS,
        )  # fmt: skip
        return inverse_T
    _, inverse_T = norm_forward(x_TD, weight_D, eps, offset, out_TD=out_TD)
    project_(out_TD, A_RD, out_TP, ones_at=ones_at, copy_TP=copy_TP)
    return inverse_T


def _tokens(x_TD: Tensor) -> int:
    """As many as leave a program for every multiprocessor: A is read once for all of them."""
    most = len(x_TD) // num_multiprocessors(x_TD.device)
    return min(MOST_TOKENS, max(16, power_of_2(most + 1) // 2))


@jit(do_not_specialize=["num_tokens"])
def _norm_kernel(  # type: ignore[no-untyped-def]
    x, weight, a, out, padding, copy, inverse, num_tokens, x_stride, a_stride, out_stride, padding_stride, copy_stride,
    eps, D: tl.constexpr, R: tl.constexpr, P: tl.constexpr, ONES: tl.constexpr, OFFSET: tl.constexpr,
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
        square_TC += x_TC * x_TC
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
