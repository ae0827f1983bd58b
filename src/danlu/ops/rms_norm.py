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
    if offset or weight.requires_grad or not (x.requires_grad and torch.is_grad_enabled()):
        return reference_rms_norm(x, weight, eps, offset)
    out: Tensor = _FrozenNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return out


def reference_rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if offset:
        return (normed * (weight.to(normed.dtype) + offset)).to(x.dtype)
    return normed.to(x.dtype) * weight.to(x.dtype)


class _FrozenNorm(torch.autograd.Function):
    """A norm whose weight does not train, as beside an adapter: it keeps the input and one number per row, where
    torch's own differentiation keeps three fp32 copies."""

    @staticmethod
    def forward(ctx, x, weight, eps):  # type: ignore[no-untyped-def]
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).to(x.dtype) * weight.to(x.dtype)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        # y = w x r with r = 1 / rms: dx = r (g w - x r² mean(x g w))
        x, weight, inverse = ctx.saved_tensors
        slope = (grad * weight.to(grad.dtype)).to(inverse.dtype)
        share = torch.linalg.vecdot(slope, x.to(inverse.dtype)).div_(x.shape[-1])[..., None]
        return slope.addcmul_(x, share * inverse.square(), value=-1).mul_(inverse).to(x.dtype), None, None
