"""The gated feed-forward's pointwise part: SwiGLU and GeGLU (Shazeer, 2020)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]


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
