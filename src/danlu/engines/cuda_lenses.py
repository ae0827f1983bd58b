"""Low-rank pairs of a few rows on a card: out += (x Aᵀ, each row its own lens's ranks) B, in two kernels.

In a step of decoding such a product has next to nothing to compute, and what it costs is how many programs read its
matrices at once: the inner dimension of the first product is shared out, and who makes the second adds the shares up.
The first runs on a stream of its own while the card multiplies by the base. More rows are multiplied as everywhere
(`lenses.py`), which is also what the kernels are held to.

Shapes: B rows, K inputs, N outputs, R ranks side by side, C shares of K.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from danlu.engines.lenses import Lensing, Stack
from danlu.ops.kernels import fits, jit, power_of_2, tl, triton

MOST_ROWS, MOST_RANKS = 64, 128
"""Beyond, a general product is as fast."""
ROWS, INPUTS, OUTPUTS = 16, 128, 128
"""Of a program."""
MOST_SHARES = 16


class CardLensing(Lensing):
    """A step's lenses on a card. `aside` is a stream that nobody else uses."""

    def __init__(
        self, stack: Stack, owner_B: Tensor, *, is_uniform: bool, aside: torch.cuda.Stream | None = None
    ) -> None:
        super().__init__(stack, owner_B, is_uniform=is_uniform)
        self.owner_B, self.aside = owner_B, aside

    def beside(self, layer: int, product: int, x_TD: Tensor, multiply: Callable[[Tensor], Tensor]) -> Tensor:
        """The base's product with the lenses' added; while the card multiplies by the base it multiplies by A."""
        sides = self.stack.sides[layer][product]
        if sides is None:
            return multiply(x_TD)
        aside, is_large = self.aside, len(x_TD) > MOST_ROWS or len(sides[0]) > MOST_RANKS
        if aside is None or is_large or not fits(x_TD, *sides):
            out_TN = multiply(x_TD)
            self.add(layer, product, x_TD, out_TN)
            return out_TN
        lens_R = self.stack.lens_of[tuple(self.stack.ranks[layer][product])]
        main = torch.cuda.current_stream(x_TD.device)
        aside.wait_stream(main)
        with torch.cuda.stream(aside):
            shares_CBR = down(x_TD, sides[0])
        out_TN = multiply(x_TD)
        main.wait_stream(aside)
        add_up(shares_CBR, sides[1], out_TN, None if self.is_uniform else self.owner_B, lens_R)
        return out_TN


def down(x_BK: Tensor, A_RK: Tensor) -> Tensor:
    """x Aᵀ in shares [C, B, ranks widened]."""
    (num_rows, num_inputs), num_ranks = x_BK.shape, len(A_RK)
    num_blocks = triton.cdiv(num_inputs, INPUTS)
    steps = triton.cdiv(num_blocks, MOST_SHARES)
    num_shares = triton.cdiv(num_blocks, steps)
    ranks = max(16, power_of_2(num_ranks))
    shares_CBR = torch.empty(num_shares, num_rows, ranks, dtype=torch.float32, device=x_BK.device)
    _down_kernel[(triton.cdiv(num_rows, ROWS), num_shares)](
        x_BK, A_RK, shares_CBR, num_rows, x_BK.stride(0), A_RK.stride(0),
        K=num_inputs, R=num_ranks, STEPS=steps, ROWS=ROWS, RANKS=ranks, INPUTS=INPUTS, num_warps=4,
    )  # fmt: skip
    return shares_CBR


def add_up(shares_CBR: Tensor, B_RN: Tensor, out_BN: Tensor, owner_B: Tensor | None, lens_R: Tensor) -> None:
    """The shares' sum times B onto the output."""
    (num_shares, num_rows, ranks), (num_ranks, num_outputs) = shares_CBR.shape, B_RN.shape
    _up_kernel[(triton.cdiv(num_rows, ROWS), triton.cdiv(num_outputs, OUTPUTS))](
        shares_CBR, B_RN, out_BN, owner_B, lens_R, num_rows, B_RN.stride(0), out_BN.stride(0),
        N=num_outputs, R=num_ranks, SHARES=num_shares, ROWS=ROWS, RANKS=ranks, OUTPUTS=OUTPUTS, num_warps=4,
    )  # fmt: skip


@jit(do_not_specialize=["num_rows"])
def _down_kernel(  # type: ignore[no-untyped-def]
    x, a, shares, num_rows, x_stride, a_stride, K: tl.constexpr, R: tl.constexpr, STEPS: tl.constexpr,
    ROWS: tl.constexpr, RANKS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    """x Aᵀ of some rows, over one share of the inputs."""
    row_B, rank_R = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, RANKS)
    sum_BR = tl.zeros((ROWS, RANKS), dtype=tl.float32)
    for step in range(STEPS):
        at_K = (tl.program_id(1) * STEPS + step) * INPUTS + tl.arange(0, INPUTS)
        is_own_BK = (row_B < num_rows)[:, None] & (at_K < K)[None, :]
        is_own_RK = (rank_R < R)[:, None] & (at_K < K)[None, :]
        x_BK = tl.load(x + row_B[:, None] * x_stride + at_K[None, :], mask=is_own_BK, other=0.0)
        a_RK = tl.load(a + rank_R[:, None] * a_stride + at_K[None, :], mask=is_own_RK, other=0.0)
        sum_BR += tl.dot(x_BK, tl.trans(a_RK), input_precision="ieee")
    at_BR = (tl.program_id(1) * num_rows + row_B)[:, None] * RANKS + rank_R[None, :]
    tl.store(shares + at_BR, sum_BR, mask=(row_B < num_rows)[:, None])


@jit(do_not_specialize=["num_rows"])
def _up_kernel(  # type: ignore[no-untyped-def]
    shares, b, out, owner, lens, num_rows, b_stride, out_stride, N: tl.constexpr, R: tl.constexpr,
    SHARES: tl.constexpr, ROWS: tl.constexpr, RANKS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """Some rows' own ranks times B, added to some of their outputs."""
    row_B, rank_R = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, RANKS)
    at_N = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    is_row_B = row_B < num_rows
    down_BR = tl.zeros((ROWS, RANKS), dtype=tl.float32)
    for share in range(SHARES):
        at_BR = (share * num_rows + row_B)[:, None] * RANKS + rank_R[None, :]
        down_BR += tl.load(shares + at_BR, mask=is_row_B[:, None], other=0.0)
    if owner is not None:
        owner_B = tl.load(owner + row_B, mask=is_row_B, other=-1)
        lens_R = tl.load(lens + rank_R, mask=rank_R < R, other=-2)
        down_BR = tl.where(owner_B[:, None] == lens_R[None, :], down_BR, 0.0)
    b_RN = tl.load(
        b + rank_R[:, None] * b_stride + at_N[None, :], mask=(rank_R < R)[:, None] & (at_N < N)[None, :], other=0.0
    )
    at_BN = row_B[:, None] * out_stride + at_N[None, :]
    is_own_BN = is_row_B[:, None] & (at_N < N)[None, :]
    sum_BN = tl.dot(down_BR.to(b_RN.dtype), b_RN, input_precision="ieee")
    tl.store(out + at_BN, tl.load(out + at_BN, mask=is_own_BN, other=0.0) + sum_BN, mask=is_own_BN)
