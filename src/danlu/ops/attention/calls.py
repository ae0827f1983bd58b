# ruff: noqa: N815 - shape suffixes
"""What models and blocks call.

Shapes: T tokens of all documents, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.choice import choose
from danlu.ops.attention.kernel import Ask, Kernel, Saved, is_plain, run
from danlu.ops.attention.padded import padded_attention


def attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """out_THD. `window` w lets token i see i-w+1 … i; `softcap` c bends scores to c·tanh(score / c) (Gemma 2)."""
    ask = Ask(bounds, scale, window, softcap)
    kernel = choose(q_THD, k_TKD, v_TKD, ask)
    if kernel is None:
        return padded_attention(q_THD, k_TKD, v_TKD, bounds, scale=scale, window=window, softcap=softcap)
    return run(kernel, q_THD, k_TKD, v_TKD, ask)


@dataclass(frozen=True, slots=True)
class Attended:
    """A forward whose backward is called by hand. `saved` lies on the device beside inputs and output (a block that
    keeps activations elsewhere moves it); `graph` stands in its place where torch differentiates."""

    out_THD: Tensor
    saved: Saved
    ask: Ask
    kernel: Kernel | None
    graph: tuple[Tensor, ...] = ()


def attention_forward(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Attended:
    """`attention` for a hand-written block. Autograd records nothing of it."""
    ask = Ask(bounds, scale, window, softcap)
    q_THD, k_TKD, v_TKD = (x.detach() for x in (q_THD, k_TKD, v_TKD))
    kernel = choose(q_THD, k_TKD, v_TKD, ask)
    if kernel is not None and not is_plain(kernel):
        out_THD, saved = cast(Kernel, kernel).forward(q_THD, k_TKD, v_TKD, ask)
        return Attended(out_THD, saved, ask, cast(Kernel, kernel))
    q, k, v = (x.requires_grad_() for x in (q_THD, k_TKD, v_TKD))
    with torch.enable_grad():
        if kernel is None:
            out_THD = padded_attention(q, k, v, bounds, scale=scale, window=window, softcap=softcap)
        else:
            out_THD = run(kernel, q, k, v, ask)
    return Attended(out_THD.detach(), (), ask, None, (q, k, v, out_THD))


def attention_backward(
    grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, attended: Attended
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, in any strides."""
    if attended.kernel is None:
        *inputs, out_THD = attended.graph
        dq, dk, dv = torch.autograd.grad(out_THD, inputs, grad_THD)
        return dq, dk, dv
    with torch.no_grad():
        return attended.kernel.backward(
            grad_THD, q_THD.detach(), k_TKD.detach(), v_TKD.detach(), attended.out_THD, attended.saved, attended.ask
        )
