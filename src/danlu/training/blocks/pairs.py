"""The low-rank pairs of layers that read the same input, as two matrices: all A's below one another, and all B's as
diagonal blocks, with the layers' biases in a column of their own against a one in the input.

Gradients of pairs are added to `.grad` here (fp32); autograd never sees them.

Shapes: T rows, K inputs, N outputs of all layers, R ranks of all layers, P columns of padding that hold R and the bias.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from danlu.adapters.lora import LoRALinear
from danlu.model.decoder import RMSNorm
from danlu.model.quantizers.quantizer import QuantizedLinear
from danlu.ops.fp8_rows import gated_backward_low_rank_fp8_
from danlu.ops.gated import Activation
from danlu.ops.gated_low_rank import gated_backward_low_rank_
from danlu.ops.low_rank import Part, add_product_, pairs_backward
from danlu.ops.many_copies import Copy
from danlu.ops.norm_low_rank import add_normed_product_

GPU_COLUMNS, CPU_COLUMNS = 64, 16
"""P is a multiple of this. Narrower paddings chose slower tiles in cuBLAS on Hopper; a CPU gains nothing from more."""

Linear = nn.Linear | QuantizedLinear


class Pairs:
    """What a projection's layers have beside their weights."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self.layers = list(layers)
        self.num_inputs = layers[0].in_features
        self.rows = _slices([layer.out_features for layer in layers])
        self.num_outputs: int = self.rows[-1].stop
        self._adapted = [(at, layer) for at, layer in enumerate(layers) if isinstance(layer, LoRALinear)]
        self._ranks = _slices([layer.lora_A.shape[0] for _, layer in self._adapted])
        self.num_ranks: int = self._ranks[-1].stop if self._ranks else 0
        self.has_bias = any(layer.bias is not None for layer in layers)
        columns = GPU_COLUMNS if device_of(layers[0]).type == "cuda" else CPU_COLUMNS
        self.padding: int = -(-(self.num_ranks + self.has_bias) // columns) * columns

    @property
    def layout(self) -> tuple[object, ...]:
        """Equal for projections whose matrices look alike."""
        ranks = tuple((at, ranks.stop) for (at, _), ranks in zip(self._adapted, self._ranks, strict=True))
        return self.num_inputs, tuple(rows.stop for rows in self.rows), ranks, self.has_bias

    def copies(self, down_PK: Tensor, up_NP: Tensor) -> list[Copy]:
        """What an update makes stale: the A's into `down_PK`, s · the B's into `up_NP`."""
        copies = []
        for (at, layer), ranks in zip(self._adapted, self._ranks, strict=True):
            copies.append(Copy(layer.lora_A.detach(), down_PK[ranks]))
            copies.append(Copy(layer.lora_B.detach(), up_NP[self.rows[at], ranks], layer.scaling))
        return copies

    def write_bias(self, up_NP: Tensor) -> None:
        if self.has_bias:
            for layer, rows in zip(self.layers, self.rows, strict=True):
                if layer.bias is not None:
                    up_NP[rows, self.num_ranks] = layer.bias.detach()

    def fill(self, x_TK: Tensor, down_PK: Tensor, out_TP: Tensor, *, is_disabled: bool) -> None:
        """x Aᵀ and the bias's one into the padding of an input. Unused rows of `down_PK` are zero, and so are the
        products with them."""
        if is_disabled or not self.num_ranks:
            out_TP.zero_()
        else:
            torch.mm(x_TK, down_PK.T, out=out_TP)
        if self.has_bias:
            out_TP[:, self.num_ranks] = 1

    def gradient_of_ups(self, dy_TN: Tensor, up_NP: Tensor, s_TP: Tensor, out_TP: Tensor) -> None:
        """Adds to the B's gradients, and writes that of x Aᵀ into the padding of a gradient. The rest of the padding is
        set to zero: it meets zeros, but zero times what lay in memory need not be zero."""
        if not self._adapted:
            out_TP.zero_()
            return
        parts = [
            Part(self.rows[at], ranks, gradient(layer.lora_B), layer.scaling)
            for (at, layer), ranks in zip(self._adapted, self._ranks, strict=True)
        ]
        pairs_backward(dy_TN, up_NP, s_TP, parts, out_TP=out_TP)

    def gradient_of_downs(self, ds_TP: Tensor, x_TK: Tensor) -> None:
        """Adds to the A's gradients."""
        if not self._adapted:
            return
        stacked = self._stacked_gradient()
        if stacked is not None:
            add_product_(stacked, ds_TP[:, : self.num_ranks], x_TK)
            return
        for (_, layer), ranks in zip(self._adapted, self._ranks, strict=True):
            add_product_(gradient(layer.lora_A), ds_TP[:, ranks], x_TK)

    def gradient_of_normed_downs(self, ds_TP: Tensor, x_TK: Tensor, norm: RMSNorm, inverse_T: Tensor) -> None:
        """The same where the input was norm(x)."""
        if not self._adapted:
            return
        stacked = self._stacked_gradient()
        targets = [(stacked, slice(0, self.num_ranks))] if stacked is not None else []
        if stacked is None:
            pairs = zip(self._adapted, self._ranks, strict=True)
            targets = [(gradient(layer.lora_A), ranks) for (_, layer), ranks in pairs]
        for target, ranks in targets:
            add_normed_product_(target, ds_TP[:, ranks], x_TK, norm.weight, inverse_T, norm.offset)

    # ---- beside a gate: those of the layer that reads act(gate) · up

    def gate_back_(self, dh_TF: Tensor, gate_up: Tensor, activation: Activation, ds_TP: Tensor) -> None:
        """`gate_up` becomes its gradient; adds to the A's gradient what `gradient_of_downs` would."""
        ((_, layer),) = self._adapted
        gated_backward_low_rank_(
            dh_TF, gate_up, activation, ds_TP[:, : self.num_ranks], gradient(layer.lora_A)
        )  # fmt: skip

    def gate_back_fp8_(
        self, dh_TF: Tensor, gate_up: Tensor, activation: Activation, ds_TP: Tensor, columns_E: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same, with the codes and scales of that gradient · columns."""
        ((_, layer),) = self._adapted
        return gated_backward_low_rank_fp8_(
            dh_TF, gate_up, activation, ds_TP[:, : self.num_ranks], gradient(layer.lora_A), columns_E=columns_E
        )

    @property
    def is_single(self) -> bool:
        """One layer, adapted: its pair can be computed where its input is made."""
        return len(self.layers) == len(self._adapted) == 1

    def _stacked_gradient(self) -> Tensor | None:
        """The A's gradients as one [R, K], where they lie side by side; x is then read once for all of them."""
        grads = [gradient(layer.lora_A) for _, layer in self._adapted]
        for one, other in itertools.pairwise(grads):
            is_next = one.storage_offset() + one.numel() == other.storage_offset()
            if not is_next or one.untyped_storage().data_ptr() != other.untyped_storage().data_ptr():
                return None
        return grads[0].as_strided((self.num_ranks, self.num_inputs), (self.num_inputs, 1))


def device_of(layer: Linear) -> torch.device:
    """Where its weight or its codes lie."""
    if isinstance(layer, LoRALinear):
        return layer.lora_A.device
    return layer.weight.device if isinstance(layer, nn.Linear) else layer.device


def gradient(parameter: nn.Parameter) -> Tensor:
    """The parameter's gradient, zeros where it has none yet."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _slices(sizes: Sequence[int]) -> list[slice]:
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
