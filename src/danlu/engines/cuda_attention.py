"""Attention over pages, for a card: queries and keys normed and turned, keys and values put into their pages, one query
a row over all that the row holds, and a prompt's queries over what stands before them.

One query a row leaves most of a card idle, so a row's pages are shared out among several programs and what they found
is put together ("Flash-Decoding", Dao, Haziza, Massa & Sizov 2023; the running softmax is FlashAttention's, Dao et al.
2022, arXiv:2205.14135). Query heads that share a key head are the rows of one product. Scores, softmax and sums are
fp32; products multiply in the dtype of the pages. Without Triton the same is written out in torch: slow, and what the
kernels are held to.

Shapes: T tokens, B rows, H query heads, K key/value heads, S = H / K that share one, D head size, R turned part of it,
P pages of a row, M queries and N places of a tile; [.., W] is D widened to a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.engines.cuda_pages import PAGE
from danlu.model.spec import Spec
from danlu.ops.kernels import fits, jit, power_of_2, tl, triton
from danlu.ops.rms_norm import reference_rms_norm, scaled
from danlu.ops.turn import HeadNorms, Rotation, rotate

HEADS = 8
"""Heads that one program turns."""
TILE = 64
"""Tokens of a prompt that one program takes."""
WAVES, MOST_PARTS = 4, 64
"""Programs for each multiprocessor of a card that decoding aims at; parts of one row at most."""
LOG2_E = 1.4426950408889634


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Heads of a layer and how its queries attend to keys; `window` and `softcap` 0: none."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float
    window: int
    softcap: float

    @classmethod
    def of(cls, spec: Spec, layer: int) -> AttentionShape:
        return cls(
            spec.num_heads, spec.num_kv_heads, spec.head_size, spec.attention_scale, spec.windows[layer] or 0,
            spec.attention_softcap or 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class PagedKV:
    """One layer's pages, and each row's list of them. Rows of the table beyond a row's own pages are never read."""

    keys: Tensor  # [all pages, K, PAGE, D]
    values: Tensor
    table_BP: Tensor  # noqa: N815 - int32


def place(
    qkv_TN: Tensor,
    turn: Rotation,
    norms: HeadNorms | None,
    kv: PagedKV,
    rows_T: Tensor,
    positions_T: Tensor,
    shape: AttentionShape,
) -> Tensor:
    """q_TX, normed and turned; keys, the same, and values into the places of their rows. A token at a position below 0
    is nobody's: nothing is written."""
    num_q, num_kv, size = shape.num_heads, shape.num_kv_heads, shape.head_size
    if not fits(qkv_TN, turn.cos, kv.keys):
        return reference_place(qkv_TN, turn, norms, kv, rows_T, positions_T, shape)
    q_TX = qkv_TN.new_empty(len(qkv_TN), num_q * size)
    num_groups = triton.cdiv(num_q, HEADS) + 2 * triton.cdiv(num_kv, HEADS)
    _place_kernel[(len(qkv_TN), num_groups)](
        qkv_TN, q_TX, turn.cos, turn.sin, norms and norms.q_weight, norms and norms.k_weight, kv.keys, kv.values,
        kv.table_BP, rows_T, positions_T, qkv_TN.stride(0), q_TX.stride(0), turn.cos.stride(0),
        kv.table_BP.stride(0), kv.keys.stride(0), norms.eps if norms else 0.0,
        H=num_q, K=num_kv, D=size, F=turn.cos.shape[-1] // 2, WIDTH=power_of_2(size), PAGE=PAGE, HEADS=HEADS,
        OFFSET=norms.offset if norms else 0.0, num_warps=2,
    )  # fmt: skip
    return q_TX


def decode(q_BX: Tensor, kv: PagedKV, positions_B: Tensor, shape: AttentionShape, num_parts: int) -> Tensor:
    """out_BX: row b's one query, of the token at positions_B[b], over the places up to it; 0 where that is below 0."""
    if not fits(q_BX, kv.keys):
        return reference_decode(q_BX, kv, positions_B, shape)
    num_rows, num_kv, size = len(q_BX), shape.num_kv_heads, shape.head_size
    out_BX = torch.empty_like(q_BX)
    found_BHCD, logs_BHC = out_BX, out_BX
    if num_parts > 1:
        logs_BHC = torch.empty(num_rows, shape.num_heads, num_parts, dtype=torch.float32, device=q_BX.device)
        found_BHCD = logs_BHC.new_empty(*logs_BHC.shape, size)
    num_shared = shape.num_heads // num_kv
    _decode_kernel[(num_rows, num_kv, num_parts)](
        q_BX, out_BX, found_BHCD, logs_BHC, kv.keys, kv.values, kv.table_BP, positions_B,
        q_BX.stride(0), kv.table_BP.stride(0), kv.keys.stride(0), shape.scale * LOG2_E,
        S=num_shared, SHARED=max(16, power_of_2(num_shared)), PARTS=num_parts, **_tile_of(shape, q_BX.dtype),
    )  # fmt: skip
    if num_parts > 1:
        _join_kernel[(num_rows * shape.num_heads,)](
            found_BHCD, logs_BHC, out_BX, PARTS=num_parts, D=size, WIDTH=power_of_2(size), num_warps=4
        )
    return out_BX


def prefill(q_TX: Tensor, kv: PagedKV, tiles: Tensor, shape: AttentionShape) -> Tensor:
    """out_TX of prompts' tokens. A tile, [.., 4] int32, is at most TILE tokens of one row: the row, where they begin in
    the flat row and in their own, how many."""
    if not fits(q_TX, kv.keys):
        return reference_prefill(q_TX, kv, tiles, shape)
    out_TX = torch.empty_like(q_TX)
    _prefill_kernel[(len(tiles), shape.num_heads)](
        q_TX, out_TX, kv.keys, kv.values, kv.table_BP, tiles,
        q_TX.stride(0), kv.table_BP.stride(0), kv.keys.stride(0), shape.scale * LOG2_E,
        S=shape.num_heads // shape.num_kv_heads, TILE=TILE, **_tile_of(shape, q_TX.dtype),
    )  # fmt: skip
    return out_TX


def parts_of(num_rows: int, num_kv_heads: int, device: torch.device) -> int:
    """Among how many programs each head of so many rows is shared out."""
    num_processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    return min(MOST_PARTS, power_of_2(-(-WAVES * num_processors // (num_rows * num_kv_heads))))


def _tile_of(shape: AttentionShape, dtype: torch.dtype) -> dict[str, int | float]:
    """Places that a program looks at together: as many as two stages of keys and values leave room for on any card."""
    width = max(16, power_of_2(shape.head_size))
    block = 64 if width * dtype.itemsize <= 256 else 32 if width * dtype.itemsize <= 512 else 16
    return {
        "K": shape.num_kv_heads, "D": shape.head_size, "WIDTH": width, "PAGE": PAGE, "BLOCK": block,
        "WINDOW": shape.window, "SOFTCAP": shape.softcap, "num_warps": 4, "num_stages": 2,
    }  # fmt: skip


# ---- written out


def reference_place(
    qkv_TN: Tensor,
    turn: Rotation,
    norms: HeadNorms | None,
    kv: PagedKV,
    rows_T: Tensor,
    positions_T: Tensor,
    shape: AttentionShape,
) -> Tensor:
    num_q, num_kv = shape.num_heads, shape.num_kv_heads
    heads_THD = qkv_TN.view(len(qkv_TN), -1, shape.head_size)
    q_THD, k_TKD, v_TKD = torch.split(heads_THD, [num_q, num_kv, num_kv], dim=1)
    if norms is not None:
        q_THD = reference_rms_norm(q_THD, norms.q_weight, norms.eps, norms.offset)
        k_TKD = reference_rms_norm(k_TKD, norms.k_weight, norms.eps, norms.offset)
    turned_TKD = rotate(k_TKD, turn.cos, turn.signed_sin)
    own_S = (positions_T >= 0).nonzero()[:, 0]
    rows_S, positions_S = rows_T[own_S].long(), positions_T[own_S].long()
    pages_S = kv.table_BP[rows_S, positions_S // PAGE].long()
    kv.keys[pages_S, :, positions_S % PAGE] = turned_TKD[own_S].to(kv.keys.dtype)
    kv.values[pages_S, :, positions_S % PAGE] = v_TKD[own_S].to(kv.values.dtype)
    return rotate(q_THD, turn.cos, turn.signed_sin).flatten(1)


def reference_decode(q_BX: Tensor, kv: PagedKV, positions_B: Tensor, shape: AttentionShape) -> Tensor:
    out_BX = torch.zeros_like(q_BX)
    for row, position in enumerate(positions_B.tolist()):
        if position >= 0:
            out_BX[row] = _attended(q_BX[row : row + 1], kv, row, position, shape)[0]
    return out_BX


def reference_prefill(q_TX: Tensor, kv: PagedKV, tiles: Tensor, shape: AttentionShape) -> Tensor:
    out_TX = torch.zeros_like(q_TX)
    for row, begin, position, count in tiles.tolist():
        own = slice(begin, begin + count)
        out_TX[own] = _attended(q_TX[own], kv, row, position, shape)
    return out_TX


def _attended(q_TX: Tensor, kv: PagedKV, row: int, position: int, shape: AttentionShape) -> Tensor:
    """out_TX of one row's queries, the first of them at this position."""
    length = position + len(q_TX)
    pages = kv.table_BP[row, : -(-length // PAGE)].long()
    num_shared = shape.num_heads // shape.num_kv_heads
    k_KND, v_KND = (
        whole[pages].transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(num_shared, 0)
        for whole in (kv.keys, kv.values)
    )
    q_HTD = q_TX.view(len(q_TX), shape.num_heads, -1).transpose(0, 1)
    scores_HTN = (q_HTD.float() @ k_KND.float().mT) * shape.scale
    if shape.softcap:
        scores_HTN = torch.tanh(scores_HTN / shape.softcap) * shape.softcap
    behind_TN = torch.arange(position, length)[:, None] - torch.arange(length)
    is_hidden_TN = behind_TN < 0
    if shape.window:
        is_hidden_TN |= behind_TN >= shape.window
    weights_HTN = scores_HTN.masked_fill(is_hidden_TN.to(q_TX.device), float("-inf")).softmax(-1)
    out_HTD: Tensor = (weights_HTN @ v_KND.float()).to(q_TX.dtype)
    return out_HTD.transpose(0, 1).flatten(1)


# ---- kernels


@jit
def _place_kernel(  # type: ignore[no-untyped-def]
    qkv, out, cos, sin, q_weight, k_weight, keys, values, table, rows, positions,
    qkv_stride, out_stride, turn_stride, table_stride, page_stride, eps,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, F: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    HEADS: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    """One token's heads, HEADS of them: first the programs of q, then those of k, then those of v."""
    token, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    num_q: tl.constexpr = (H + HEADS - 1) // HEADS
    num_k: tl.constexpr = (K + HEADS - 1) // HEADS
    position = tl.load(positions + token)
    if position >= 0:
        row = tl.load(rows + token).to(tl.int64)
        page = tl.load(table + row * table_stride + position // PAGE).to(tl.int64)
        head_H, column_W = tl.arange(0, HEADS), tl.arange(0, WIDTH)
        line, turns = qkv + token * qkv_stride, token * turn_stride
        if group < num_q:
            own_H = group * HEADS + head_H
            mask_HW = (own_H < H)[:, None] & (column_W < D)[None, :]
            turned_HW = _turned(line + own_H * D, mask_HW, q_weight, cos + turns, sin + turns, eps, D, F, WIDTH, OFFSET)
            tl.store(out + token * out_stride + own_H[:, None] * D + column_W[None, :], turned_HW, mask=mask_HW)
        else:
            own_H = (group - num_q) % num_k * HEADS + head_H
            mask_HW = (own_H < K)[:, None] & (column_W < D)[None, :]
            at_HW = page * page_stride + (own_H * PAGE + position % PAGE)[:, None] * D + column_W[None, :]
            if group < num_q + num_k:
                turned_HW = _turned(
                    line + (H + own_H) * D, mask_HW, k_weight, cos + turns, sin + turns, eps, D, F, WIDTH, OFFSET
                )
                tl.store(keys + at_HW, turned_HW, mask=mask_HW)
            else:
                from_HW = line + (H + K + own_H)[:, None] * D + column_W[None, :]
                tl.store(values + at_HW, tl.load(from_HW, mask=mask_HW, other=0.0), mask=mask_HW)


@jit
def _turned(  # type: ignore[no-untyped-def]
    at_H, mask_HW, weight, cos, sin, eps, D: tl.constexpr, F: tl.constexpr, WIDTH: tl.constexpr, OFFSET: tl.constexpr
):
    """Heads normed, where they have a weight, and turned, rounded where the written-out form rounds."""
    dtype: tl.constexpr = at_H.dtype.element_ty
    column_W = tl.arange(0, WIDTH)
    is_turned_W, is_first_W = column_W < 2 * F, column_W < F
    other_W = tl.where(is_first_W, column_W + F, tl.where(is_turned_W, column_W - F, column_W))
    x_HW = tl.load(at_H[:, None] + column_W[None, :], mask=mask_HW, other=0.0).to(tl.float32)
    other_HW = tl.load(at_H[:, None] + other_W[None, :], mask=mask_HW, other=0.0).to(tl.float32)
    if weight is not None:
        inverse_H = tl.rsqrt(tl.sum(x_HW * x_HW, axis=1) / D + eps)
        own_W = tl.load(weight + column_W, mask=column_W < D, other=0.0)
        its_W = tl.load(weight + other_W, mask=column_W < D, other=0.0)
        x_HW = scaled(x_HW * inverse_H[:, None], own_W[None, :], dtype, OFFSET).to(dtype).to(tl.float32)
        other_HW = scaled(other_HW * inverse_H[:, None], its_W[None, :], dtype, OFFSET).to(dtype).to(tl.float32)
    cos_W = tl.load(cos + column_W, mask=is_turned_W, other=1.0).to(dtype).to(tl.float32)
    sin_W = tl.load(sin + column_W, mask=is_turned_W, other=0.0).to(dtype).to(tl.float32)
    return x_HW * cos_W[None, :] + other_HW * tl.where(is_first_W, -sin_W, sin_W)[None, :]


@jit
def _decode_kernel(  # type: ignore[no-untyped-def]
    q, out, found, logs, keys, values, table, positions, q_stride, table_stride, page_stride, scale,
    K: tl.constexpr, S: tl.constexpr, D: tl.constexpr, SHARED: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    BLOCK: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One row, one key head, one part of the row's places."""
    row, head, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position = tl.load(positions + row)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(position + 1 - WINDOW, 0) // BLOCK
    num_blocks = (position + BLOCK) // BLOCK - first
    share = tl.cdiv(num_blocks, PARTS)
    begin = first + part * share
    end = tl.minimum(begin + share, first + num_blocks)
    shared_M, column_W = tl.arange(0, SHARED), tl.arange(0, WIDTH)
    heads_M = head * S + shared_M
    mask_MW = (shared_M < S)[:, None] & (column_W < D)[None, :]
    at_MW = row * q_stride + heads_M[:, None] * D + column_W[None, :]
    if begin < end:
        q_MW = tl.load(q + at_MW, mask=mask_MW, other=0.0)
        sum_MW, top_M, total_M = _attend(
            q_MW, keys + head * PAGE * D, values + head * PAGE * D, table + row * table_stride, begin, end,
            position + shared_M * 0, position, page_stride, scale, SHARED, D, WIDTH, PAGE, BLOCK, WINDOW, SOFTCAP,
        )  # fmt: skip
        sum_MW = sum_MW / total_M[:, None]
        if PARTS == 1:
            tl.store(out + at_MW, sum_MW, mask=mask_MW)
        else:
            slot_M = (row * (K * S) + heads_M) * PARTS + part
            tl.store(found + slot_M[:, None] * D + column_W[None, :], sum_MW, mask=mask_MW)
            tl.store(logs + slot_M, top_M + tl.log2(total_M), mask=shared_M < S)
    elif PARTS == 1:
        tl.store(out + at_MW, tl.zeros((SHARED, WIDTH), dtype=tl.float32), mask=mask_MW)
    else:
        slot_M = (row * (K * S) + heads_M) * PARTS + part
        tl.store(logs + slot_M, tl.full((SHARED,), float("-inf"), dtype=tl.float32), mask=shared_M < S)


@jit
def _join_kernel(found, logs, out, PARTS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """One head of one row: its parts, each weighed by what its scores came to."""
    head = tl.program_id(0).to(tl.int64)
    part_C, column_W = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    log_C = tl.load(logs + head * PARTS + part_C)
    is_there_C = log_C != float("-inf")
    top = tl.max(log_C, axis=0)
    weight_C = tl.where(is_there_C, tl.exp2(log_C - top), 0.0)
    at_CW = (head * PARTS + part_C)[:, None] * D + column_W[None, :]
    found_CW = tl.load(found + at_CW, mask=is_there_C[:, None] & (column_W < D)[None, :], other=0.0)
    total = tl.maximum(tl.sum(weight_C, axis=0), 1e-30)
    tl.store(out + head * D + column_W, tl.sum(found_CW * weight_C[:, None], axis=0) / total, mask=column_W < D)


@jit
def _prefill_kernel(  # type: ignore[no-untyped-def]
    q, out, keys, values, table, tiles, q_stride, table_stride, page_stride, scale,
    K: tl.constexpr, S: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One query head of one tile."""
    tile, head = tl.program_id(0), tl.program_id(1)
    row = tl.load(tiles + tile * 4).to(tl.int64)
    begin = tl.load(tiles + tile * 4 + 1).to(tl.int64)
    position, count = tl.load(tiles + tile * 4 + 2), tl.load(tiles + tile * 4 + 3)
    token_M, column_W = tl.arange(0, TILE), tl.arange(0, WIDTH)
    mask_MW = (token_M < count)[:, None] & (column_W < D)[None, :]
    at_MW = (begin + token_M)[:, None] * q_stride + head * D + column_W[None, :]
    q_MW = tl.load(q + at_MW, mask=mask_MW, other=0.0)
    first = 0
    if WINDOW > 0:
        first = tl.maximum(position + 1 - WINDOW, 0) // BLOCK
    last = position + count - 1
    sum_MW, _, total_M = _attend(
        q_MW, keys + head // S * PAGE * D, values + head // S * PAGE * D, table + row * table_stride, first,
        last // BLOCK + 1, position + token_M, last, page_stride, scale, TILE, D, WIDTH, PAGE, BLOCK, WINDOW, SOFTCAP,
    )  # fmt: skip
    tl.store(out + at_MW, sum_MW / tl.maximum(total_M, 1e-30)[:, None], mask=mask_MW)


@jit
def _attend(  # type: ignore[no-untyped-def]
    q_MW, keys, values, pages, begin, end, position_M, last, page_stride, scale,
    M: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
):  # fmt: skip
    """(Σ weight · value, highest score, Σ weight) of queries at their positions over blocks [begin, end) of a row's
    places; scores are in powers of two. What lies beyond `last` was never written: it may be no number."""
    column_W, inside_N = tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    top_M = tl.full((M,), float("-inf"), dtype=tl.float32)
    total_M = tl.zeros((M,), dtype=tl.float32)
    sum_MW = tl.zeros((M, WIDTH), dtype=tl.float32)
    for block in range(begin, end):
        place_N = block * BLOCK + inside_N
        page = tl.load(pages + block * BLOCK // PAGE).to(tl.int64)
        at_NW = page * page_stride + (place_N % PAGE)[:, None] * D + column_W[None, :]
        is_there_NW = (place_N <= last)[:, None] & (column_W < D)[None, :]
        k_NW = tl.load(keys + at_NW, mask=is_there_NW, other=0.0)
        v_NW = tl.load(values + at_NW, mask=is_there_NW, other=0.0)
        score_MN = tl.dot(q_MW, tl.trans(k_NW), input_precision="ieee") * scale
        if SOFTCAP > 0:  # tanh(x) = 2 sigmoid(2x) - 1
            bound: tl.constexpr = SOFTCAP * 1.4426950408889634
            score_MN = bound * (2 * tl.sigmoid(score_MN * (2 / bound)) - 1)
        is_seen_MN = place_N[None, :] <= position_M[:, None]
        if WINDOW > 0:
            is_seen_MN &= place_N[None, :] > position_M[:, None] - WINDOW
        score_MN = tl.where(is_seen_MN, score_MN, float("-inf"))
        higher_M = tl.maximum(top_M, tl.max(score_MN, axis=1))
        base_M = tl.where(higher_M == float("-inf"), 0.0, higher_M)  # a window may reach nothing of a block
        weight_MN = tl.exp2(score_MN - base_M[:, None])
        fading_M = tl.exp2(top_M - base_M)
        total_M = total_M * fading_M + tl.sum(weight_MN, axis=1)
        sum_MW = sum_MW * fading_M[:, None] + tl.dot(weight_MN.to(v_NW.dtype), v_NW, input_precision="ieee")
        top_M = higher_M
    return sum_MW, top_M, total_M
