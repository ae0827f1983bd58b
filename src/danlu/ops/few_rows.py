"""Products of a few rows with a weight that lies in codes: how the work is shared out, and how shares become a sum.

A few rows are multiplied as fast as their weight is read, and codes are read in a half or a quarter of the time. So
they are decoded in registers on the way into the product, and the inputs are shared out among programs until the card
has enough of them; who comes later adds the shares up, always in the same order. More rows than `MOST_ROWS` are
multiplied faster by a weight that was dequantised first.

Shapes: B rows, K inputs, N outputs, C shares of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.kernels import jit, power_of_2, tl, triton

MOST_ROWS = 64
CHUNK = 64
"""Inputs that a program multiplies at once."""
PROGRAMS, MOST_SHARES = 7, 16
"""Programs for each multiprocessor that a product aims at; shares of its inputs at most."""
TILE = 256
"""Outputs that one program adds up."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """What one program takes: rows, outputs, and `share` chunks of the inputs, of which `num_shares` are all."""

    rows: int
    outputs: int
    share: int
    num_shares: int
    num_warps: int
    chunks: int = 2
    """At a time, which lets more reads be under way."""
    num_stages: int = 3


def tiling(num_rows: int, num_inputs: int, num_outputs: int, device: torch.device) -> Tiling:
    rows = min(64, max(16, power_of_2(num_rows)))
    outputs, num_warps = (64, 2) if rows < 64 else (128, 8)
    num_chunks = -(-num_inputs // CHUNK)
    num_tiles = -(-num_outputs // outputs) * -(-num_rows // rows)
    num_processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    wanted = max(1, min(MOST_SHARES, PROGRAMS * 2 * num_processors // num_warps // num_tiles, num_chunks // 4))
    share = -(-num_chunks // wanted)
    return Tiling(rows, outputs, share, -(-num_chunks // share), num_warps)


def room(tiles: Tiling, out_BN: Tensor) -> Tensor:
    """Where programs write: the output itself, or fp32 shares of it."""
    if tiles.num_shares == 1:
        return out_BN
    return torch.empty(tiles.num_shares, *out_BN.shape, dtype=torch.float32, device=out_BN.device)


def finish(tiles: Tiling, room: Tensor, bias_N: Tensor | None, out_BN: Tensor) -> Tensor:
    """out_BN from what programs wrote; where they wrote it all they have added the bias themselves."""
    if tiles.num_shares > 1:
        num_rows, num_outputs = out_BN.shape
        _add_up_kernel[(triton.cdiv(num_outputs, TILE), num_rows)](
            room, bias_N, out_BN, num_rows, num_outputs, tiles.num_shares, TILE=TILE, num_warps=2
        )
    return out_BN


@jit(do_not_specialize=["num_rows", "num_outputs", "num_shares"])
def _add_up_kernel(  # type: ignore[no-untyped-def]
    shares, bias, out, num_rows, num_outputs, num_shares, TILE: tl.constexpr
):
    at_N, row = tl.program_id(0) * TILE + tl.arange(0, TILE), tl.program_id(1)
    is_own_N = at_N < num_outputs
    sum_N = tl.zeros((TILE,), dtype=tl.float32)
    for share in range(num_shares):
        sum_N += tl.load(shares + (share * num_rows + row) * num_outputs + at_N, mask=is_own_N, other=0.0)
    if bias is not None:
        sum_N += tl.load(bias + at_N, mask=is_own_N, other=0.0).to(tl.float32)
    tl.store(out + row * num_outputs + at_N, sum_N, mask=is_own_N)


@jit
def store_sum(  # type: ignore[no-untyped-def]
    sum_NB, room, bias, row_B, at_N, num_rows, num_outputs, IS_WHOLE: tl.constexpr
):
    """A program's sum into its place."""
    is_own_N = at_N < num_outputs
    if IS_WHOLE and bias is not None:
        sum_NB += tl.load(bias + at_N, mask=is_own_N, other=0.0).to(tl.float32)[:, None]
    at_BN = (tl.program_id(1) * num_rows + row_B)[:, None] * num_outputs + at_N[None, :]
    tl.store(room + at_BN, tl.trans(sum_NB), mask=(row_B < num_rows)[:, None] & is_own_N[None, :])
