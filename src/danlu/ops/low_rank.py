"""The products that low-rank adapters add to the backward of a frozen matrix, y = x Wᵀ + (x Aᵀ)(s B)ᵀ.

With u = x Aᵀ of the forward and dy at hand: grad_B = s dyᵀ u and du = dy (s B); from du follow grad_A = duᵀ x and the
adapter's share of dx, which rides along in the product with W. Both products of dy stream the widest tensor of the
step and do next to no arithmetic.

Shapes: T tokens, N outputs, R rank, M and N of a gradient.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from danlu.ops.kernels import IS_INTERPRETED, fits, jit, power_of_2, tl, triton

TOKENS, OUTPUTS = 64, 512  # of the tile of dy that a program holds
MAX_PAIR_RANK, MAX_RANK = 32, 64  # beyond: partial sums weigh as much as a second reading; registers run out
MIN_BYTES = 32 << 20  # of dy: less stays in a big card's cache, where two products read it twice at no cost
MAX_TOKENS = 32_768  # at a time, which bounds the partial sums
SHARED_BYTES = 227 << 10  # of a Hopper program
NUM_PROGRAMS = 264  # at most: two for each multiprocessor, which holds one at a time


def pair_backward(
    dy_TN: Tensor, scaled_B_NR: Tensor, s_TR: Tensor, grad_B_NR: Tensor, *, scale: float, out_TR: Tensor
) -> None:
    """out_TR = dy @ scaled_B, and grad_B_NR (fp32) += scale · dyᵀ s, where s = x Aᵀ of the forward."""
    if _has_kernel(dy_TN, s_TR, MAX_PAIR_RANK) and scaled_B_NR.dtype == dy_TN.dtype:
        for at in range(0, len(dy_TN), MAX_TOKENS):
            here = slice(at, at + MAX_TOKENS)
            _stream(dy_TN[here], s_TR[here], grad_B_NR, scale, scaled_B_NR, out_TR[here])
        return
    if out_TR.dtype == dy_TN.dtype:
        torch.mm(dy_TN, scaled_B_NR, out=out_TR)
    else:
        out_TR.copy_(dy_TN @ scaled_B_NR)
    add_product_(grad_B_NR, dy_TN, s_TR, scale)


def add_product_(grad_MN: Tensor, a_TM: Tensor, b_TN: Tensor, scale: float = 1.0) -> None:
    """grad_MN (fp32) += scale · aᵀ b, accumulated in fp32."""
    (wide, narrow), grad = ((a_TM, b_TN), grad_MN) if a_TM.shape[1] > b_TN.shape[1] else ((b_TN, a_TM), grad_MN.mT)
    if _has_kernel(wide, narrow, MAX_RANK):
        for at in range(0, len(wide), MAX_TOKENS):
            _stream(wide[at : at + MAX_TOKENS], narrow[at : at + MAX_TOKENS], grad, scale)
    elif a_TM.dtype == grad_MN.dtype:
        grad_MN.addmm_(a_TM.mT, b_TN, alpha=scale)
    elif a_TM.is_cuda and _widens(a_TM.dtype, a_TM.device):
        torch.addmm(grad_MN, a_TM.mT, b_TN, out_dtype=grad_MN.dtype, alpha=scale, out=grad_MN)
    else:
        grad_MN.add_(a_TM.mT @ b_TN, alpha=scale)


@functools.cache
def _widens(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch multiplies 16-bit matrices into an fp32 sum here; asked once by doing it."""
    a, grad = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.addmm(grad, a, a, out_dtype=grad.dtype, out=grad)
    except (RuntimeError, TypeError):
        return False
    return bool((grad == 17).all())


def _has_kernel(wide_TN: Tensor, narrow_TR: Tensor, max_rank: int) -> bool:
    """Whether one pass by the kernel beats cuBLAS products."""
    if not fits(wide_TN, narrow_TR) or wide_TN.dtype != narrow_TR.dtype or wide_TN.dtype == torch.float32:
        return False
    is_big = wide_TN.numel() * wide_TN.element_size() >= MIN_BYTES
    return is_big and narrow_TR.shape[1] <= max_rank and _is_hopper(wide_TN.device)


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Before it tiles do not stream past the registers; after it nothing was measured."""
    return IS_INTERPRETED or torch.cuda.get_device_capability(device)[0] == 9


def _stream(
    dy_TN: Tensor, s_TR: Tensor, grad_NR: Tensor, scale: float, b_NR: Tensor | None = None, out_TR: Tensor | None = None
) -> None:
    """grad_NR += scale · dyᵀ s and, with `b_NR`, out_TR = dy b, while dy goes by once.

    A program owns OUTPUTS columns and a stretch of the tokens. It sums its part of the gradient in registers; its part
    of out, one product per tile, it writes down for a second kernel to sum. No atomic additions: the order of all sums
    is fixed.
    """
    (num_tokens, num_outputs), rank = dy_TN.shape, s_TR.shape[1]
    padded = max(16, power_of_2(rank))  # matrix units take no fewer columns
    num_tiles = triton.cdiv(num_outputs, OUTPUTS)
    tokens_per_split = TOKENS * triton.cdiv(num_tokens, TOKENS * max(1, NUM_PROGRAMS // num_tiles))
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    grad_parts = torch.empty(num_splits, num_outputs, padded, dtype=torch.float32, device=dy_TN.device)
    out_parts = None
    if out_TR is not None:
        out_parts = torch.empty(num_tiles, num_tokens, padded, dtype=torch.float32, device=dy_TN.device)
    own_bytes = 2 * OUTPUTS * padded + 4 * TOKENS * padded  # b, and a tile of out on its way from registers
    num_stages = (SHARED_BYTES - (own_bytes if out_parts is not None else 0)) // (2 * TOKENS * (OUTPUTS + padded))
    _stream_kernel[(num_tiles, num_splits)](
        dy_TN, s_TR, b_NR, grad_parts, out_parts, num_tokens, num_outputs, tokens_per_split,
        dy_TN.stride(0), s_TR.stride(0), 0 if b_NR is None else b_NR.stride(0),
        R=rank, TOKENS=TOKENS, OUTPUTS=OUTPUTS, RANK=padded,
        num_warps=8, num_stages=min(num_stages, 3),
    )  # fmt: skip
    _add_parts(grad_parts, grad_NR, scale, adds=True)
    if out_parts is not None and out_TR is not None:
        _add_parts(out_parts, out_TR, 1.0, adds=False)


def _add_parts(parts: Tensor, out: Tensor, scale: float, *, adds: bool) -> None:
    num_parts, num_rows, padded = parts.shape
    elements = 256
    _add_parts_kernel[(triton.cdiv(num_rows * padded, elements),)](
        parts, out, num_parts, num_rows, out.stride(0), out.stride(1), scale,
        R=out.shape[1], RANK=padded, ADDS=adds, PARTS=16, ELEMENTS=elements, num_warps=4,
    )  # fmt: skip


@jit(do_not_specialize=["num_tokens", "tokens_per_split"])
def _stream_kernel(  # type: ignore[no-untyped-def]
    dy, s, b, grad_parts, out_parts, num_tokens, num_outputs, tokens_per_split, dy_stride, s_stride, b_stride,
    R: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    column_N, column_R = tile * OUTPUTS + tl.arange(0, OUTPUTS), tl.arange(0, RANK)
    is_column_N, is_column_R = column_N < num_outputs, column_R < R
    if b is not None:
        mask_NR = is_column_N[:, None] & is_column_R[None, :]
        b_NR = tl.load(b + column_N[:, None] * b_stride + column_R[None, :], mask=mask_NR, other=0.0)
    grad_NR = tl.zeros((OUTPUTS, RANK), dtype=tl.float32)
    begin = split * tokens_per_split
    for at in range(0, tokens_per_split, TOKENS):
        token_T = begin + at + tl.arange(0, TOKENS)
        is_token_T = token_T < num_tokens
        dy_at_TN = dy + token_T[:, None] * dy_stride + column_N[None, :]
        dy_TN = tl.load(dy_at_TN, mask=is_token_T[:, None] & is_column_N[None, :], other=0.0)
        s_at_TR = s + token_T[:, None] * s_stride + column_R[None, :]
        s_TR = tl.load(s_at_TR, mask=is_token_T[:, None] & is_column_R[None, :], other=0.0)
        if b is not None:
            out_at_TR = out_parts + (tile * num_tokens + token_T)[:, None] * RANK + column_R[None, :]
            tl.store(out_at_TR, tl.dot(dy_TN, b_NR), mask=is_token_T[:, None])
        grad_NR = tl.dot(tl.trans(dy_TN), s_TR, grad_NR)
    grad_at_NR = grad_parts + (split * num_outputs + column_N)[:, None] * RANK + column_R[None, :]
    tl.store(grad_at_NR, grad_NR, mask=is_column_N[:, None])


@jit(do_not_specialize=["num_parts", "num_rows"])
def _add_parts_kernel(  # type: ignore[no-untyped-def]
    parts, out, num_parts, num_rows, row_stride, column_stride, scale,
    R: tl.constexpr, RANK: tl.constexpr, ADDS: tl.constexpr, PARTS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """out = (out +) scale · the sum over parts; the last dimension of parts is padded from R to RANK."""
    element_E = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    row_E, column_E = element_E // RANK, element_E % RANK
    is_there_E = row_E < num_rows
    sum_PE = tl.zeros((PARTS, ELEMENTS), dtype=tl.float32)
    for first in range(0, num_parts, PARTS):
        part_P = first + tl.arange(0, PARTS)
        at_PE = parts + part_P.to(tl.int64)[:, None] * num_rows * RANK + element_E[None, :]
        sum_PE += tl.load(at_PE, mask=(part_P < num_parts)[:, None] & is_there_E[None, :], other=0.0)
    sum_E, mask_E = tl.sum(sum_PE, axis=0) * scale, is_there_E & (column_E < R)
    out_at_E = out + row_E * row_stride + column_E * column_stride
    if ADDS:
        sum_E += tl.load(out_at_E, mask=mask_E, other=0.0).to(tl.float32)
    tl.store(out_at_E, sum_E, mask=mask_E)
