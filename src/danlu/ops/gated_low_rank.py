"""The gated feed-forward's pointwise part together with the low-rank pair of the down projection, which reads its
product h = act(gate) · up.

In the forward h goes to the down projection's product anyway, and s = h Aᵀ is taken while h is on the chip. In the
backward h is made again only for grad_A = dsᵀ h, and never leaves the chip: three tensors are read and two written,
where `gated_backward_` and a product of its own write one more and read it again. Both multiply h as it is rounded to
its dtype, so that forward and backward mean the same h.

Shapes: T tokens, F width of the feed-forward, E = 2F: [gate | up], R rank, P columns of a padding that holds R; in
kernels C columns of a tile. Rows may lie further apart than they are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.gated import Activation, _active, gated_backward_, gated_forward
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

BACKWARD_TOKENS, BACKWARD_COLUMNS, BACKWARD_WARPS = 16, 256, 8
"""Of a program's tile: 16 elements to a thread, so that the next tile can be on its way while this one is computed."""
FORWARD_TOKENS, FORWARD_COLUMNS, FORWARD_WARPS = 64, 128, 8
THREADS, REGISTERS = 512, 128
"""Of the programs that a multiprocessor runs at a time, and of each thread: loads in flight need them all."""


def gated_forward_low_rank(
    gate_up_TE: Tensor,
    activation: Activation,
    A_RF: Tensor,
    *,
    out_TF: Tensor,
    out_TP: Tensor,
    ones_at: int | None = None,
    copy_TP: Tensor | None = None,
) -> None:
    """out_TF = activation(gate) * up, and out_TF Aᵀ in the padding out_TP as `low_rank.project_` has it."""
    if A_RF.shape[0] <= MAX_RANK and has_kernel(gate_up_TE, A_RF, out_TF, out_TP):
        parts = _forward(gate_up_TE, activation, A_RF, out_TF)
        _sum_into_padding(parts, out_TP, ones_at, copy_TP)
        return
    gated_forward(gate_up_TE, activation, out_TF=out_TF)
    project_(out_TF, A_RF, out_TP, ones_at=ones_at, copy_TP=copy_TP)


def gated_backward_low_rank_(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, ds_TR: Tensor, grad_A_RF: Tensor, *, scale: float = 1.0
) -> None:
    """In place: `gate_up_TE` becomes its own gradient, and grad_A (fp32) += scale · dsᵀ h. What is in `grad_TF`
    afterwards is not told."""
    if ds_TR.shape[1] <= MAX_RANK and has_kernel(grad_TF, gate_up_TE, ds_TR):
        _backward(grad_TF, gate_up_TE, activation, ds_TR, grad_A_RF, scale)
        return
    gated_backward_(grad_TF, gate_up_TE, activation)
    add_product_(grad_A_RF, ds_TR, grad_TF, scale)


def _forward(gate_up_TE: Tensor, activation: Activation, A_RF: Tensor, out_TF: Tensor) -> Tensor:
    """Partial sums of s. A program owns some tokens and a stretch of the columns."""
    (num_tokens, F), rank = out_TF.shape, len(A_RF)
    padded = max(16, power_of_2(rank))
    num_tiles, num_steps = triton.cdiv(num_tokens, FORWARD_TOKENS), triton.cdiv(F, FORWARD_COLUMNS)
    slots = num_multiprocessors(out_TF.device) * (THREADS // (32 * FORWARD_WARPS))
    steps_per_split = triton.cdiv(num_steps, best_split(num_tiles, num_steps, slots))
    num_splits = triton.cdiv(num_steps, steps_per_split)
    parts = torch.empty(num_splits, num_tokens, padded, dtype=torch.float32, device=out_TF.device)
    _forward_kernel[(num_tiles, num_splits)](
        gate_up_TE, A_RF, out_TF, parts, num_tokens, steps_per_split,
        gate_up_TE.stride(0), A_RF.stride(0), out_TF.stride(0),
        F=F, R=rank, ACTIVATION=activation, TOKENS=FORWARD_TOKENS, COLUMNS=FORWARD_COLUMNS, RANK=padded,
        num_warps=FORWARD_WARPS, num_stages=1, maxnreg=REGISTERS,
    )  # fmt: skip
    return parts


def _sum_into_padding(parts: Tensor, out_TP: Tensor, ones_at: int | None, copy_TP: Tensor | None) -> None:
    num_parts, num_tokens, padded = parts.shape
    wide = max(16, power_of_2(out_TP.shape[1]))
    tokens = max(1, 1024 // wide)
    _sum_into_padding_kernel[(triton.cdiv(num_tokens, tokens),)](
        parts, out_TP, copy_TP, num_tokens, num_parts, out_TP.stride(0), 0 if copy_TP is None else copy_TP.stride(0),
        RANK=padded, P=out_TP.shape[1], ONES=-1 if ones_at is None else ones_at, WIDE=wide, TOKENS=tokens,
        num_warps=4,
    )  # fmt: skip


def _backward(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, ds_TR: Tensor, grad_A_RF: Tensor, scale: float
) -> None:
    """A program owns some columns and a stretch of the tokens, and sums its part of the gradient in registers. No
    atomic additions: the order of all sums is fixed."""
    (num_tokens, F), rank = grad_TF.shape, ds_TR.shape[1]
    padded = max(16, power_of_2(rank))  # matrix units take no fewer columns
    num_tiles, num_steps = triton.cdiv(F, BACKWARD_COLUMNS), triton.cdiv(num_tokens, BACKWARD_TOKENS)
    slots = num_multiprocessors(grad_TF.device) * (THREADS // (32 * BACKWARD_WARPS))
    tokens_per_split = BACKWARD_TOKENS * triton.cdiv(num_steps, best_split(num_tiles, num_steps, slots))
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    parts = torch.empty(num_splits, F, padded, dtype=torch.float32, device=grad_TF.device)
    _backward_kernel[(num_tiles, num_splits)](
        grad_TF, gate_up_TE, ds_TR, parts, num_tokens, tokens_per_split,
        grad_TF.stride(0), gate_up_TE.stride(0), ds_TR.stride(0),
        F=F, R=rank, ACTIVATION=activation, TOKENS=BACKWARD_TOKENS, COLUMNS=BACKWARD_COLUMNS, RANK=padded,
        num_warps=BACKWARD_WARPS, num_stages=1, maxnreg=REGISTERS,
    )  # fmt: skip
    add_parts(parts, grad_A_RF.mT, scale, adds=True)


@jit(do_not_specialize=["num_tokens", "steps_per_split"])
def _forward_kernel(  # type: ignore[no-untyped-def]
    gate_up, a, out, parts, num_tokens, steps_per_split, gate_up_stride, a_stride, out_stride,
    F: tl.constexpr, R: tl.constexpr, ACTIVATION: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(1)
    token_T, rank_R = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, RANK)
    is_token_T = token_T < num_tokens
    first = split * steps_per_split * COLUMNS
    last = tl.minimum(first + steps_per_split * COLUMNS, F)
    column_C = first + tl.arange(0, COLUMNS)
    gate_at_TC = gate_up + token_T[:, None] * gate_up_stride + column_C[None, :]
    out_at_TC = out + token_T[:, None] * out_stride + column_C[None, :]
    a_at_RC = a + rank_R.to(tl.int64)[:, None] * a_stride + column_C[None, :]
    mask_TC = is_token_T[:, None] & (column_C < last)[None, :]
    next_gate_TC = tl.load(gate_at_TC, mask=mask_TC, other=0.0)
    next_up_TC = tl.load(gate_at_TC + F, mask=mask_TC, other=0.0)
    sum_TR = tl.zeros((TOKENS, RANK), dtype=tl.float32)
    for _ in range(first, last, COLUMNS):
        gate_TC, up_TC, here_TC = next_gate_TC.to(tl.float32), next_up_TC.to(tl.float32), mask_TC
        a_RC = tl.load(a_at_RC, mask=(rank_R < R)[:, None] & (column_C < last)[None, :], other=0.0)
        # The next tile's journey begins before this one is computed.
        column_C += COLUMNS
        gate_at_TC += COLUMNS
        a_at_RC += COLUMNS
        mask_TC = is_token_T[:, None] & (column_C < last)[None, :]
        next_gate_TC = tl.load(gate_at_TC, mask=mask_TC, other=0.0)
        next_up_TC = tl.load(gate_at_TC + F, mask=mask_TC, other=0.0)
        active_TC, _ = _active(gate_TC, ACTIVATION)
        product_TC = (active_TC * up_TC).to(a_RC.dtype)
        tl.store(out_at_TC, product_TC, mask=here_TC)
        out_at_TC += COLUMNS
        sum_TR = tl.dot(product_TC, tl.trans(a_RC), sum_TR)
    at_TR = parts + (split.to(tl.int64) * num_tokens + token_T)[:, None] * RANK + rank_R[None, :]
    tl.store(at_TR, sum_TR, mask=is_token_T[:, None])


@jit(do_not_specialize=["num_tokens", "num_parts"])
def _sum_into_padding_kernel(  # type: ignore[no-untyped-def]
    parts, out, copy, num_tokens, num_parts, out_stride, copy_stride,
    RANK: tl.constexpr, P: tl.constexpr, ONES: tl.constexpr, WIDE: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """Columns from RANK on are zero; those of A's that are missing up to RANK are zero by themselves."""
    token_T, column_P = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS), tl.arange(0, WIDE)
    is_token_T = token_T < num_tokens
    sum_TP = tl.zeros((TOKENS, WIDE), dtype=tl.float32)
    row_T = token_T
    for _ in range(num_parts):
        at_TP = parts + row_T[:, None] * RANK + column_P[None, :]
        sum_TP += tl.load(at_TP, mask=is_token_T[:, None] & (column_P < RANK)[None, :], other=0.0)
        row_T += num_tokens
    store_padding(sum_TP, out, copy, token_T, num_tokens, out_stride, copy_stride, P, ONES, WIDE)


@jit(do_not_specialize=["num_tokens", "tokens_per_split"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate_up, ds, parts, num_tokens, tokens_per_split, grad_stride, gate_up_stride, ds_stride,
    F: tl.constexpr, R: tl.constexpr, ACTIVATION: tl.constexpr, TOKENS: tl.constexpr, COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column_C, rank_R = tile * COLUMNS + tl.arange(0, COLUMNS), tl.arange(0, RANK)
    is_column_C, is_rank_R = column_C < F, rank_R < R
    first = split * tokens_per_split
    last = tl.minimum(first + tokens_per_split, num_tokens)
    token_T = first + tl.arange(0, TOKENS)
    grad_at_TC = grad + token_T[:, None] * grad_stride + column_C[None, :]
    gate_at_TC = gate_up + token_T[:, None] * gate_up_stride + column_C[None, :]
    mask_TC = (token_T < last)[:, None] & is_column_C[None, :]
    next_grad_TC = tl.load(grad_at_TC, mask=mask_TC, other=0.0)
    next_gate_TC = tl.load(gate_at_TC, mask=mask_TC, other=0.0)
    next_up_TC = tl.load(gate_at_TC + F, mask=mask_TC, other=0.0)
    sum_CR = tl.zeros((COLUMNS, RANK), dtype=tl.float32)
    for _ in range(first, last, TOKENS):
        grad_TC, gate_TC = next_grad_TC.to(tl.float32), next_gate_TC.to(tl.float32)
        up_TC, here_at_TC, here_TC = next_up_TC.to(tl.float32), gate_at_TC, mask_TC
        ds_at_TR = ds + token_T[:, None] * ds_stride + rank_R[None, :]
        ds_TR = tl.load(ds_at_TR, mask=(token_T < last)[:, None] & is_rank_R[None, :], other=0.0)
        # The next tile's journey begins before this one is computed.
        token_T += TOKENS
        grad_at_TC += TOKENS * grad_stride
        gate_at_TC += TOKENS * gate_up_stride
        mask_TC = (token_T < last)[:, None] & is_column_C[None, :]
        next_grad_TC = tl.load(grad_at_TC, mask=mask_TC, other=0.0)
        next_gate_TC = tl.load(gate_at_TC, mask=mask_TC, other=0.0)
        next_up_TC = tl.load(gate_at_TC + F, mask=mask_TC, other=0.0)
        active_TC, slope_TC = _active(gate_TC, ACTIVATION)
        tl.store(here_at_TC, grad_TC * up_TC * slope_TC, mask=here_TC)
        tl.store(here_at_TC + F, grad_TC * active_TC, mask=here_TC)
        product_TC = (active_TC * up_TC).to(ds_TR.dtype)
        sum_CR = tl.dot(tl.trans(product_TC), ds_TR, sum_CR)
    at_CR = parts + (split * F + column_C)[:, None] * RANK + rank_R[None, :]
    tl.store(at_CR, sum_CR, mask=is_column_C[:, None])
