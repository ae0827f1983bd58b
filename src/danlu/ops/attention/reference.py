"""Attention a reader can check: one document after the other, scores written out.

Shapes: T tokens of all documents, L of one, H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

import functools
import itertools

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds


def reference_attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKD: Tensor,
    bounds: Bounds,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """One document after the other, scores written out. The truth the other paths are tested against."""
    num_shared = q_THD.shape[1] // k_TKD.shape[1]
    outs = []
    for start, end in itertools.pairwise(bounds.cu_seqlens):
        q_HLD = q_THD[start:end].transpose(0, 1)
        k_HLD = k_TKD[start:end].transpose(0, 1).repeat_interleave(num_shared, dim=0)
        v_HLD = v_TKD[start:end].transpose(0, 1).repeat_interleave(num_shared, dim=0)
        outs.append(written_out(q_HLD, k_HLD, v_HLD, scale, window, softcap).transpose(0, 1))
    return torch.cat(outs) if outs else q_THD.clone()


def written_out(
    q_HLD: Tensor, k_HLD: Tensor, v_HLD: Tensor, scale: float, window: int | None, softcap: float | None
) -> Tensor:
    """softmax(mask(cap(q kᵀ · scale))) v, softmax in fp32; any leading dimensions."""
    scores_HLL = q_HLD @ k_HLD.transpose(-2, -1) * scale
    if softcap is not None:
        scores_HLL = torch.tanh(scores_HLL / softcap) * softcap
    wide = scores_HLL if scores_HLL.dtype == torch.float64 else scores_HLL.float()
    wide = wide.masked_fill(~visible(q_HLD.shape[-2], window, q_HLD.device), float("-inf"))
    return wide.softmax(-1).to(v_HLD.dtype) @ v_HLD


@functools.lru_cache(maxsize=4)
def visible(length: int, window: int | None, device: torch.device) -> Tensor:
    """[L, L] bool: may query i see key j."""
    behind_LL = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (behind_LL >= 0) & (behind_LL < window) if window is not None else behind_LL >= 0
