"""The products that low-rank adapters add to the backward of a frozen matrix, y = x Wᵀ + (x Aᵀ)(s B)ᵀ.

With u = x Aᵀ of the forward and dy at hand: grad_B = s dyᵀ u and du = dy (s B); from du follow grad_A = duᵀ x and the
adapter's share of dx, which rides along in the product with W. Both products of dy stream the widest tensor of the
step and do next to no arithmetic.

Shapes: T tokens, N outputs, R rank, M and N of a gradient.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def pair_backward(
    dy_TN: Tensor, scaled_B_NR: Tensor, s_TR: Tensor, grad_B_NR: Tensor, *, scale: float, out_TR: Tensor
) -> None:
    """out_TR = dy @ scaled_B, and grad_B_NR (fp32) += scale · dyᵀ s, where s = x Aᵀ of the forward."""
    out_TR.copy_(dy_TN @ scaled_B_NR)
    add_product_(grad_B_NR, dy_TN, s_TR, scale)


def add_product_(grad_MN: Tensor, a_TM: Tensor, b_TN: Tensor, scale: float = 1.0) -> None:
    """grad_MN (fp32) += scale · aᵀ b, accumulated in fp32."""
    if a_TM.dtype == grad_MN.dtype:
        grad_MN.addmm_(a_TM.mT, b_TN, alpha=scale)
    elif a_TM.is_cuda and _widens(a_TM.dtype, a_TM.device):
        torch.addmm(grad_MN, a_TM.mT, b_TN, out_dtype=grad_MN.dtype, alpha=scale, out=grad_MN)
    else:
        grad_MN.add_(a_TM.mT @ b_TN, alpha=scale)


@functools.cache
def _widens(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether torch multiplies 16-bit matrices into an fp32 sum here; asked once by doing it."""
    a, grad = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.addmm(grad, a, a, out_dtype=grad.dtype, out=grad)
    except (RuntimeError, TypeError):
        return False
    return bool((grad == 17).all())
