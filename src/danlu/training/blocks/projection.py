"""Linear layers that read the same input, as one product, with their low-rank pairs inside it.

Weights and pairs lie in one buffer M of (N + P) × (K + P):

    M = [ W    s·B ]      forward    y      = [x | x Aᵀ | 1] M[:N]ᵀ
        [ A     0  ]      backward   dx     = [dy | dy sB] M[:, :K]

so the update costs P more columns of a product that runs anyway, where separate products read and write y and dx once
more. Biases take one of the P columns, against a one in the input. Several layers (q, k, v) stand below one another in
W; their B's stand in M as diagonal blocks. The layers' own `weight` become views of M, so names, saving and merging do
not notice.

Gradients of pairs are added to `.grad` (fp32) here; autograd never sees them. Low-rank adapters: Hu et al. 2021,
arXiv:2106.09685.

Shapes: T rows, K inputs, N outputs of all layers, R ranks of all layers, P columns of padding that hold R and the bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.ops.low_rank import add_product_, pair_backward

COLUMNS = 64
"""P is a multiple of this: narrower paddings chose slower tiles in cuBLAS on Hopper."""


class Projection:
    """See above. `width` is that of the inputs it wants (K + P) and `room` what gradients of its outputs need (N + P):
    the callers' kernels write into buffers of these widths, and no input is copied to be widened."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        self.layers = list(layers)
        self.num_inputs = layers[0].in_features
        ends = list(itertools.accumulate(layer.out_features for layer in layers))
        self.num_outputs = ends[-1]
        self._rows = [slice(end - layer.out_features, end) for layer, end in zip(layers, ends, strict=True)]
        self._pairs = [(at, layer) for at, layer in enumerate(layers) if isinstance(layer, LoRALinear)]
        rank_ends = list(itertools.accumulate(layer.lora_A.shape[0] for _, layer in self._pairs))
        self._ranks = [slice(end - p[1].lora_A.shape[0], end) for p, end in zip(self._pairs, rank_ends, strict=True)]
        self.num_ranks = rank_ends[-1] if rank_ends else 0
        self._has_bias = any(layer.bias is not None for layer in layers)
        used = self.num_ranks + self._has_bias
        self.padding = -(-used // COLUMNS) * COLUMNS
        self.width, self.room = self.num_inputs + self.padding, self.num_outputs + self.padding
        self._M = self._lay_out()
        self.refresh()

    # ---- the buffer

    def _lay_out(self) -> Tensor:
        """M with the weights in it; the layers' weights become views of it."""
        like = self.layers[0].weight
        M = like.new_zeros(self.room, self.width)
        for layer, rows in zip(self.layers, self._rows, strict=True):
            M[rows, : self.num_inputs] = layer.weight.detach()
            layer.weight.data = M[rows, : self.num_inputs]
        self._write_bias(M)
        return M

    def _write_bias(self, M: Tensor) -> None:
        if not self._has_bias:
            return
        for layer, rows in zip(self.layers, self._rows, strict=True):
            if layer.bias is not None:
                M[rows, self.num_inputs + self.num_ranks] = layer.bias.detach()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the pairs as the last update left them."""
        self._write_pairs(self._M)

    def _write_pairs(self, M: Tensor) -> None:
        K, N = self.num_inputs, self.num_outputs
        for (at, layer), ranks in zip(self._pairs, self._ranks, strict=True):
            M[N + ranks.start : N + ranks.stop, :K].copy_(layer.lora_A.detach())
            torch.mul(layer.lora_B.detach(), layer.scaling, out=M[self._rows[at], K + ranks.start : K + ranks.stop])

    def matrix(self) -> Tensor:
        """M, ready to multiply with; a quantised base makes it anew each time."""
        return self._M

    # ---- forward

    def new_input(self, like: Tensor, num_rows: int) -> Tensor:
        """An empty [T, K + P] whose first K columns the caller fills."""
        return like.new_empty(num_rows, self.width)

    def forward(
        self, x_wide: Tensor, *, onto: Tensor | None = None, out: Tensor | None = None, is_disabled: bool = False
    ) -> tuple[Tensor, Tensor]:
        """(y_TN, s_TP) of inputs [T, K + P], the last P columns of which are overwritten. `onto` [T, N] is added to y;
        `out` may be the first columns of a wider buffer. s is what the backward needs: x Aᵀ."""
        M, K, N = self.matrix(), self.num_inputs, self.num_outputs
        if self.padding:
            self._fill_padding(x_wide, M, is_disabled)
        if onto is None:
            y = torch.mm(x_wide, M[:N].T, out=out) if out is not None else torch.mm(x_wide, M[:N].T)
        else:
            assert out is None, "one of the two"
            y = torch.addmm(onto, x_wide, M[:N].T)
        return y, x_wide[:, K:].clone()

    def _fill_padding(self, x_wide: Tensor, M: Tensor, is_disabled: bool) -> None:
        """M's unused rows are zero, and so are the products with them; the bias's column is then set to one."""
        K, N, R = self.num_inputs, self.num_outputs, self.num_ranks
        if is_disabled or not R:
            x_wide[:, K:] = 0
        else:
            torch.mm(x_wide[:, :K], M[N:, :K].T, out=x_wide[:, K:])
        if self._has_bias:
            x_wide[:, K + R] = 1

    def forward_onto(self, x_TK: Tensor, onto_TN: Tensor, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        """The same for an input that does not lie in a wide buffer: the pairs' product starts the sum, then W's."""
        M, K, N, R = self.matrix(), self.num_inputs, self.num_outputs, self.num_ranks
        s_TP = x_TK.new_zeros(len(x_TK), self.padding)
        if self._has_bias:
            s_TP[:, R] = 1
        if R and not is_disabled:
            torch.mm(x_TK, M[N : N + R, :K].T, out=s_TP[:, :R])
        start = torch.addmm(onto_TN, s_TP, M[:N, K:].T) if self.padding else onto_TN
        return (start.addmm_ if self.padding else start.addmm)(x_TK, M[:N, :K].T), s_TP

    # ---- backward

    def input_gradient(self, dy_wide: Tensor, s_TP: Tensor, *, needs_input: bool = True) -> Tensor | None:
        """dx_TK of gradients [T, N + P], the first N columns of which are the outputs' gradient; the last P are
        overwritten with the gradient of x Aᵀ. Adds to the B's gradients."""
        M, K, N, R = self.matrix(), self.num_inputs, self.num_outputs, self.num_ranks
        if not R:
            return torch.mm(dy_wide[:, :N], M[:N, :K]) if needs_input else None
        dy_wide[:, N + R :] = 0  # M's rows there are zero, but zero times what lay in memory need not be
        for (at, layer), ranks in zip(self._pairs, self._ranks, strict=True):
            rows = self._rows[at]
            pair_backward(
                dy_wide[:, rows], M[rows, K + ranks.start : K + ranks.stop], s_TP[:, ranks], _gradient(layer.lora_B),
                scale=layer.scaling, out_TR=dy_wide[:, N + ranks.start : N + ranks.stop],
            )  # fmt: skip
        return torch.mm(dy_wide, M[:, :K]) if needs_input else None

    def weight_gradient(self, dy_wide: Tensor, x_TK: Tensor) -> None:
        """Adds to the A's gradients; call it after `input_gradient`, which makes what it reads."""
        N = self.num_outputs
        stacked = self._stacked_gradient()
        if stacked is not None:
            add_product_(stacked, dy_wide[:, N : N + self.num_ranks], x_TK)
            return
        for (_, layer), ranks in zip(self._pairs, self._ranks, strict=True):
            add_product_(_gradient(layer.lora_A), dy_wide[:, N + ranks.start : N + ranks.stop], x_TK)

    def _stacked_gradient(self) -> Tensor | None:
        """The A's gradients as one [R, K], where they lie side by side; x is then read once for all of them."""
        grads = [_gradient(layer.lora_A) for _, layer in self._pairs]
        if not grads or any(
            one.data_ptr() + one.numel() * one.element_size() != next_one.data_ptr()
            for one, next_one in itertools.pairwise(grads)
        ):
            return None
        return grads[0].as_strided((self.num_ranks, self.num_inputs), (self.num_inputs, 1))


def _gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient, zeros where it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
