"""Linear layers that read the same input, as one product, with their low-rank pairs inside it.

Weights and pairs lie in one buffer M of (N + P) × (K + P):

    M = [ W    s·B ]      forward    y      = [x | x Aᵀ | 1] M[:N]ᵀ
        [ A     0  ]      backward   dx     = [dy | dy sB] M[:, :K]

so the update costs P more columns of a product that runs anyway, where separate products read and write y and dx once
more. Biases take one of the P columns. Several layers (q, k, v) stand below one another in W. Of a base in 16 bits the
layers' own `weight` become views of M, so names, saving and merging do not notice; a quantised base is written into an
M that all like projections share, each time it is needed.

Low-rank adapters: Hu et al. 2021, arXiv:2106.09685.

Shapes: T rows, K inputs, N outputs of all layers, P columns of padding (`pairs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.model.decoder import RMSNorm
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.ops.gated import Activation, gated_backward_, gated_forward
from danlu.ops.many_copies import Copy, ManyCopies
from danlu.ops.rms_norm import norm_backward, norm_forward
from danlu.training.blocks.pairs import Linear, Pairs
from danlu.training.blocks.rows import Rows

Scratch = dict[tuple[object, ...], Tensor]
"""The M's of quantised bases, by layout."""


class Projection:
    """See above. The first half makes inputs and gradients in the shape that the second half multiplies."""

    def __init__(self, layers: Sequence[Linear], scratch: Scratch) -> None:
        self.pairs = Pairs(layers)
        self.num_inputs, self.num_outputs = self.pairs.num_inputs, self.pairs.num_outputs
        self._scratch = scratch
        self._M = self._lay_out()
        self._into_scratch: ManyCopies | None = None

    @property
    def room(self) -> int:
        """Columns of a buffer whose first N are outputs, with space for the backward's padding."""
        return self.num_outputs + self.pairs.padding

    # ---- the buffer

    def _lay_out(self) -> Tensor | None:
        """M with the weights in it, which become views of it; None for a quantised base."""
        layers = self.pairs.layers
        if any(codes_of(layer) is not None for layer in layers):
            return None
        weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
        M = self._empty(weights[0])
        for layer, weight, rows in zip(layers, weights, self.pairs.rows, strict=True):
            M[rows, : self.num_inputs] = weight.detach()
            assert isinstance(layer, nn.Linear), "a base in 16 bits"
            layer.weight.data = M[rows, : self.num_inputs]
        self.pairs.write_bias(M[:, self.num_inputs :])
        return M

    def _empty(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.room, self.num_inputs + self.pairs.padding)

    def copies(self) -> list[Copy]:
        """Pairs into the buffer, wherever that stands from one step to the next."""
        if self._M is None:
            return []
        return self.pairs.copies(self._M[self.num_outputs :, : self.num_inputs], self._M[:, self.num_inputs :])

    def matrix(self) -> Tensor:
        """M, ready to multiply with."""
        return self._M if self._M is not None else self._unpack()

    def _unpack(self) -> Tensor:
        """M of a quantised base, until the next projection of this layout wants the room."""
        layers = [codes_of(layer) for layer in self.pairs.layers]
        first = layers[0]
        assert first is not None, "one projection has one precision"
        key = (*self.pairs.layout, first.dtype, first.device)
        if key not in self._scratch:
            self._scratch[key] = self._empty(torch.empty(0, dtype=first.dtype, device=first.device))
        M = self._scratch[key]
        for layer, rows in zip(layers, self.pairs.rows, strict=True):
            assert layer is not None, "one projection has one precision"
            layer.dequantized(M[rows, : self.num_inputs])
        copies = self.pairs.copies(M[self.num_outputs :, : self.num_inputs], M[:, self.num_inputs :])
        self._into_scratch = kept_or_made(self._into_scratch, copies)
        self._into_scratch()
        self.pairs.write_bias(M[:, self.num_inputs :])
        return M

    # ---- inputs

    def _new_input(self, like: Tensor) -> Rows:
        return Rows.side_by_side(like.new_empty(len(like), self.num_inputs + self.pairs.padding), self.num_inputs)

    def normed(self, norm: RMSNorm, x_TK: Tensor, add_TK: Tensor | None = None) -> tuple[Rows, Tensor, Tensor]:
        """(norm(x + add) as an input, 1 / rms, x + add)."""
        rows = self._new_input(x_TK)
        sum_TK = x_TK if add_TK is None else torch.empty_like(x_TK)
        _, inverse_T = norm_forward(
            x_TK, norm.weight, norm.eps, norm.offset,
            out_TD=rows.values, add_TD=add_TK, sum_TD=None if add_TK is None else sum_TK,
        )  # fmt: skip
        return rows, inverse_T, sum_TK

    def gated(self, gate_up: Tensor, activation: Activation) -> Rows:
        """act(gate) · up as an input."""
        rows = self._new_input(gate_up)
        gated_forward(gate_up, activation, out_TF=rows.values)
        return rows

    # ---- gradients of outputs

    def new_gradient(self, like: Tensor) -> Rows:
        """An empty one; `finish` it after writing its values."""
        return Rows.side_by_side(like.new_empty(len(like), self.room), self.num_outputs)

    def finish(self, grad: Rows) -> Rows:
        """Whatever products want beside the values."""
        return grad

    def gradient(self, dy_TN: Tensor) -> Rows:
        """A copy of one that lies elsewhere."""
        grad = self.new_gradient(dy_TN)
        grad.values.copy_(dy_TN)
        return self.finish(grad)

    def gradient_through_gate(
        self, dh_TF: Tensor, gate_up: Tensor, activation: Activation, reader: Pairs, ds_TP: Tensor
    ) -> Rows:
        """In place of `gate_up`, which `forward_with_room` made. `reader` are the pairs of the layer that read
        act(gate) · up, whose A's get their gradients here: their input is made anew for nothing else."""
        grad = Rows.side_by_side(gate_up, self.num_outputs)
        if reader.is_single:
            reader.gate_back_(dh_TF, grad.values, activation, ds_TP)
        else:
            gated_backward_(dh_TF, grad.values, activation)
            reader.gradient_of_downs(ds_TP, dh_TF)
        return grad

    def gradient_through_norm(
        self, grad_TN: Tensor, x_TN: Tensor, norm: RMSNorm, inverse_T: Tensor, through_TN: Tensor | None
    ) -> Rows:
        """That of a sum whose norm had the gradient `grad_TN` and which `through_TN`, if anything, passed by."""
        grad = self.new_gradient(x_TN)
        norm_backward(
            grad_TN, x_TN, norm.weight, inverse_T, norm.offset, through_TD=through_TN, out_TD=grad.values
        )  # fmt: skip
        return grad

    # ---- products

    def forward(self, x: Rows, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        """(y_TN, s_TP). s is what the backward needs: x Aᵀ, and the bias's one."""
        M_NK = self._filled(x, is_disabled)
        return x.wide @ M_NK.T, x.padding.clone()

    def forward_with_room(self, x: Rows, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        """The same with y in the first columns of the buffer in which its gradient will take its place."""
        M_NK = self._filled(x, is_disabled)
        wide = x.values.new_empty(len(x.values), self.room)
        torch.mm(x.wide, M_NK.T, out=wide[:, : self.num_outputs])
        return wide, x.padding.clone()

    def _filled(self, x: Rows, is_disabled: bool) -> Tensor:
        """M's first N rows, x's padding being filled for them."""
        M, K, N = self.matrix(), self.num_inputs, self.num_outputs
        if self.pairs.padding:
            self.pairs.fill(x.values, M[N:, :K], x.padding, is_disabled=is_disabled)
        return M[:N]

    def forward_apart(self, x_TK: Tensor, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        """The same for an input without room beside it, which is not copied: the pairs' product is added."""
        M, K, N = self.matrix(), self.num_inputs, self.num_outputs
        s_TP = x_TK.new_empty(len(x_TK), self.pairs.padding)
        y_TN = x_TK @ M[:N, :K].T
        if self.pairs.padding:
            self.pairs.fill(x_TK, M[N:, :K], s_TP, is_disabled=is_disabled)
            y_TN.addmm_(s_TP, M[:N, K:].T)
        return y_TN, s_TP

    def input_gradient(self, dy: Rows, s_TP: Tensor, *, needs_input: bool = True) -> Tensor | None:
        """dx_TK, if asked for. Fills dy's padding and adds to the B's gradients."""
        M, K, N = self.matrix(), self.num_inputs, self.num_outputs
        if self.pairs.padding:
            self.pairs.gradient_of_ups(dy.values, M[:N, K:], s_TP, dy.padding)
        return dy.wide @ M[:, :K] if needs_input else None

    def weight_gradient(self, dy: Rows, x_TK: Tensor) -> None:
        """Adds to the A's gradients; call it after `input_gradient`, which makes what it reads."""
        self.pairs.gradient_of_downs(dy.padding, x_TK)

    def weight_gradient_of_normed(self, dy: Rows, x_TK: Tensor, norm: RMSNorm, inverse_T: Tensor) -> None:
        """The same for an input that was norm(x), which is not written out again for it."""
        self.pairs.gradient_of_normed_downs(dy.padding, x_TK, norm, inverse_T)


def kept_or_made(kept: ManyCopies | None, copies: list[Copy]) -> ManyCopies:
    """Made anew when a matrix has moved: into a flat buffer, to another device."""
    if kept is not None and kept.copies and len(kept.copies) == len(copies):
        one, other = kept.copies[0], copies[0]
        places = [(c.source.data_ptr(), c.target.data_ptr()) for c in (one, other)]
        if places[0] == places[1]:
            return kept
    return ManyCopies(copies)


def codes_of(layer: Linear) -> QuantizedLinear | None:
    """The quantised layer, alone or beside a pair."""
    return layer.quantized if isinstance(layer, LoRALinear) else layer if isinstance(layer, QuantizedLinear) else None
