"""Attention over a packed row of short documents, in Triton: FlashAttention-2's tiles (Dao, 2023), cut so that shared
key heads stay shared.

torch's flash kernel gives each query head its own key gradients and adds them up afterwards, and collects query
gradients in fp32 memory; on documents of a few hundred tokens that traffic costs more than the arithmetic. Here one
program owns a tile of queries, or a tile of keys with all query heads that share them: no atomics, nothing beside the
outputs but two numbers per query and head, the same bits every time. Scores are computed twice in the backward, so long
documents are better off elsewhere (`choice` measures).

A program finds its document by counting tiles, so grids depend on the numbers of tokens and documents only.

Shapes: T tokens of all documents, N documents, H query heads, K key/value heads, D head size; in kernels Q queries and
C keys of a tile. Scores and their log-sum-exp are in units of log 2.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.attention.kernel import Ask, Heads, Saved
from danlu.ops.kernels import HAS_TRITON, IS_INTERPRETED, jit, power_of_2, tl, triton

FEWEST_SEARCHED = 256  # documents; fewer would be compiled apart and gain nothing


@dataclass(frozen=True, slots=True)
class Tiles:
    """How one kernel is cut: tokens that a program owns, tokens that it passes over at a time."""

    own: int
    other: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Of the three kernels: output, gradient of queries, gradient of keys and values."""

    forward: Tiles
    queries: Tiles
    keys: Tiles


def cut_for(head_size: int) -> Cut:
    """Plain rules, nothing is tuned at run time. Shared memory stays below the 99 KiB of cards for desks, registers
    below 255: larger tiles of keys spill."""
    if head_size > 128:
        return Cut(Tiles(64, 32, 8, 2), Tiles(64, 32, 8, 2), Tiles(32, 32, 8, 2))
    return Cut(Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 2), Tiles(64, 32, 4, 2))


class Tiled:
    is_deterministic = True

    def __init__(self, cut: Cut | None = None, name: str = "tiled") -> None:
        self._cut, self.name = cut, name

    def fits(self, heads: Heads, ask: Ask) -> bool:
        size = heads.head_size
        is_card = heads.capability >= (8, 0) or IS_INTERPRETED
        is_shape = 16 <= size <= 256 and size == power_of_2(size) and ask.bounds.num_tokens > 0
        return HAS_TRITON and is_card and heads.is_16_bit and is_shape and ask.softcap is None

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        T, H, D = q_THD.shape
        out_THD = torch.empty(T, H, D, dtype=q_THD.dtype, device=q_THD.device)
        lse_HT = torch.empty(H, T, dtype=torch.float32, device=q_THD.device)
        cut = self._cut_of(D).forward
        grid, common, sizes = _launch(ask, cut, q_THD, k_TKD)
        _forward_kernel[(*grid, H)](
            q_THD, k_TKD, v_TKD, out_THD, lse_HT, *common, q_THD.stride(0), k_TKD.stride(0), v_TKD.stride(0),
            **sizes, num_warps=cut.num_warps, num_stages=cut.num_stages,
        )  # fmt: skip
        return out_THD, (lse_HT,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        (lse_HT,) = saved
        H, D, K = q_THD.shape[1], q_THD.shape[2], k_TKD.shape[1]
        grad_THD = grad_THD if grad_THD.stride(-1) == 1 and grad_THD.stride(1) == D else grad_THD.contiguous()
        dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_THD, k_TKD, v_TKD))
        delta_HT = torch.empty_like(lse_HT)
        strides = (q_THD.stride(0), k_TKD.stride(0), v_TKD.stride(0), grad_THD.stride(0))
        cut = self._cut_of(D).queries
        grid, common, sizes = _launch(ask, cut, q_THD, k_TKD)
        _queries_kernel[(*grid, H)](
            q_THD, k_TKD, v_TKD, out_THD, grad_THD, lse_HT, delta_HT, dq, *common, *strides,
            **sizes, num_warps=cut.num_warps, num_stages=cut.num_stages,
        )  # fmt: skip
        cut = self._cut_of(D).keys
        grid, common, sizes = _launch(ask, cut, q_THD, k_TKD)
        _keys_kernel[(*grid, K)](
            q_THD, k_TKD, v_TKD, grad_THD, lse_HT, delta_HT, dk, dv, *common, *strides,
            **sizes, num_warps=cut.num_warps, num_stages=cut.num_stages,
        )  # fmt: skip
        return dq, dk, dv

    def _cut_of(self, head_size: int) -> Cut:
        return self._cut or cut_for(head_size)


def _launch(
    ask: Ask, cut: Tiles, q_THD: Tensor, k_TKD: Tensor
) -> tuple[tuple[int, ...], tuple[object, ...], dict[str, int]]:
    """(grid over tiles, what every kernel is told, sizes that it is compiled for)."""
    bounds, count = ask.bounds, ask.bounds.count_bucket
    cu = bounds.tensor(q_THD.device, count)
    tiles = bounds.derived(("tiles", cut.own, count), q_THD.device, functools.partial(_count_tiles, cu, cut.own))
    num_tiles = triton.cdiv(bounds.num_tokens, cut.own) + min(bounds.num_documents, bounds.num_tokens)
    window = ask.window if ask.needs_window and ask.window is not None else 0
    sizes = {
        "GROUP": q_THD.shape[1] // k_TKD.shape[1], "D": q_THD.shape[2], "OWN": cut.own, "OTHER": cut.other,
        "HAS_WINDOW": window > 0, "SEARCH": max(FEWEST_SEARCHED, power_of_2(count + 1)),
    }  # fmt: skip
    return (num_tiles,), (cu, tiles, count, len(q_THD), ask.scale, window), sizes


def _count_tiles(cu: Tensor, own: int) -> Tensor:
    """tiles_N1: how many tiles begin before each document; computed where the bounds lie."""
    tiles = torch.zeros_like(cu)
    torch.cumsum((cu.diff() + (own - 1)) // own, 0, out=tiles[1:])
    return tiles


PLAIN = ["count", "num_tokens", "window"]


@jit
def _find(cu, tiles, count, OWN: tl.constexpr, SEARCH: tl.constexpr):  # type: ignore[no-untyped-def]
    """(begin of the document, its end, first token of this program's tile); all equal where there is none."""
    tile = tl.program_id(0)
    index = tl.arange(0, SEARCH)
    before = tl.load(tiles + index, mask=index <= count, other=2147483647)
    document = tl.sum((before <= tile).to(tl.int32), axis=0) - 1
    is_there = document < count
    begin = tl.load(cu + document, mask=is_there, other=0)
    end = tl.load(cu + document + 1, mask=is_there, other=0)
    first = begin + (tile - tl.load(tiles + document, mask=is_there, other=0)) * OWN
    return begin, end, first


@jit(do_not_specialize=PLAIN)
def _forward_kernel(  # type: ignore[no-untyped-def]
    q, k, v, out, lse, cu, tiles, count, num_tokens, scale, window, q_stride, k_stride, v_stride,
    GROUP: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, HAS_WINDOW: tl.constexpr,
    SEARCH: tl.constexpr,
):  # fmt: skip
    begin, end, first = _find(cu, tiles, count, OWN, SEARCH)
    if first >= end:
        return
    head = tl.program_id(1)
    row_Q, column_D = first + tl.arange(0, OWN), tl.arange(0, D)
    is_row_Q = row_Q < end
    at_QD = row_Q.to(tl.int64)[:, None] * q_stride + head * D + column_D[None, :]
    q_QD = tl.load(q + at_QD, mask=is_row_Q[:, None], other=0.0)
    k_at, v_at = k + head // GROUP * D, v + head // GROUP * D
    factor = scale * 1.4426950408889634
    most_Q = tl.full((OWN,), float("-inf"), dtype=tl.float32)
    sum_Q = tl.zeros((OWN,), dtype=tl.float32)
    out_QD = tl.zeros((OWN, D), dtype=tl.float32)
    lowest = begin
    if HAS_WINDOW:
        lowest = tl.maximum(begin, begin + (first - window + 1 - begin) // OTHER * OTHER)
    highest = tl.minimum(first + OWN, end)
    for at in range(lowest, highest, OTHER):
        key_C = at + tl.arange(0, OTHER)
        is_key_C = key_C < end
        row_C = key_C.to(tl.int64)
        k_DC = tl.load(k_at + row_C[None, :] * k_stride + column_D[:, None], mask=is_key_C[None, :], other=0.0)
        score_QC = tl.dot(q_QD, k_DC) * factor
        is_seen_QC = row_Q[:, None] >= key_C[None, :]
        if HAS_WINDOW:
            is_seen_QC &= row_Q[:, None] - key_C[None, :] < window
        score_QC = tl.where(is_seen_QC, score_QC, float("-inf"))
        new_Q = tl.maximum(most_Q, tl.max(score_QC, axis=1))
        calm_Q = tl.where(new_Q == float("-inf"), 0.0, new_Q)
        share_QC = tl.exp2(score_QC - calm_Q[:, None])
        shrink_Q = tl.exp2(most_Q - calm_Q)
        sum_Q = sum_Q * shrink_Q + tl.sum(share_QC, axis=1)
        v_CD = tl.load(v_at + row_C[:, None] * v_stride + column_D[None, :], mask=is_key_C[:, None], other=0.0)
        out_QD = tl.dot(share_QC.to(v_CD.dtype), v_CD, out_QD * shrink_Q[:, None])
        most_Q = new_Q
    sum_Q = tl.where(sum_Q == 0.0, 1.0, sum_Q)  # rows past the end see nothing
    num_heads = tl.num_programs(1)
    out_at_QD = row_Q.to(tl.int64)[:, None] * (num_heads * D) + head * D + column_D[None, :]
    tl.store(out + out_at_QD, (out_QD / sum_Q[:, None]).to(out.dtype.element_ty), mask=is_row_Q[:, None])
    tl.store(lse + head.to(tl.int64) * num_tokens + row_Q, most_Q + tl.log2(sum_Q), mask=is_row_Q)


@jit(do_not_specialize=PLAIN)
def _queries_kernel(  # type: ignore[no-untyped-def]
    q, k, v, out, grad, lse, delta, dq, cu, tiles, count, num_tokens, scale, window,
    q_stride, k_stride, v_stride, grad_stride,
    GROUP: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, HAS_WINDOW: tl.constexpr,
    SEARCH: tl.constexpr,
):  # fmt: skip
    """The gradient of a tile of queries, and delta = Σ grad · out of each, which the keys' kernel reads."""
    begin, end, first = _find(cu, tiles, count, OWN, SEARCH)
    if first >= end:
        return
    head, num_heads = tl.program_id(1), tl.num_programs(1)
    row_Q, column_D = first + tl.arange(0, OWN), tl.arange(0, D)
    is_row_Q = row_Q < end
    wide_Q = row_Q.to(tl.int64)
    own_at_QD = wide_Q[:, None] * (num_heads * D) + head * D + column_D[None, :]
    q_QD = tl.load(q + wide_Q[:, None] * q_stride + head * D + column_D[None, :], mask=is_row_Q[:, None], other=0.0)
    grad_at_QD = grad + wide_Q[:, None] * grad_stride + head * D + column_D[None, :]
    grad_QD = tl.load(grad_at_QD, mask=is_row_Q[:, None], other=0.0)
    out_QD = tl.load(out + own_at_QD, mask=is_row_Q[:, None], other=0.0)
    delta_Q = tl.sum(grad_QD.to(tl.float32) * out_QD.to(tl.float32), axis=1)
    at_Q = head.to(tl.int64) * num_tokens + row_Q
    tl.store(delta + at_Q, delta_Q, mask=is_row_Q)
    lse_Q = tl.load(lse + at_Q, mask=is_row_Q, other=float("inf"))
    k_at, v_at = k + head // GROUP * D, v + head // GROUP * D
    factor = scale * 1.4426950408889634
    dq_QD = tl.zeros((OWN, D), dtype=tl.float32)
    lowest = begin
    if HAS_WINDOW:
        lowest = tl.maximum(begin, begin + (first - window + 1 - begin) // OTHER * OTHER)
    highest = tl.minimum(first + OWN, end)
    for at in range(lowest, highest, OTHER):
        key_C = at + tl.arange(0, OTHER)
        is_key_C = key_C < end
        row_C = key_C.to(tl.int64)
        k_DC = tl.load(k_at + row_C[None, :] * k_stride + column_D[:, None], mask=is_key_C[None, :], other=0.0)
        v_DC = tl.load(v_at + row_C[None, :] * v_stride + column_D[:, None], mask=is_key_C[None, :], other=0.0)
        share_QC = tl.exp2(tl.dot(q_QD, k_DC) * factor - lse_Q[:, None])
        is_seen_QC = row_Q[:, None] >= key_C[None, :]
        if HAS_WINDOW:
            is_seen_QC &= row_Q[:, None] - key_C[None, :] < window
        share_QC = tl.where(is_seen_QC, share_QC, 0.0)
        dscore_QC = share_QC * (tl.dot(grad_QD, v_DC) - delta_Q[:, None])
        dq_QD = tl.dot(dscore_QC.to(k_DC.dtype), tl.trans(k_DC), dq_QD)
    tl.store(dq + own_at_QD, (dq_QD * scale).to(dq.dtype.element_ty), mask=is_row_Q[:, None])


@jit(do_not_specialize=PLAIN)
def _keys_kernel(  # type: ignore[no-untyped-def]
    q, k, v, grad, lse, delta, dk, dv, cu, tiles, count, num_tokens, scale, window,
    q_stride, k_stride, v_stride, grad_stride,
    GROUP: tl.constexpr, D: tl.constexpr, OWN: tl.constexpr, OTHER: tl.constexpr, HAS_WINDOW: tl.constexpr,
    SEARCH: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values, over all query heads that share them."""
    _, end, first = _find(cu, tiles, count, OWN, SEARCH)
    if first >= end:
        return
    kv_head, num_kv_heads = tl.program_id(1), tl.num_programs(1)
    key_C, column_D = first + tl.arange(0, OWN), tl.arange(0, D)
    is_key_C = key_C < end
    wide_C = key_C.to(tl.int64)
    k_at_CD = k + wide_C[:, None] * k_stride + kv_head * D + column_D[None, :]
    v_at_CD = v + wide_C[:, None] * v_stride + kv_head * D + column_D[None, :]
    k_CD = tl.load(k_at_CD, mask=is_key_C[:, None], other=0.0)
    v_CD = tl.load(v_at_CD, mask=is_key_C[:, None], other=0.0)
    factor = scale * 1.4426950408889634
    dk_CD = tl.zeros((OWN, D), dtype=tl.float32)
    dv_CD = tl.zeros((OWN, D), dtype=tl.float32)
    highest = end
    if HAS_WINDOW:
        highest = tl.minimum(end, first + OWN - 1 + window)
    for head in range(kv_head * GROUP, (kv_head + 1) * GROUP):
        for at in range(first, highest, OTHER):
            row_Q = at + tl.arange(0, OTHER)
            is_row_Q = row_Q < end
            wide_Q = row_Q.to(tl.int64)
            q_at_QD = q + wide_Q[:, None] * q_stride + head * D + column_D[None, :]
            grad_at_QD = grad + wide_Q[:, None] * grad_stride + head * D + column_D[None, :]
            q_QD = tl.load(q_at_QD, mask=is_row_Q[:, None], other=0.0)
            grad_QD = tl.load(grad_at_QD, mask=is_row_Q[:, None], other=0.0)
            at_Q = num_tokens.to(tl.int64) * head + row_Q
            lse_Q = tl.load(lse + at_Q, mask=is_row_Q, other=float("inf"))
            delta_Q = tl.load(delta + at_Q, mask=is_row_Q, other=0.0)
            share_CQ = tl.exp2(tl.dot(k_CD, tl.trans(q_QD)) * factor - lse_Q[None, :])
            is_seen_CQ = row_Q[None, :] >= key_C[:, None]
            if HAS_WINDOW:
                is_seen_CQ &= row_Q[None, :] - key_C[:, None] < window
            share_CQ = tl.where(is_seen_CQ, share_CQ, 0.0)
            dv_CD = tl.dot(share_CQ.to(grad_QD.dtype), grad_QD, dv_CD)
            dscore_CQ = share_CQ * (tl.dot(v_CD, tl.trans(grad_QD)) - delta_Q[None, :])
            dk_CD = tl.dot(dscore_CQ.to(q_QD.dtype), q_QD, dk_CD)
    own_at_CD = wide_C[:, None] * (num_kv_heads * D) + kv_head * D + column_D[None, :]
    tl.store(dk + own_at_CD, (dk_CD * scale).to(dk.dtype.element_ty), mask=is_key_C[:, None])
    tl.store(dv + own_at_CD, dv_CD.to(dv.dtype.element_ty), mask=is_key_C[:, None])
