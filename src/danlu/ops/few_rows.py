"""Products of a few rows with a weight that lies in codes: how the work is shared out, and how shares become a sum.

A few rows are multiplied as fast as their weight is read, and codes are read in a half or a quarter of the time. So
they are decoded in registers on the way into the product, and the inputs are shared out among programs until the card
has enough of them; whoever is done last adds the shares up, always in the same order. More rows than `MOST_ROWS` are
multiplied faster by a weight that was dequantised first.

Shapes: B rows, K inputs, N outputs, C shares of the inputs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.kernels import jit, power_of_2, tl

MOST_ROWS = 64
PROGRAMS, MOST_SHARES = 6, 16
"""Programs for each multiprocessor that a product aims at; shares of its inputs at most."""
MOST_TILES = 2**16
"""Tiles of a product's outputs that are counted at most: 64 rows times two million outputs."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """What one program takes: rows, outputs, and `share` chunks of the inputs, of which `num_shares` are all. Numbers
    like these were found by trial on an H200, in the shapes of a 7B model."""

    rows: int
    outputs: int
    share: int
    num_shares: int
    num_warps: int
    num_stages: int


def tiling(
    num_rows: int, num_outputs: int, num_chunks: int, device: torch.device, *, outputs: int, fewest_chunks: int,
    num_stages: int,
) -> Tiling:  # fmt: skip
    """For inputs of so many chunks. A share of fewer than `fewest_chunks` has hardly begun to read when it ends."""
    rows = min(64, max(8, power_of_2(num_rows)))
    num_tiles = -(-num_outputs // outputs) * -(-num_rows // rows)
    num_processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    wanted = max(1, min(MOST_SHARES, -(-PROGRAMS * num_processors // num_tiles), num_chunks // fewest_chunks))
    share = -(-num_chunks // wanted)
    return Tiling(rows, outputs, share, -(-num_chunks // share), 2 if rows < 64 else 4, num_stages)


def shares_room(tiles: Tiling, num_rows: int, num_outputs: int, device: torch.device) -> Tensor:
    """Where shares lie until the last of them is there: [C, B, N] in fp32."""
    shape = (tiles.num_shares, num_rows, num_outputs) if tiles.num_shares > 1 else (0,)
    return torch.empty(shape, dtype=torch.float32, device=device)


@functools.cache
def arrivals(device: torch.device) -> Tensor:
    """How many shares of each tile are there; 0 before a product and after it. Products on one device must follow one
    another, as they do on one stream."""
    return torch.zeros(MOST_TILES, dtype=torch.int32, device=device)


@jit
def finish(  # type: ignore[no-untyped-def]
    sum_NB, out, bias, shares, arrived, row_B, at_N, num_rows, num_outputs, num_shares, IS_WHOLE: tl.constexpr
):
    """A program's sum into the output; where it is but a share, whoever comes last adds them all up."""
    is_own_NB = (at_N < num_outputs)[:, None] & (row_B < num_rows)[None, :]
    at_NB = row_B[None, :] * num_outputs + at_N[:, None]
    is_last = True
    if not IS_WHOLE:
        size = num_rows * num_outputs
        tl.store(shares + tl.program_id(1) * size + at_NB, sum_NB, mask=is_own_NB)
        tl.debug_barrier()
        counter = arrived + tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        is_last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == num_shares - 1
        if is_last:
            sum_NB = tl.zeros_like(sum_NB)
            for share in range(num_shares):
                sum_NB += tl.load(shares + share * size + at_NB, mask=is_own_NB, other=0.0, cache_modifier=".cg")
            tl.store(counter, 0)
    if is_last:
        if bias is not None:
            sum_NB += tl.load(bias + at_N, mask=at_N < num_outputs, other=0.0).to(tl.float32)[:, None]
        tl.store(out + at_NB, sum_NB, mask=is_own_NB)
