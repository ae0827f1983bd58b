"""The gated feed-forward's pointwise part: SwiGLU and GeGLU (Shazeer, 2020).

`gated` is for autograd; `gated_forward` and `gated_backward_` are for those who write their backward themselves and
keep gate and up side by side in one row.

Shapes: T tokens, F width of the feed-forward, E = 2F: [gate | up]. Rows may lie further apart than they are wide.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]
PIECE = 1 << 16  # elements of gate that the torch path's backward takes at a time: its fp32 copies stay in the cache


def gated(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up; `gelu_tanh` is the tanh approximation that Gemma was trained with."""
    match activation:
        case "silu":
            return F.silu(gate_TF) * up_TF
        case "gelu_tanh":
            return F.gelu(gate_TF, approximate="tanh") * up_TF
        case "gelu":
            return F.gelu(gate_TF) * up_TF
        case "relu":
            return F.relu(gate_TF) * up_TF


def gated_forward(gate_up_TE: Tensor, activation: Activation, *, out_TF: Tensor | None = None) -> Tensor:
    """out_TF = activation(gate) * up."""
    gate_TF, up_TF = gate_up_TE.chunk(2, dim=-1)
    product_TF = gated(gate_TF, up_TF, activation)
    return product_TF if out_TF is None else out_TF.copy_(product_TF)


def gated_backward_(grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation) -> None:
    """In place: `grad_TF` becomes the forward's product, bit for bit (the down projection's adapter wants it), and
    `gate_up_TE` becomes its own gradient."""
    wide = torch.float64 if grad_TF.dtype == torch.float64 else torch.float32
    rows = max(1, PIECE // grad_TF.shape[-1])
    for at in range(0, len(grad_TF), rows):
        grad_CF = grad_TF[at : at + rows]
        gate_CF, up_CF = gate_up_TE[at : at + rows].chunk(2, dim=-1)
        product_CF, upstream_CF, wide_gate_CF = gated(gate_CF, up_CF, activation), grad_CF.to(wide), gate_CF.to(wide)
        grad_gate_CF = _slope(upstream_CF * up_CF, wide_gate_CF, activation)
        up_CF.copy_(gated(wide_gate_CF, upstream_CF, activation))
        gate_CF.copy_(grad_gate_CF)
        grad_CF.copy_(product_CF)


def _slope(upstream: Tensor, gate: Tensor, activation: Activation) -> Tensor:
    """upstream * activation'(gate)"""
    out: Tensor
    match activation:
        case "silu":
            out = torch.ops.aten.silu_backward(upstream, gate)
        case "gelu_tanh":
            out = torch.ops.aten.gelu_backward(upstream, gate, approximate="tanh")
        case "gelu":
            out = torch.ops.aten.gelu_backward(upstream, gate)
        case "relu":
            out = torch.ops.aten.threshold_backward(upstream, gate, 0)
    return out
