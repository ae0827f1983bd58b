"""AdamW over flat buffers in one pass: parameter, gradient and both moments are read once and written once.

Decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101). Learning rate, step and clip factor are numbers on
the device, so that a captured graph can be played again with others and nobody waits for the device. A parameter may be
bf16 without a master: what it becomes is rounded up or down by chance, in proportion (stochastic rounding), and the
noise follows from step, `salt` and position alone, so that a resumed run draws the same.

Shapes: all tensors are flat, N elements.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from danlu.ops.kernels import fits, jit, tl, triton

BLOCK, NUM_WARPS = 1024, 4


def clip_factor(norm: Tensor, limit: float) -> Tensor:
    """What gradients of this norm are multiplied with so that it becomes at most `limit`; a scalar on the device."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


def reference_adamw_(
    param_N: Tensor, grad_N: Tensor, exp_avg_N: Tensor, exp_avg_sq_N: Tensor, *, lr: Tensor, betas: tuple[float, float],
    eps: float, weight_decay: float, step: Tensor, scale: Tensor | None = None, salt: int = 0, start: int = 0,
) -> None:  # fmt: skip
    """One update, in the moments' dtype; the truth for `adamw_`."""
    wide, (beta1, beta2) = exp_avg_N.dtype, betas
    lr, step = lr.to(wide), step.to(torch.float64)
    grad_N = grad_N.to(wide) if scale is None else grad_N.to(wide) * scale
    exp_avg_N.add_(grad_N - exp_avg_N, alpha=1 - beta1)
    exp_avg_sq_N.mul_(beta2).addcmul_(grad_N, grad_N, value=1 - beta2)
    correction1, correction2 = ((1 - beta**step).to(wide) for beta in betas)
    slope_N = exp_avg_N / correction1 / (exp_avg_sq_N.sqrt() / correction2.sqrt() + eps)
    fresh_N = param_N.to(wide)
    fresh_N = fresh_N - lr * weight_decay * fresh_N - lr * slope_N
    param_N.copy_(
        reference_rounded(fresh_N, noise_like(param_N, step, salt, start=start)) if rounds(param_N) else fresh_N
    )


def adamw_(
    param_N: Tensor, grad_N: Tensor, exp_avg_N: Tensor, exp_avg_sq_N: Tensor, *, lr: Tensor, betas: tuple[float, float],
    eps: float, weight_decay: float, step: Tensor, scale: Tensor | None = None, salt: int = 0, start: int = 0,
) -> None:  # fmt: skip
    """Update `param_N` and its moments in place. `step` counts this update already; `scale`, where given, multiplies
    the gradient. Parameters are fp32 with fp32 moments (fp64 on a CPU), or bf16 with fp32 moments; `start` is where
    these elements stand in their tensor, if they are a part of it. On a CPU this is torch's own fused kernel, to the
    bit; one update of the CUDA kernel stays within a few ulp of it."""
    if fits(param_N, grad_N, exp_avg_N, exp_avg_sq_N):
        _launch(param_N, grad_N, exp_avg_N, exp_avg_sq_N, lr, betas, eps, weight_decay, step, scale, salt, start)
        return
    if param_N.dtype == exp_avg_N.dtype == grad_N.dtype:
        if scale is not None:
            grad_N.mul_(scale)
        torch._fused_adamw_(
            [param_N], [grad_N], [exp_avg_N], [exp_avg_sq_N], [], [step], lr=lr if lr.is_cpu else lr.float(),
            beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps, amsgrad=False, maximize=False,
        )  # fmt: skip
    else:
        reference_adamw_(
            param_N, grad_N, exp_avg_N, exp_avg_sq_N, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
            step=step, scale=scale, salt=salt, start=start,
        )  # fmt: skip


def rounds(param: Tensor) -> bool:
    """Whether it is rounded by chance: the arithmetic is fp32, and this is not a master but bf16 itself."""
    return param.dtype == torch.bfloat16


# ---- noise, the same numbers in both versions


def noise_like(tensor: Tensor, step: Tensor, salt: int, stream: int = 0, start: int = 0) -> Tensor:
    """32 random bits for each element as int64, from its place, the step, `salt` (which tensor) and `stream`. The first
    element stands at place `start`."""
    seed = _mixed(step.to(torch.int64) * 0x9E3779B1 + salt * 4 + stream)
    place = torch.arange(start, start + tensor.numel(), device=tensor.device).view(tensor.shape)
    return _mixed(place ^ seed)


def _mixed(x: Tensor) -> Tensor:
    """MurmurHash3's finalizer on 32 bits (Appleby), in int64 arithmetic: its low half does not mind the overflow."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def reference_rounded(fresh: Tensor, noise: Tensor) -> Tensor:
    """fp32 to bf16, up or down with the chance that makes it right on average: 16 random bits are added below the
    place where bf16 ends, and what is left there is cut off."""
    bits = fresh.view(torch.int32) + (noise & 0xFFFF).to(torch.int32)
    cut = (bits & -0x10000).view(torch.float32)
    return cut.where(fresh == fresh, fresh).to(torch.bfloat16)  # a NaN of all ones would become 0


@jit
def mix(x):  # type: ignore[no-untyped-def]
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@jit
def noise_at(place, step, salt, stream: tl.constexpr):  # type: ignore[no-untyped-def]
    return mix(place.to(tl.uint32) ^ mix((step.to(tl.int64) * 0x9E3779B1 + salt * 4 + stream).to(tl.uint32)))


@jit
def rounded(fresh, noise):  # type: ignore[no-untyped-def]
    bits = fresh.to(tl.uint32, bitcast=True) + (noise & 0xFFFF)
    return tl.where(fresh == fresh, (bits & 0xFFFF0000).to(tl.float32, bitcast=True), fresh)


# ---- the kernel


@jit
def correction(log_beta, step):  # type: ignore[no-untyped-def]
    """1 - beta^step; by its series where the difference would cancel."""
    y = log_beta * step
    series = 1 + y / 6 * (1 + y / 7 * (1 + y / 8 * (1 + y / 9 * (1 + y / 10))))
    series = -y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5 * series))))
    return tl.where(y > -0.7, series, 1 - tl.exp(y))


@jit
def updated(  # type: ignore[no-untyped-def]
    param, grad, exp_avg, exp_avg_sq, lr, step, rise1, rise2, log_beta1, log_beta2, eps, weight_decay
):
    """(param, exp_avg, exp_avg_sq) after one step, all fp32; `rise` is 1 - beta."""
    exp_avg += rise1 * (grad - exp_avg)
    exp_avg_sq += rise2 * (grad * grad - exp_avg_sq)
    root = tl.sqrt_rn(exp_avg_sq) / tl.sqrt_rn(correction(log_beta2, step))
    slope = tl.div_rn(exp_avg, root + eps) / correction(log_beta1, step)
    return param - lr * weight_decay * param - lr * slope, exp_avg, exp_avg_sq


@jit(do_not_specialize=["salt", "start"])
def _adamw_kernel(  # type: ignore[no-untyped-def]
    param, grad, exp_avg, exp_avg_sq, lr, step, scale, num_elements, salt, start,
    rise1, rise2, log_beta1, log_beta2, eps, weight_decay,
    HAS_SCALE: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_elements
    count = tl.load(step).to(tl.float32)
    g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_SCALE:
        g *= tl.load(scale).to(tl.float32)
    p, m, v = updated(
        tl.load(param + place, mask=inside, other=0.0).to(tl.float32),
        g,
        tl.load(exp_avg + place, mask=inside, other=0.0),
        tl.load(exp_avg_sq + place, mask=inside, other=0.0),
        tl.load(lr).to(tl.float32), count, rise1, rise2, log_beta1, log_beta2, eps, weight_decay,
    )  # fmt: skip
    tl.store(exp_avg + place, m, mask=inside)
    tl.store(exp_avg_sq + place, v, mask=inside)
    if ROUNDS:
        p = rounded(p, noise_at(place + start, count, salt, 0))
    tl.store(param + place, p.to(param.dtype.element_ty), mask=inside)


def _launch(
    param_N: Tensor, grad_N: Tensor, exp_avg_N: Tensor, exp_avg_sq_N: Tensor, lr: Tensor, betas: tuple[float, float],
    eps: float, weight_decay: float, step: Tensor, scale: Tensor | None, salt: int, start: int,
) -> None:  # fmt: skip
    num_elements = param_N.numel()
    if not num_elements:
        return
    _adamw_kernel[(triton.cdiv(num_elements, BLOCK),)](
        param_N, grad_N, exp_avg_N, exp_avg_sq_N, lr, step,
        step if scale is None else scale, num_elements, salt, start, *rates(betas), eps, weight_decay,
        HAS_SCALE=scale is not None, ROUNDS=rounds(param_N), BLOCK=BLOCK,
        num_warps=NUM_WARPS,
    )  # fmt: skip


def rates(betas: tuple[float, float]) -> tuple[float, float, float, float]:
    """1 - beta and log beta of both, worked out in fp64: in fp32 the first would lose four digits."""
    beta1, beta2 = betas
    log1, log2 = (math.log(beta) if beta else -math.inf for beta in betas)
    return 1 - beta1, 1 - beta2, log1, log2
