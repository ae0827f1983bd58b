"""cuDNN's attention on documents of equal length: the flat row is a dense batch, seen through views.

On Hopper twice as fast as the flash kernel: 446 against 232 TFLOP/s, forward and backward, 8 × 2048 tokens, 28/4 heads.
cuDNN builds a plan per shape, 0.1 s each: a training of equal documents sees one. Not deterministic.

torch's binding of cuDNN for packed rows (`_cudnn_attention_forward` with `cum_seq`) is not used: on torch 2.11 with
cuDNN 9.19 its backward writes outside its memory, and up to 2.13 it builds a new plan in every call.

Shapes: T tokens of all documents, N documents, L tokens of each, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.ops.attention.kernel import Ask, Heads, Saved, packed


def cudnn_fits(heads: Heads) -> bool:
    """cuDNN 9's support table for training: multiples of 8, up to 128, on Hopper and later up to 256."""
    largest = 256 if heads.capability >= (9, 0) else 128
    if not torch.backends.cuda.cudnn_sdp_enabled():  # type: ignore[no-untyped-call]
        return False
    return heads.capability >= (8, 0) and heads.is_16_bit and heads.head_size % 8 == 0 and heads.head_size <= largest


class CudnnDense:
    name = "cuDNN"
    is_deterministic = False

    def fits(self, heads: Heads, ask: Ask) -> bool:
        is_dense = ask.bounds.is_even and not ask.bounds.is_standing
        return cudnn_fits(heads) and is_dense and ask.softcap is None and not ask.needs_window

    def forward(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> tuple[Tensor, Saved]:
        q, k, v = (_dense(x, ask) for x in (q_THD, k_TKD, v_TKD))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, True, False, scale=ask.scale
        )
        return _flat(out), (lse,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        grad, q, k, v, out = (_dense(x, ask) for x in (packed(grad_THD), q_THD, k_TKD, v_TKD, out_THD))
        unused, length = _unused(grad), ask.bounds.max_length
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, saved[0], unused, unused, None, None, None, length, length, 0.0, True, scale=ask.scale
        )
        dq, dk, dv = (_flat(x) for x in grads)
        return dq, dk, dv


def _dense(x_THD: Tensor, ask: Ask) -> Tensor:
    """[N, H, L, D], a view."""
    return x_THD.view(ask.bounds.num_documents, ask.bounds.max_length, *x_THD.shape[1:]).transpose(1, 2)


def _flat(x_NHLD: Tensor) -> Tensor:
    return x_NHLD.transpose(1, 2).reshape(-1, x_NHLD.shape[1], x_NHLD.shape[3])


def _unused(like: Tensor) -> Tensor:
    """Dropout's seed and offset, where nothing is dropped."""
    return torch.empty(0, dtype=torch.int64, device=like.device)
