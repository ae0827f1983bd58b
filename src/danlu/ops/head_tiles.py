"""How kernels that turn heads read and write them: one head a row, in tiles of a few heads.

A head of D columns comes as three parts: both halves of what is turned, F columns each, and the rest that is not.
"""

from __future__ import annotations

from danlu.ops.kernels import jit, power_of_2, tl


def tile_of(head_size: int, rotary_size: int) -> dict[str, int]:
    """A program takes 4096 elements: whole heads as two halves of the turned part and the rest that is not turned."""
    rest = power_of_2(head_size - rotary_size) if head_size > rotary_size else 0
    rows = max(1, 4096 // power_of_2(head_size))
    half = max(power_of_2(rotary_size // 2), 1)
    return {"D": head_size, "F": rotary_size // 2, "ROWS": rows, "HALF": half, "REST": rest, "num_warps": 4}


@jit
def load_heads(at_R, is_row_R, D: tl.constexpr, F: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr):  # type: ignore[no-untyped-def]
    """One head a row in fp32: both halves of the turned part and what is not turned (a stand-in where that is none)."""
    column_F = tl.arange(0, HALF)
    mask_RF = is_row_R[:, None] & (column_F < F)[None, :]
    first = tl.load(at_R[:, None] + column_F[None, :], mask=mask_RF, other=0.0).to(tl.float32)
    second = tl.load(at_R[:, None] + (F + column_F)[None, :], mask=mask_RF, other=0.0).to(tl.float32)
    if REST > 0:
        column_P = 2 * F + tl.arange(0, REST)
        mask_RP = is_row_R[:, None] & (column_P < D)[None, :]
        return first, second, tl.load(at_R[:, None] + column_P[None, :], mask=mask_RP, other=0.0).to(tl.float32)
    else:
        return first, second, first


@jit
def store_heads(  # type: ignore[no-untyped-def]
    at_R, first, second, rest, is_row_R, D: tl.constexpr, F: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr
):
    """What `load_heads` has read, back to where heads lie; REST 0 leaves alone what is not turned."""
    column_F = tl.arange(0, HALF)
    mask_RF = is_row_R[:, None] & (column_F < F)[None, :]
    tl.store(at_R[:, None] + column_F[None, :], first, mask=mask_RF)
    tl.store(at_R[:, None] + (F + column_F)[None, :], second, mask=mask_RF)
    if REST > 0:
        column_P = 2 * F + tl.arange(0, REST)
        tl.store(at_R[:, None] + column_P[None, :], rest, mask=is_row_R[:, None] & (column_P < D)[None, :])


@jit
def load_angles(angles, stride, token_R, is_row_R, dtype: tl.constexpr, F: tl.constexpr, HALF: tl.constexpr):  # type: ignore[no-untyped-def]
    """cos or sin of the first half, rounded as the values it meets."""
    column_F = tl.arange(0, HALF)
    at_RF = angles + token_R[:, None] * stride + column_F[None, :]
    return tl.load(at_RF, mask=is_row_R[:, None] & (column_F < F)[None, :], other=0.0).to(dtype).to(tl.float32)
