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

from danlu.ops.kernels import fits, jit, tl, triton

Activation = Literal["silu", "gelu_tanh", "gelu", "relu"]
CPU_PIECE, GPU_PIECE = 1 << 16, 1 << 24  # elements whose fp32 copies the torch path's backward holds at a time
COLUMNS, NUM_WARPS = 1024, 4  # of a kernel's program: 16 bytes of each tensor to a thread


def gated(gate_TF: Tensor, up_TF: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up; `gelu_tanh` is the tanh approximation that Gemma was trained with."""
    return activated(gate_TF, activation) * up_TF


def activated(gate_TF: Tensor, activation: Activation) -> Tensor:
    match activation:
        case "silu":
            return F.silu(gate_TF)
        case "gelu_tanh":
            return F.gelu(gate_TF, approximate="tanh")
        case "gelu":
            return F.gelu(gate_TF)
        case "relu":
            return F.relu(gate_TF)


def gated_forward(gate_up_TE: Tensor, activation: Activation, *, out_TF: Tensor | None = None) -> Tensor:
    """out_TF = activation(gate) * up."""
    gate_TF, up_TF = gate_up_TE.chunk(2, dim=-1)
    if fits(gate_up_TE, out_TF):
        out_TF = gate_up_TE.new_empty(gate_TF.shape) if out_TF is None else out_TF
        if len(out_TF):
            _forward_kernel[_grid(out_TF)](
                gate_up_TE, out_TF, gate_up_TE.stride(0), out_TF.stride(0),
                F=out_TF.shape[1], ACTIVATION=activation, COLUMNS=COLUMNS, num_warps=NUM_WARPS,
            )  # fmt: skip
        return out_TF
    active_TF = activated(gate_TF, activation)
    return active_TF.mul_(up_TF) if out_TF is None else torch.mul(active_TF, up_TF, out=out_TF)


def gated_backward_(grad_TF: Tensor, gate_up_TE: Tensor, activation: Activation) -> None:
    """In place: `grad_TF` becomes the forward's product, bit for bit (the down projection's adapter wants it), and
    `gate_up_TE` becomes its own gradient."""
    if fits(grad_TF, gate_up_TE):
        if len(grad_TF):
            _backward_kernel[_grid(grad_TF)](
                grad_TF, gate_up_TE, grad_TF.stride(0), gate_up_TE.stride(0),
                F=grad_TF.shape[1], ACTIVATION=activation, COLUMNS=COLUMNS, num_warps=NUM_WARPS,
            )  # fmt: skip
        return
    wide = torch.float64 if grad_TF.dtype == torch.float64 else torch.float32
    piece = CPU_PIECE if grad_TF.device.type == "cpu" else GPU_PIECE
    rows = max(1, piece // grad_TF.shape[-1])
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


def _grid(out_TF: Tensor) -> tuple[int]:
    """One dimension: CUDA's others end at 65,535."""
    return (len(out_TF) * triton.cdiv(out_TF.shape[1], COLUMNS),)


@jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    gate_up, out, gate_up_stride, out_stride, F: tl.constexpr, ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr
):
    tiles: tl.constexpr = (F + COLUMNS - 1) // COLUMNS
    row = (tl.program_id(0) // tiles).to(tl.int64)
    column_C = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    mask_C = column_C < F
    gate_C = tl.load(gate_up + row * gate_up_stride + column_C, mask=mask_C, other=0.0).to(tl.float32)
    up_C = tl.load(gate_up + row * gate_up_stride + F + column_C, mask=mask_C, other=0.0).to(tl.float32)
    active_C, _ = _active(gate_C, ACTIVATION)
    tl.store(out + row * out_stride + column_C, active_C * up_C, mask=mask_C)


@jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, gate_up, grad_stride, gate_up_stride, F: tl.constexpr, ACTIVATION: tl.constexpr, COLUMNS: tl.constexpr
):
    tiles: tl.constexpr = (F + COLUMNS - 1) // COLUMNS
    row = (tl.program_id(0) // tiles).to(tl.int64)
    column_C = tl.program_id(0) % tiles * COLUMNS + tl.arange(0, COLUMNS)
    mask_C = column_C < F
    grad_at_C = grad + row * grad_stride + column_C
    gate_at_C = gate_up + row * gate_up_stride + column_C
    grad_C = tl.load(grad_at_C, mask=mask_C, other=0.0).to(tl.float32)
    gate_C = tl.load(gate_at_C, mask=mask_C, other=0.0).to(tl.float32)
    up_C = tl.load(gate_at_C + F, mask=mask_C, other=0.0).to(tl.float32)
    active_C, slope_C = _active(gate_C, ACTIVATION)
    tl.store(grad_at_C, active_C * up_C, mask=mask_C)
    tl.store(gate_at_C, grad_C * up_C * slope_C, mask=mask_C)
    tl.store(gate_at_C + F, grad_C * active_C, mask=mask_C)


@jit
def _active(gate, ACTIVATION: tl.constexpr):  # type: ignore[no-untyped-def]
    """(activation(gate), its derivative) in fp32."""
    if ACTIVATION == "silu":
        share = tl.sigmoid(gate)
        active = gate * share
        slope = share + active * (1 - share)
    elif ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)  # sqrt(2 / pi)
        share = tl.sigmoid(2 * inner)  # = (1 + tanh(inner)) / 2
        active = gate * share
        slope = share + 2 * active * (1 - share) * 0.7978845608028654 * (1 + 0.134145 * gate * gate)
    elif ACTIVATION == "gelu":
        share = 0.5 * (1 + tl.erf(gate * 0.7071067811865476))  # sqrt(1 / 2)
        active = gate * share
        slope = share + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)  # 1 / sqrt(2 pi)
    else:
        active = tl.maximum(gate, 0.0)
        slope = tl.where(gate > 0, 1.0, 0.0)
    return active, slope
