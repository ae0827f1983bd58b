"""cuDNN's attention on documents of equal length: the flat row is a dense batch, seen through views.

On Hopper nearly twice as fast as the flash kernel on long documents (8 × 2048 tokens, 28/4 heads, forward and backward:
2.1 against 3.5 ms; 1 × 16,384: 11.4 against 21.4). It builds a plan per shape, 0.1 s each, so lengths are padded to a
few (1024, 1152 … 2048, 2304 …); lengths that people choose need no padding. Not deterministic.

torch's binding of cuDNN for packed rows (`_cudnn_attention_forward` with `cum_seq`) is not used: on torch 2.11 with
cuDNN 9.19 its backward writes outside its memory, and up to 2.13 it builds a new plan in every call.

Shapes: T tokens of all documents, N documents, L tokens of each (padded), H query heads, K key/value heads,
D head size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.kernel import Ask, Heads, Saved, packed

FINEST = 128  # tokens between padded lengths


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
        q, k, v = (as_batch(x, ask.bounds) for x in (q_THD, k_TKD, v_TKD))
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True, 0.0, True, False, scale=ask.scale
        )
        return as_row(out, ask.bounds), (lse,)

    def backward(
        self, grad_THD: Tensor, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, out_THD: Tensor, saved: Saved, ask: Ask
    ) -> tuple[Tensor, Tensor, Tensor]:
        tensors = (packed(grad_THD), q_THD, k_TKD, v_TKD, out_THD)
        grad, q, k, v, out = (as_batch(x, ask.bounds) for x in tensors)
        unused = torch.empty(0, dtype=torch.int64, device=grad.device)  # dropout's seed and offset
        grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
            grad, q, k, v, out, saved[0], unused, unused, None, None, None, q.shape[2], k.shape[2], 0.0, True,
            scale=ask.scale,
        )  # fmt: skip
        dq, dk, dv = (as_row(x, ask.bounds) for x in grads)
        return dq, dk, dv


def as_batch(x_THD: Tensor, bounds: Bounds) -> Tensor:
    """[N, H, L, D]: a view, or zeros behind each document. They stand after every real key, so causality hides them,
    and with a zero gradient their queries teach nothing."""
    x_NLHD = x_THD.view(bounds.num_documents, bounds.max_length, *x_THD.shape[1:])
    padding = padded_length(bounds.max_length) - bounds.max_length
    if padding:
        x_NLHD = F.pad(x_NLHD, (0, 0, 0, 0, 0, padding))
    return x_NLHD.transpose(1, 2)


def as_row(x_NHLD: Tensor, bounds: Bounds) -> Tensor:
    """[T, H, D], the padding left out."""
    return x_NHLD.transpose(1, 2)[:, : bounds.max_length].reshape(-1, x_NHLD.shape[1], x_NHLD.shape[3])


def padded_length(length: int) -> int:
    """The next of at most eight lengths between a power of two and the next."""
    grain = max(FINEST, (1 << (length - 1).bit_length()) // 8)
    return -(-length // grain) * grain
