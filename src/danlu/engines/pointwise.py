"""What a layer does between its products, token by token: the residual's sums, norms, gates. In torch, anywhere;
`looped.py` does the same in compiled loops.

Shapes: T tokens, D hidden, F width of the feed-forward, E = 2F.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.engines.products import Norm
from danlu.ops.gated import Activation, gated_forward


class Pointwise:
    """`dtype` is the weights', in which products are fed; the residual is fp32."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def normed(self, x_TD: Tensor, more_TD: Tensor | None, norm: Norm) -> Tensor:
        """x += more, in place; its norm, ready for a product."""
        if more_TD is not None:
            x_TD.add_(more_TD)
        return norm(x_TD).to(self.dtype)

    def gated(self, wide_TE: Tensor, activation: Activation) -> Tensor:
        return gated_forward(wide_TE, activation)
