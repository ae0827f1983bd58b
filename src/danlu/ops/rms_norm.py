"""RMSNorm (Zhang & Sennrich, 2019), with Gemma's variant that stores `weight - 1`.

Statistics are taken in fp32 whatever the input's dtype; the result has the input's dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (weight + offset) over the last dimension.

    Llama rounds to the input's dtype before it scales, Gemma (offset 1) after; in bf16 the two differ in the last bit,
    and a checkpoint was trained with one of them.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (normed * (weight.to(normed.dtype) + offset)).to(x.dtype)
    return normed.to(x.dtype) * weight.to(x.dtype)
