"""RMSNorm (Zhang & Sennrich, 2019), with Gemma's variant that stores `weight - 1`.

Statistics are taken in fp32 whatever the input's dtype (fp64 stays fp64); the result has the input's dtype. `rms_norm`
is for autograd; `norm_forward` and `norm_backward` are the two halves for those who write their backward themselves.

Shapes: T tokens, D width. Rows may lie further apart than D; the last dimension is contiguous.
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


def norm_forward(
    x_TD: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0, *, out_TD: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(out_TD, inverse_T): the norm and, in fp32, 1 / rms of each row, which the backward wants."""
    normed_TD, inverse_T = reference_norm_forward(x_TD, weight_D, eps, offset)
    return (normed_TD if out_TD is None else out_TD.copy_(normed_TD)), inverse_T


def norm_backward(
    grad_TD: Tensor,
    x_TD: Tensor,
    weight_D: Tensor,
    inverse_T: Tensor,
    offset: float = 0.0,
    *,
    through_TD: Tensor | None = None,
    out_TD: Tensor | None = None,
) -> Tensor:
    """dx_TD. `through_TD` is the gradient that passes the norm by on the residual stream; it is added before the one
    rounding. `out_TD` may be any of the inputs of its shape."""
    slope_TD = reference_norm_backward(grad_TD, x_TD, weight_D, inverse_T, offset)
    if through_TD is not None:
        slope_TD.add_(through_TD)
    return slope_TD.to(x_TD.dtype) if out_TD is None else out_TD.copy_(slope_TD)


def norm_weight_gradient(grad_TD: Tensor, x_TD: Tensor, inverse_T: Tensor) -> Tensor:
    """grad_D in fp32, the same for both orders of rounding."""
    return (grad_TD.to(inverse_T.dtype) * x_TD.to(inverse_T.dtype)).mT @ inverse_T


def reference_norm_forward(x: Tensor, weight: Tensor, eps: float, offset: float) -> tuple[Tensor, Tensor]:
    """`reference_rms_norm` to the bit, and its inverse rms; any leading dimensions."""
    wide = x if x.dtype == torch.float64 else x.float()
    inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    normed = wide * inverse
    out = (
        (normed * (weight.to(normed.dtype) + offset)).to(x.dtype) if offset else normed.to(x.dtype) * weight.to(x.dtype)
    )
    return out, inverse[..., 0]


def reference_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, offset: float) -> Tensor:
    """y = f x r with f = weight + offset, r = 1 / rms: dx = r (g f - x r² mean(x g f)), in the dtype of `inverse`."""
    factor = weight.to(inverse.dtype) + offset if offset else weight.to(x.dtype).to(inverse.dtype)
    slope, wide = grad.to(inverse.dtype) * factor, x.to(inverse.dtype)
    share = torch.linalg.vecdot(slope, wide).div_(x.shape[-1]).mul_(inverse.square())
    return slope.addcmul_(wide, share[..., None], value=-1).mul_(inverse[..., None])
