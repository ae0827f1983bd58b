"""A few rows times NF4 weights, decoded on the way (`few_rows.py`), and weights of one width below one another.

Codes are decoded to the 16 values themselves, in the dtype of the rows; their scales multiply the fp32 sums of their
blocks. So the values are rounded once, where a dequantised weight is rounded after its scale, and sums are as exact as
those of the dequantised weight or better. Sixteen bits an element are put together from bytes, which a card picks four
at a time (PTX `prmt`); in fp32, and by Triton's interpreter, values are read from a table.

Shapes: B rows, K inputs, N outputs, H = half a block's inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from danlu.ops.adjoining import adjoined, moved_together
from danlu.ops.few_rows import Tiling, arrivals, finish, shares_room, tiling
from danlu.ops.kernels import IS_INTERPRETED, fits, jit, tl, triton
from danlu.ops.nf4 import BLOCK, NF4, VALUES, Nested, absmax_of, reference_dequantise, values_on

LARGEST_SIZE = 2**31
"""Elements of a weight that 32 bits count."""


@dataclass(frozen=True, slots=True)
class NF4Rows:
    """`weights` below one another, [N, K] together. `absmax` is in fp32, or 8 bits of which `nested` tells; the mean
    that was taken off those stands in `offset_N` for each row, as it is another in each weight."""

    weights: tuple[NF4, ...]
    codes: Tensor
    absmax: Tensor
    scale: Tensor | None
    levels: Tensor | None
    offset_N: Tensor | None  # noqa: N815
    per_scale: int
    shape: tuple[int, int]


def below_one_another(weights: Sequence[NF4]) -> NF4Rows | None:
    """The weights as one, where they lie one after another in memory; None where they do not, or where their blocks
    are not the kernel's."""
    num_inputs = weights[0].shape[1]
    shape = (sum(weight.shape[0] for weight in weights), num_inputs)
    codes = adjoined([weight.codes for weight in weights])
    if codes is None or num_inputs % BLOCK or shape[0] * num_inputs >= LARGEST_SIZE:
        return None
    if any(weight.block != BLOCK or weight.shape[1] != num_inputs for weight in weights):
        return None
    nested = [weight.absmax for weight in weights if isinstance(weight.absmax, Nested)]
    if not nested:
        absmax = adjoined([absmax_of(weight) for weight in weights])
        return None if absmax is None else NF4Rows(tuple(weights), codes, absmax, None, None, None, 1, shape)
    absmax, scale = adjoined([one.codes for one in nested]), adjoined([one.scale for one in nested])
    if absmax is None or scale is None or len(nested) < len(weights) or not _are_alike(nested):
        return None
    offsets = [one.offset.float().expand(weight.shape[0]) for one, weight in zip(nested, weights, strict=True)]
    per_scale, levels = nested[0].block, nested[0].levels
    return NF4Rows(tuple(weights), codes, absmax, scale, levels, torch.cat(offsets), per_scale, shape)


def moved(weights: Sequence[NF4]) -> list[NF4]:
    """Copies that lie one after another in memory; their scales too, where those are alike."""
    codes, nested = moved_together([weight.codes for weight in weights]), [weight.absmax for weight in weights]
    doubled = [one for one in nested if isinstance(one, Nested)]
    if len(doubled) < len(weights):
        absmax: Sequence[Tensor | Nested] = moved_together([absmax_of(weight) for weight in weights])
    else:
        parts = zip(moved_together([d.codes for d in doubled]), moved_together([d.scale for d in doubled]), strict=True)
        absmax = [replace(one, codes=c, scale=s) for one, (c, s) in zip(doubled, parts, strict=True)]
    return [replace(weight, codes=c, absmax=a) for weight, c, a in zip(weights, codes, absmax, strict=True)]


def _are_alike(nested: Sequence[Nested]) -> bool:
    """One table of levels, and no scale that two weights would share."""
    first = nested[0]
    return all(len(one.codes) % first.block == 0 for one in nested[:-1]) and all(
        one.block == first.block and (one.levels is first.levels or torch.equal(one.levels, first.levels))
        for one in nested
    )


def product(x_BK: Tensor, weight: NF4Rows, bias_N: Tensor | None = None, *, tiles: Tiling | None = None) -> Tensor:
    """out_BN = x Wᵀ + bias."""
    if not fits(x_BK, weight.codes):
        return reference_product(x_BK, weight, bias_N)
    (num_rows, num_inputs), num_outputs = x_BK.shape, weight.shape[0]
    if tiles is None:
        num_blocks, fewest = num_inputs // BLOCK, 4 if num_rows <= 8 else 8
        tiles = tiling(
            num_rows, num_outputs, num_blocks, x_BK.device, outputs=64, fewest_chunks=fewest, num_stages=4
        )  # fmt: skip
    out_BN = x_BK.new_empty(num_rows, num_outputs)
    shares = shares_room(tiles, num_rows, num_outputs, x_BK.device)
    is_packed = x_BK.dtype in (torch.bfloat16, torch.float16) and not IS_INTERPRETED
    _product_kernel[(triton.cdiv(num_outputs, tiles.outputs), tiles.num_shares, triton.cdiv(num_rows, tiles.rows))](
        x_BK, weight.codes, weight.absmax, weight.scale, weight.levels, weight.offset_N,
        values_on(x_BK.device), bias_N, out_BN, shares, arrivals(x_BK.device),
        num_rows, x_BK.stride(0), num_outputs, num_inputs // 2,
        num_inputs // BLOCK, tiles.share, tiles.num_shares, PER_SCALE=weight.per_scale, IS_WHOLE=tiles.num_shares == 1,
        ROWS=tiles.rows, OUTPUTS=tiles.outputs, HALF=BLOCK // 2,
        DECODE=_decoding(x_BK.dtype) if is_packed else None, num_warps=tiles.num_warps, num_stages=tiles.num_stages,
    )  # fmt: skip
    return out_BN


def reference_product(x_BK: Tensor, weight: NF4Rows, bias_N: Tensor | None = None) -> Tensor:
    """In fp32, rounded once."""
    wide_NK = torch.cat([reference_dequantise(part) for part in weight.weights])
    out_BN = x_BK.float() @ wide_NK.T
    return (out_BN if bias_N is None else out_BN + bias_N.float()).to(x_BK.dtype)


@functools.cache
def _decoding(dtype: torch.dtype) -> str:
    """PTX that makes of four bytes ($4) what their high halves ($0, $1) and their low halves ($2, $3) stand for, two
    values of 16 bits to a register.

    `prmt` picks four bytes out of eight by the low three bits of each half byte; the values of codes below and from 8
    on are picked apart, and the codes' high bits, spread over bytes, choose between them. Low and high bytes of the
    values are then put beside each other."""
    bits = [bit & 0xFFFF for bit in torch.tensor(VALUES).to(dtype).view(torch.int16).tolist()]
    low, high = _words([bit & 255 for bit in bits]), _words([bit >> 8 for bit in bits])
    lines = ["{ .reg .b32 s, t, m, a, b, lA, hA, lB, hB;", "and.b32 s, $4, 0x77777777;", "shl.b32 t, $4, 4;"]
    for part, signs in (("A", "0xd9c8"), ("B", "0xfbea")):  # bytes 0 and 1, 2 and 3: their four half bytes
        lines.append(f"prmt.b32 m, t, $4, {signs};")
        for name, words in (("l", low), ("h", high)):
            lines += [f"prmt.b32 a, {words[0]}, {words[1]}, s;", f"prmt.b32 b, {words[2]}, {words[3]}, s;"]
            lines.append(f"lop3.b32 {name}{part}, a, b, m, 0xd8;")  # m ? b : a
        lines.append("shr.b32 s, s, 16;")
    for half, chosen in ((0, "0x7351"), (2, "0x6240")):
        lines += [f"prmt.b32 ${half}, lA, hA, {chosen};", f"prmt.b32 ${half + 1}, lB, hB, {chosen};"]
    return "\n".join(lines) + "\n}"


def _words(values: Sequence[int]) -> list[str]:
    """Four bytes each."""
    return [f"0x{int.from_bytes(values[at : at + 4], 'little'):08x}" for at in range(0, len(values), 4)]


@jit(do_not_specialize=["num_rows", "per_row", "share", "num_shares"])
def _product_kernel(  # type: ignore[no-untyped-def]
    x, codes, absmax, scale, levels, offset, values, bias, out, shares, arrived,
    num_rows, x_stride, num_outputs, row_bytes, per_row, share, num_shares,
    PER_SCALE: tl.constexpr, IS_WHOLE: tl.constexpr, ROWS: tl.constexpr, OUTPUTS: tl.constexpr,
    HALF: tl.constexpr, DECODE: tl.constexpr,
):  # fmt: skip
    """Some outputs of some rows, over one share of the inputs. Inputs of even and of odd number are multiplied apart,
    as they lie in the high and in the low halves of bytes."""
    at_N, row_B = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS), tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    own_N = tl.minimum(at_N, num_outputs - 1)
    first = tl.program_id(1) * share
    end = tl.minimum(first + share, per_row)
    if offset is not None:
        offset_N = tl.load(offset + own_N)
    sum_NB = tl.zeros((OUTPUTS, ROWS), dtype=tl.float32)
    for block in range(first, end):
        at_K = block * (2 * HALF) + tl.arange(0, 2 * HALF)
        x_BK = tl.load(x + row_B[:, None] * x_stride + at_K[None, :], mask=(row_B < num_rows)[:, None], other=0.0)
        even_BH, odd_BH = tl.split(tl.reshape(x_BK, (ROWS, HALF, 2)))
        place_N = own_N * per_row + block
        byte_NH = tl.load(codes + own_N[:, None] * row_bytes + (block * HALF + tl.arange(0, HALF))[None, :])
        if offset is not None:
            level_N = tl.load(levels + tl.load(absmax + place_N).to(tl.int32))
            absmax_N = level_N * tl.load(scale + place_N // PER_SCALE) + offset_N
        else:
            absmax_N = tl.load(absmax + place_N)
        if DECODE is not None:
            high_NH, low_NH = tl.inline_asm_elementwise(
                DECODE, "=r,=r,=r,=r,r", [byte_NH], dtype=(x.dtype.element_ty, x.dtype.element_ty), is_pure=True,
                pack=4,
            )  # fmt: skip
        else:
            high_NH = tl.load(values + (byte_NH >> 4).to(tl.int32)).to(x.dtype.element_ty)
            low_NH = tl.load(values + (byte_NH & 15).to(tl.int32)).to(x.dtype.element_ty)
        part_NB = tl.dot(high_NH, tl.trans(even_BH), input_precision="ieee")
        part_NB = tl.dot(low_NH, tl.trans(odd_BH), part_NB, input_precision="ieee")
        sum_NB += part_NB * absmax_N[:, None]
    finish(sum_NB, out, bias, shares, arrived, row_B, at_N, num_rows, num_outputs, num_shares, IS_WHOLE)
