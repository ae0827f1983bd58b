"""The products that low-rank adapters add to the backward of a frozen matrix, y = x Wᵀ + (x Aᵀ)(s B)ᵀ.

With u = x Aᵀ of the forward and dy at hand: grad_B = s dyᵀ u and du = dy (s B); from du follow grad_A = duᵀ x and the
adapter's share of dx, which rides along in the product with W. Both products of dy stream the widest tensor of the
step and do next to no arithmetic.

Shapes: T tokens, N outputs, R rank, M and N of a gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.kernels import IS_INTERPRETED, fits, jit, power_of_2, tl, triton

TOKENS = 64  # of the tile of dy that a program holds
OUTPUTS, FEW_OUTPUTS = 512, 128  # its columns: wide ones write fewer partial sums, narrow ones occupy a card with less
MAX_PAIR_RANK, MAX_RANK = 32, 64  # beyond: partial sums weigh as much as a second reading; registers run out
MAX_PARTS = 3  # of one launch: queries, keys, values
MIN_BYTES = 32 << 20  # of dy: less stays in a big card's cache, where cuBLAS reads it at no cost, and tiles are narrow
MAX_TOKENS = 32_768  # at a time, which bounds the partial sums
SHARED_BYTES = 227 << 10  # of a Hopper program
SUM_ELEMENTS, SUM_PARTS = 256, 16  # of a program that sums: what it writes, and how many parts it reads at a time


@dataclass(frozen=True, slots=True)
class Part:
    """One pair among several that read the same input: which outputs and which ranks are its own."""

    rows: slice
    ranks: slice
    gradient: Tensor
    """Of B, [N, R] in fp32 and any strides; added to."""
    scale: float


def pairs_backward(dy_TN: Tensor, scaled_B_NR: Tensor, s_TR: Tensor, parts: Sequence[Part], *, out_TP: Tensor) -> None:
    """For each part: out[:, ranks] = dy[:, rows] @ scaled_B[rows, ranks]; gradient += scale · dy[:, rows]ᵀ s[:, ranks].

    The parts' rows and ranks ascend, their ranks without a gap from 0; columns of `out_TP` beyond become zero, so that
    a whole padding may be given. `scaled_B_NR` and `s_TR` may be wider than the ranks as well."""
    if _takes_parts(dy_TN, scaled_B_NR, s_TR, parts):
        for at in range(0, len(dy_TN), MAX_TOKENS):
            here = slice(at, at + MAX_TOKENS)
            _stream(dy_TN[here], s_TR[here], parts, scaled_B_NR, out_TP[here])
        return
    out_TP[:, parts[-1].ranks.stop :] = 0
    for part in parts:
        dy_TM, b_MR, out_TR = dy_TN[:, part.rows], scaled_B_NR[part.rows, part.ranks], out_TP[:, part.ranks]
        if out_TP.dtype == dy_TN.dtype:
            torch.mm(dy_TM, b_MR, out=out_TR)
        else:
            out_TR.copy_(dy_TM @ b_MR)
        add_product_(part.gradient, dy_TM, s_TR[:, part.ranks], part.scale)


def add_product_(grad_MN: Tensor, a_TM: Tensor, b_TN: Tensor, scale: float = 1.0) -> None:
    """grad_MN (fp32) += scale · aᵀ b, accumulated in fp32."""
    (wide, narrow), grad = ((a_TM, b_TN), grad_MN) if a_TM.shape[1] > b_TN.shape[1] else ((b_TN, a_TM), grad_MN.mT)
    is_big = wide.numel() * wide.element_size() >= MIN_BYTES
    if is_big and narrow.shape[1] <= MAX_RANK and has_kernel(wide, narrow):
        part = Part(slice(0, wide.shape[1]), slice(0, narrow.shape[1]), grad, scale)
        for at in range(0, len(wide), MAX_TOKENS):
            _stream(wide[at : at + MAX_TOKENS], narrow[at : at + MAX_TOKENS], [part])
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


def has_kernel(*tensors: Tensor) -> bool:
    """Whether these may be multiplied in a kernel of ours: one 16-bit dtype, on a card it was measured on."""
    dtypes = {tensor.dtype for tensor in tensors}
    is_16_bit = len(dtypes) == 1 and tensors[0].element_size() == 2
    return is_16_bit and fits(*tensors) and bool(len(tensors[0])) and _is_hopper(tensors[0].device)


def _takes_parts(dy_TN: Tensor, scaled_B_NR: Tensor, s_TR: Tensor, parts: Sequence[Part]) -> bool:
    widest = max(part.ranks.stop - part.ranks.start for part in parts)
    return len(parts) <= MAX_PARTS and widest <= MAX_PAIR_RANK and has_kernel(dy_TN, scaled_B_NR, s_TR)


@functools.cache
def _is_hopper(device: torch.device) -> bool:
    """Before it tiles do not stream past the registers; after it nothing was measured."""
    return IS_INTERPRETED or torch.cuda.get_device_capability(device)[0] == 9


@functools.cache
def num_multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@functools.lru_cache(maxsize=4096)
def best_split(num_tiles: int, num_steps: int, num_slots: int) -> int:
    """Into how many stretches `num_steps` are cut, so that `num_tiles` programs for each of them fill a card that runs
    `num_slots` at a time: as few whole rounds as short as can be. A program costs two steps beside its own."""
    options = range(1, min(num_steps, 64) + 1)
    return min(options, key=lambda n: (-(-num_tiles * n // num_slots) * (-(-num_steps // n) + 2), n))


def _stream(
    dy_TN: Tensor, s_TR: Tensor, parts: Sequence[Part], b_NR: Tensor | None = None, out_TP: Tensor | None = None
) -> None:
    """grad_B += scale · dyᵀ s of each part and, with `b_NR`, out = dy b, while dy goes by once.

    A program owns some columns of one part and a stretch of the tokens. It sums its part of the gradient in registers;
    its part of out, one product per tile, it writes down for a second kernel to sum. No atomic additions: the order of
    all sums is fixed.
    """
    num_tokens, dtype = len(dy_TN), torch.float32
    is_big = dy_TN.numel() * dy_TN.element_size() >= MIN_BYTES
    outputs = OUTPUTS if is_big else FEW_OUTPUTS
    layout = _layout(parts, outputs)
    rank, num_tiles = layout["RANK"], layout["tiles_3"]
    slots = num_multiprocessors(dy_TN.device) * (1 if is_big else 3)
    num_steps = triton.cdiv(num_tokens, TOKENS)
    tokens_per_split = TOKENS * triton.cdiv(num_steps, best_split(num_tiles, num_steps, slots))
    num_splits = triton.cdiv(num_tokens, tokens_per_split)
    grad_parts = torch.empty(num_splits, num_tiles * outputs, rank, dtype=dtype, device=dy_TN.device)
    out_parts = None
    if out_TP is not None:
        out_parts = torch.empty(num_tiles, num_tokens, rank, dtype=dtype, device=dy_TN.device)
    own_bytes = 2 * outputs * rank + 4 * TOKENS * rank  # b, and a tile of out on its way from registers
    num_stages = (SHARED_BYTES - (own_bytes if out_parts is not None else 0)) // (2 * TOKENS * (outputs + rank))
    _stream_kernel[(num_tiles, num_splits)](
        dy_TN, s_TR, b_NR, grad_parts, out_parts, num_tokens, tokens_per_split,
        dy_TN.stride(0), s_TR.stride(0), 0 if b_NR is None else b_NR.stride(0), **layout,
        TOKENS=TOKENS, OUTPUTS=outputs, num_warps=8 if is_big else 4, num_stages=min(num_stages, 3),
    )  # fmt: skip
    out_programs = 0 if out_TP is None else triton.cdiv(num_tokens * rank, SUM_ELEMENTS)
    grads = [part.gradient for part in parts]
    grads += [grads[0]] * (MAX_PARTS - len(grads))
    strides, scales = [grad.stride() for grad in grads], [part.scale for part in parts]
    scales += [0.0] * (MAX_PARTS - len(scales))
    used = parts[-1].ranks.stop
    rest = 0 if out_TP is None else out_TP.shape[1] - used
    _sum_kernel[(out_programs * len(parts) + triton.cdiv(num_tiles * outputs * rank, SUM_ELEMENTS),)](
        out_parts, grad_parts, out_TP, *grads, num_tokens, num_splits, out_programs, out_programs * len(parts),
        0 if out_TP is None else out_TP.stride(0), *(stride for pair in strides for stride in pair), *scales, **layout,
        REST=rest, WIDE_REST=power_of_2(rest), OUTPUTS=outputs, SUM_PARTS=SUM_PARTS, ELEMENTS=SUM_ELEMENTS,
        num_warps=4,
    )  # fmt: skip


def _layout(parts: Sequence[Part], outputs: int) -> dict[str, int]:
    """Of up to three parts: where rows, tiles and ranks begin and end; missing ones are empty."""
    table: dict[str, int] = {"tiles_0": 0}
    last = parts[-1]
    for at in range(MAX_PARTS):
        part = parts[at] if at < len(parts) else None
        rows = part.rows if part else slice(0, 0)
        ranks = part.ranks if part else slice(last.ranks.stop, last.ranks.stop)
        table |= {f"begin_{at}": rows.start, f"end_{at}": rows.stop, f"ranks_{at}": ranks.start}
        table[f"tiles_{at + 1}"] = table[f"tiles_{at}"] + triton.cdiv(rows.stop - rows.start, outputs)
    del table["tiles_0"]
    widest = max(part.ranks.stop - part.ranks.start for part in parts)
    return table | {"ranks_3": last.ranks.stop, "RANK": max(16, power_of_2(widest))}  # matrix units take no fewer


@jit
def _pick(part, first, second, third):  # type: ignore[no-untyped-def]
    return tl.where(part == 0, first, tl.where(part == 1, second, third))


@jit(do_not_specialize=["num_tokens", "tokens_per_split", "tiles_1", "tiles_2", "tiles_3"])
def _stream_kernel(  # type: ignore[no-untyped-def]
    dy, s, b, grad_parts, out_parts, num_tokens, tokens_per_split, dy_stride, s_stride, b_stride,
    begin_0, begin_1, begin_2, end_0, end_1, end_2, tiles_1, tiles_2, tiles_3, ranks_0, ranks_1, ranks_2, ranks_3,
    RANK: tl.constexpr, TOKENS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    tile, split = tl.program_id(0), tl.program_id(1).to(tl.int64)
    part = (tile >= tiles_1).to(tl.int32) + (tile >= tiles_2).to(tl.int32)
    first_tile, end = _pick(part, 0, tiles_1, tiles_2), _pick(part, end_0, end_1, end_2)
    first_N, first_R = _pick(part, begin_0, begin_1, begin_2), _pick(part, ranks_0, ranks_1, ranks_2)
    end_R = _pick(part, ranks_1, ranks_2, ranks_3)
    column_N = first_N + (tile - first_tile) * OUTPUTS + tl.arange(0, OUTPUTS)
    column_R = first_R + tl.arange(0, RANK)
    is_column_N, is_column_R = column_N < end, column_R < end_R
    if b is not None:
        mask_NR = is_column_N[:, None] & is_column_R[None, :]
        b_NR = tl.load(b + column_N.to(tl.int64)[:, None] * b_stride + column_R[None, :], mask=mask_NR, other=0.0)
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
            out_row_T = tile.to(tl.int64) * num_tokens + token_T
            out_at_TR = out_parts + out_row_T[:, None] * RANK + tl.arange(0, RANK)[None, :]
            tl.store(out_at_TR, tl.dot(dy_TN, b_NR), mask=is_token_T[:, None])
        grad_NR = tl.dot(tl.trans(dy_TN), s_TR, grad_NR)
    row_N = (split * tiles_3 + tile) * OUTPUTS + tl.arange(0, OUTPUTS)
    tl.store(grad_parts + row_N[:, None] * RANK + tl.arange(0, RANK)[None, :], grad_NR)


@jit
def _sum(parts, first, last, stride, element_E, mask_E, SUM_PARTS: tl.constexpr, ELEMENTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Σ parts[first … last - 1] at these elements; `stride` apart."""
    sum_PE = tl.zeros((SUM_PARTS, ELEMENTS), dtype=tl.float32)
    for at in range(first, last, SUM_PARTS):
        part_P = at + tl.arange(0, SUM_PARTS)
        at_PE = parts + part_P.to(tl.int64)[:, None] * stride + element_E[None, :]
        sum_PE += tl.load(at_PE, mask=(part_P < last)[:, None] & mask_E[None, :], other=0.0)
    return tl.sum(sum_PE, axis=0)


@jit(do_not_specialize=[
    "num_tokens", "num_splits", "out_programs", "all_out_programs", "tiles_1", "tiles_2", "tiles_3",
])  # fmt: skip
def _sum_kernel(  # type: ignore[no-untyped-def]
    out_parts, grad_parts, out, grad_0, grad_1, grad_2, num_tokens, num_splits, out_programs, all_out_programs,
    out_stride, row_0, column_0, row_1, column_1, row_2, column_2, scale_0, scale_1, scale_2,
    begin_0, begin_1, begin_2, end_0, end_1, end_2, tiles_1, tiles_2, tiles_3, ranks_0, ranks_1, ranks_2, ranks_3,
    REST: tl.constexpr, WIDE_REST: tl.constexpr, RANK: tl.constexpr, OUTPUTS: tl.constexpr, SUM_PARTS: tl.constexpr,
    ELEMENTS: tl.constexpr,
):  # fmt: skip
    """The first programs sum out over its tiles, part by part, the others the gradients over their stretches."""
    program = tl.program_id(0)
    if program < all_out_programs:
        if out is not None:
            part, here = program // out_programs, program % out_programs
            element_E = here.to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
            token_E, column_E = element_E // RANK, element_E % RANK
            first, last = _pick(part, 0, tiles_1, tiles_2), _pick(part, tiles_1, tiles_2, tiles_3)
            stride = num_tokens.to(tl.int64) * RANK
            sum_E = _sum(out_parts, first, last, stride, element_E, token_E < num_tokens, SUM_PARTS, ELEMENTS)
            to_E = _pick(part, ranks_0, ranks_1, ranks_2) + column_E
            mask_E = (token_E < num_tokens) & (to_E < _pick(part, ranks_1, ranks_2, ranks_3))
            tl.store(out + token_E * out_stride + to_E, sum_E, mask=mask_E)
            if REST > 0:
                token_T = here.to(tl.int64) * (ELEMENTS // RANK) + tl.arange(0, ELEMENTS // RANK)
                column_P = tl.arange(0, WIDE_REST)
                rest_at_TP = out + token_T[:, None] * out_stride + ranks_3 + column_P[None, :]
                is_mine_T = token_T < tl.where(part == 0, num_tokens, 0)
                mask_TP = is_mine_T[:, None] & (column_P < REST)[None, :]
                tl.store(rest_at_TP, tl.zeros((ELEMENTS // RANK, WIDE_REST), dtype=tl.float32), mask=mask_TP)
    else:
        element_E = (program - all_out_programs).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
        row_E, column_E = element_E // RANK, element_E % RANK
        tile = tl.min(row_E // OUTPUTS, axis=0)
        part = (tile >= tiles_1).to(tl.int32) + (tile >= tiles_2).to(tl.int32)
        row_E -= _pick(part, 0, tiles_1, tiles_2) * OUTPUTS
        num_rows = _pick(part, end_0 - begin_0, end_1 - begin_1, end_2 - begin_2)
        rank = _pick(part, ranks_1 - ranks_0, ranks_2 - ranks_1, ranks_3 - ranks_2)
        mask_E = (row_E < num_rows) & (column_E < rank)
        stride = tiles_3.to(tl.int64) * OUTPUTS * RANK
        sum_E = _sum(grad_parts, 0, num_splits, stride, element_E, mask_E, SUM_PARTS, ELEMENTS)
        sum_E *= _pick(part, scale_0, scale_1, scale_2)
        if part == 0:
            _add_to(grad_0 + row_E * row_0 + column_E * column_0, sum_E, mask_E)
        elif part == 1:
            _add_to(grad_1 + row_E * row_1 + column_E * column_1, sum_E, mask_E)
        else:
            _add_to(grad_2 + row_E * row_2 + column_E * column_2, sum_E, mask_E)


@jit
def _add_to(at, values, mask):  # type: ignore[no-untyped-def]
    tl.store(at, tl.load(at, mask=mask, other=0.0) + values, mask=mask)


def add_parts(parts: Tensor, out: Tensor, scale: float = 1.0, *, adds: bool) -> None:
    """out_NR = (out +) scale · Σ parts [P, N, padded R] in fp32; columns of out beyond R are the caller's."""
    num_parts, num_rows, padded = parts.shape
    _add_parts_kernel[(triton.cdiv(num_rows * padded, SUM_ELEMENTS),)](
        parts, out, num_parts, num_rows, out.stride(0), out.stride(1), scale,
        R=out.shape[1], RANK=padded, ADDS=adds, SUM_PARTS=SUM_PARTS, ELEMENTS=SUM_ELEMENTS, num_warps=4,
    )  # fmt: skip


@jit(do_not_specialize=["num_parts", "num_rows"])
def _add_parts_kernel(  # type: ignore[no-untyped-def]
    parts, out, num_parts, num_rows, row_stride, column_stride, scale,
    R: tl.constexpr, RANK: tl.constexpr, ADDS: tl.constexpr, SUM_PARTS: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    element_E = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    row_E, column_E = element_E // RANK, element_E % RANK
    mask_E = (row_E < num_rows) & (column_E < R)
    stride = num_rows.to(tl.int64) * RANK
    sum_E = scale * _sum(parts, 0, num_parts, stride, element_E, mask_E & (column_E < RANK), SUM_PARTS, ELEMENTS)
    out_at_E = out + row_E * row_stride + column_E * column_stride
    if ADDS:
        sum_E += tl.load(out_at_E, mask=mask_E, other=0.0).to(tl.float32)
    tl.store(out_at_E, sum_E, mask=mask_E)
