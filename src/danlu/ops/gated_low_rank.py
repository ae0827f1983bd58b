"""The gated feed-forward's pointwise backward together with grad_A of the low-rank pair of the down projection, which
reads its product h = act(gate) · up.

h is made again only for grad_A = dsᵀ h, and never leaves the chip: three tensors are read and two written, where
`gated_backward_` and a product of its own write one more and read it again. h is multiplied as it is rounded to its
dtype, so that forward and backward mean the same h.

Shapes: T tokens, F width of the feed-forward, E = 2F: [gate | up], R rank; in kernels C columns of a tile. Rows may lie
further apart than they are wide.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.gated import Activation, _active, gated_backward_
from danlu.ops.kernels import jit, power_of_2, tl, triton
from danlu.ops.low_rank import (
    MAX_RANK,
    add_parts,
    add_product_,
    best_split,
    has_kernel,
    num_multiprocessors,
)

BACKWARD_TOKENS, BACKWARD_COLUMNS, BACKWARD_WARPS = 16, 256, 8
"""Of a program's tile: 16 elements to a thread, so that the next tile can be on its way while this one is computed."""
THREADS, REGISTERS = 512, 128
"""Of the programs that a multiprocessor runs at a time, and of each thread: loads in flight need them all."""


def gated_backward_low_rank_(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, ds_TR: Tensor, grad_A_RF: Tensor, *, scale: float = 1.0
) -> None:
    """In place: `gate_up_TE` becomes its own gradient, and grad_A (fp32) += scale · dsᵀ h. What is in `grad_TF`
    afterwards is not told."""
    if takes(grad_TF, gate_up_TE, ds_TR):
        backward_and_amax_(grad_TF, gate_up_TE, activation, ds_TR, grad_A_RF, scale)
        return
    gated_backward_(grad_TF, gate_up_TE, activation)
    add_product_(grad_A_RF, ds_TR, grad_TF, scale)


def takes(grad_TF: Tensor, gate_up_TE: Tensor, ds_TR: Tensor) -> bool:
    """Whether the kernel is for these."""
    return ds_TR.shape[1] <= MAX_RANK and has_kernel(grad_TF, gate_up_TE, ds_TR)


def backward_and_amax_(
    grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation, ds_TR: Tensor, grad_A_RF: Tensor, scale: float,
    columns_E: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """`gated_backward_low_rank_` where `takes` it. With `columns_E`, the largest |gradient of gate | up · columns| of
    each row in each tile of columns, [T, tiles] in fp32: what a cast to fp8 has to know first.

    A program owns some columns and a stretch of the tokens, and sums its part of the gradient in registers. No atomic
    additions: the order of all sums is fixed."""
    (num_tokens, F), rank = grad_TF.shape, ds_TR.shape[1]
    padded = max(16, power_of_2(rank))  # matrix units take no fewer columns
    num_tiles, num_steps = triton.cdiv(F, BACKWARD_COLUMNS), triton.cdiv(num_tokens, BACKWARD_TOKENS)
    amax = None if columns_E is None else torch.empty(num_tokens, num_tiles, device=grad_TF.device)
    slots = num_multiprocessors(grad_TF.device) * (THREADS // (32 * BACKWARD_WARPS))
    tokens_per_split = BACKWARD_TOKENS * triton.cdiv(num_steps, best_split(num_tiles, num_steps, slots))
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    parts = torch.empty(num_splits, F, padded, dtype=torch.float32, device=grad_TF.device)
    _backward_kernel[(num_tiles, num_splits)](
        grad_TF, gate_up_TE, ds_TR, columns_E, parts, amax, num_tokens, tokens_per_split,
        grad_TF.stride(0), gate_up_TE.stride(0), ds_TR.stride(0),
        F=F, R=rank, ACTIVATION=activation, TOKENS=BACKWARD_TOKENS, COLUMNS=BACKWARD_COLUMNS, RANK=padded,
        num_warps=BACKWARD_WARPS, num_stages=1, maxnreg=REGISTERS,
    )  # fmt: skip
    add_parts(parts, grad_A_RF.mT, scale, adds=True)
    return amax


@jit(do_not_specialize=["num_tokens", "tokens_per_split"])
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate_up, ds, columns, parts, amax, num_tokens, tokens_per_split, grad_stride, gate_up_stride, ds_stride,
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
    if columns is not None:
        for_gate_C = tl.load(columns + column_C, mask=is_column_C, other=0.0).to(tl.float32)
        for_up_C = tl.load(columns + F + column_C, mask=is_column_C, other=0.0).to(tl.float32)
    sum_CR = tl.zeros((COLUMNS, RANK), dtype=tl.float32)
    for _ in range(first, last, TOKENS):
        grad_TC, gate_TC = next_grad_TC.to(tl.float32), next_gate_TC.to(tl.float32)
        up_TC, here_at_TC, here_TC = next_up_TC.to(tl.float32), gate_at_TC, mask_TC
        ds_at_TR = ds + token_T[:, None] * ds_stride + rank_R[None, :]
        ds_TR = tl.load(ds_at_TR, mask=(token_T < last)[:, None] & is_rank_R[None, :], other=0.0)
        here_T = token_T
        # The next tile's journey begins before this one is computed.
        token_T += TOKENS
        grad_at_TC += TOKENS * grad_stride
        gate_at_TC += TOKENS * gate_up_stride
        mask_TC = (token_T < last)[:, None] & is_column_C[None, :]
        next_grad_TC = tl.load(grad_at_TC, mask=mask_TC, other=0.0)
        next_gate_TC = tl.load(gate_at_TC, mask=mask_TC, other=0.0)
        next_up_TC = tl.load(gate_at_TC + F, mask=mask_TC, other=0.0)
        active_TC, slope_TC = _active(gate_TC, ACTIVATION)
        grad_gate_TC = (grad_TC * up_TC * slope_TC).to(gate_up.dtype.element_ty)
        grad_up_TC = (grad_TC * active_TC).to(gate_up.dtype.element_ty)
        tl.store(here_at_TC, grad_gate_TC, mask=here_TC)
        tl.store(here_at_TC + F, grad_up_TC, mask=here_TC)
        if columns is not None:
            size_TC = tl.abs(grad_gate_TC.to(tl.float32) * for_gate_C[None, :])
            size_TC = tl.maximum(size_TC, tl.abs(grad_up_TC.to(tl.float32) * for_up_C[None, :]))
            amax_T = tl.max(tl.where(here_TC, size_TC, 0.0), axis=1)
            tl.store(amax + here_T * tl.num_programs(0) + tile, amax_T, mask=here_T < last)
        product_TC = (active_TC * up_TC).to(ds_TR.dtype)
        sum_CR = tl.dot(tl.trans(product_TC), ds_TR, sum_CR)
    at_CR = parts + (split * F + column_C)[:, None] * RANK + rank_R[None, :]
    tl.store(at_CR, sum_CR, mask=is_column_C[:, None])
