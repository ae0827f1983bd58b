"""Projections by what their base lies in. In 16 bits, NF4 and int8 it is one augmented product (`projection.py`); fp8
multiplies codes, in which low-rank pairs would drown: they are added in 16 bits around it.

Codes are made where their rows are made, by the norm, the gate and their backwards; only queries, keys and values' own
gradient is read once more for it. Scales of output channels are folded into gradients before these are rounded
(`ops/fp8.py`), so that one set of codes serves both directions.

Shapes: T rows, K inputs, N outputs of all layers, P columns of padding (`pairs.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.model.decoder import RMSNorm
from danlu.model.quantizers.fp8 import FP8Linear
from danlu.ops.fp8 import FP8, product, product_back, quantise_rows, stack, unstack, with_turned
from danlu.ops.fp8_rows import gated_backward_fp8_, gated_forward_fp8, norm_backward_fp8, norm_forward_fp8
from danlu.ops.gated import Activation
from danlu.ops.many_copies import Copy
from danlu.training.blocks.pairs import Linear, Pairs
from danlu.training.blocks.projection import Projection, Scratch, codes_of
from danlu.training.blocks.rows import Rows


def project(layers: Sequence[Linear], scratch: Scratch) -> Projection:
    """The projection that these layers' precision wants."""
    quantised = [codes_of(layer) for layer in layers]
    is_fp8 = all(isinstance(layer, FP8Linear) for layer in quantised)
    return FP8Projection(layers, scratch) if is_fp8 else Projection(layers, scratch)


class FP8Projection(Projection):
    """y = codes(x) codes(W)ᵀ + (x Aᵀ | 1) (s B | b)ᵀ."""

    def __init__(self, layers: Sequence[Linear], scratch: Scratch) -> None:
        bases = [base for layer in layers if isinstance(base := codes_of(layer), FP8Linear)]
        assert len(bases) == len(layers), "all of fp8, or none"
        self._weight: FP8 = with_turned(stack([base.packed for base in bases]))
        for base, part in zip(bases, unstack(self._weight, [base.out_features for base in bases]), strict=True):
            base.packed = part
        self._columns = self._weight.columns
        self._dtype = bases[0].dtype
        super().__init__(layers, scratch)

    def _lay_out(self) -> None:
        pairs, device = self.pairs, self._weight.codes.device
        self._down_PK = torch.zeros(pairs.padding, pairs.num_inputs, dtype=self._dtype, device=device)
        self._up_NP = torch.zeros(pairs.num_outputs, pairs.padding, dtype=self._dtype, device=device)
        pairs.write_bias(self._up_NP)

    def copies(self) -> list[Copy]:
        return self.pairs.copies(self._down_PK, self._up_NP)

    def _apart(self, values: Tensor) -> Rows:
        """Values with room for pairs in a buffer of its own."""
        return Rows(values, values.new_empty(len(values), self.pairs.padding))

    # ---- inputs

    def normed(self, norm: RMSNorm, x_TK: Tensor, add_TK: Tensor | None = None) -> tuple[Rows, Tensor, Tensor]:
        sum_TK = x_TK if add_TK is None else torch.empty_like(x_TK)
        rows = self._apart(x_TK.new_empty(len(x_TK), self.num_inputs))
        rows.codes, rows.scale_T, inverse_T = norm_forward_fp8(
            x_TK, norm.weight, norm.eps, norm.offset,
            out_TD=rows.values, add_TD=add_TK, sum_TD=None if add_TK is None else sum_TK,
        )  # fmt: skip
        return rows, inverse_T, sum_TK

    def gated(self, gate_up: Tensor, activation: Activation) -> Rows:
        rows = self._apart(gate_up.new_empty(len(gate_up), self.num_inputs))
        rows.codes, rows.scale_T = gated_forward_fp8(gate_up, activation, out_TF=rows.values)
        return rows

    # ---- gradients of outputs

    def new_gradient(self, like: Tensor) -> Rows:
        return self._apart(like.new_empty(len(like), self.num_outputs))

    def gradient(self, dy_TN: Tensor) -> Rows:
        return self.finish(self._apart(dy_TN))

    def finish(self, grad: Rows) -> Rows:
        grad.codes, grad.scale_T = quantise_rows(grad.values, columns=self._columns)
        return grad

    def gradient_through_gate(
        self, dh_TF: Tensor, gate_up: Tensor, activation: Activation, reader: Pairs, ds_TP: Tensor
    ) -> Rows:
        grad = self._apart(gate_up)
        if reader.is_single:
            grad.codes, grad.scale_T = reader.gate_back_fp8_(dh_TF, grad.values, activation, ds_TP, self._columns)
        else:
            grad.codes, grad.scale_T = gated_backward_fp8_(dh_TF, grad.values, activation, columns_E=self._columns)
            reader.gradient_of_downs(ds_TP, dh_TF)
        return grad

    def gradient_through_norm(
        self, grad_TN: Tensor, x_TN: Tensor, norm: RMSNorm, inverse_T: Tensor, through_TN: Tensor | None
    ) -> Rows:
        grad = self.new_gradient(x_TN)
        _, grad.codes, grad.scale_T = norm_backward_fp8(
            grad_TN, x_TN, norm.weight, inverse_T, norm.offset,
            columns_D=self._columns, through_TD=through_TN, out_TD=grad.values,
        )  # fmt: skip
        return grad

    # ---- products

    def forward(self, x: Rows, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        assert x.codes is not None and x.scale_T is not None, "made by `normed`, `gated` or `forward_apart`"
        y_TN = product(x.codes, x.scale_T, self._weight, dtype=self._dtype)
        if self.pairs.padding:
            self.pairs.fill(x.values, self._down_PK, x.padding, is_disabled=is_disabled)
            y_TN.addmm_(x.padding, self._up_NP.T)
        return y_TN, x.padding

    def forward_with_room(self, x: Rows, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        return self.forward(x, is_disabled=is_disabled)

    def forward_apart(self, x_TK: Tensor, *, is_disabled: bool = False) -> tuple[Tensor, Tensor]:
        rows = self._apart(x_TK)
        rows.codes, rows.scale_T = quantise_rows(x_TK)
        return self.forward(rows, is_disabled=is_disabled)

    def input_gradient(self, dy: Rows, s_TP: Tensor, *, needs_input: bool = True) -> Tensor | None:
        if self.pairs.padding:
            self.pairs.gradient_of_ups(dy.values, self._up_NP, s_TP, dy.padding)
        if not needs_input:
            return None
        assert dy.codes is not None and dy.scale_T is not None, "made by `finish` or a `gradient_through_…`"
        dx_TK = product_back(dy.codes, dy.scale_T, self._weight, dtype=self._dtype)
        return dx_TK.addmm_(dy.padding, self._down_PK) if self.pairs.num_ranks else dx_TK
