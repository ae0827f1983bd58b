"""AdamW whose moments take a byte each instead of four: 16 GB instead of 64 for a model of 8 billion weights.

Blockwise 8-bit moments (Dettmers et al. 2022, arXiv:2110.02861): 256 elements share a scale, their largest magnitude,
so that one outlier spoils its neighbours only. Two things differ from the paper. The code is no table but a power law,
fine near zero as theirs: a first moment is scale · sign · (c / 127)², a second one scale · (c / 255)⁴. And codes are
rounded by chance, in proportion: a second moment moves by a thousandth of itself in a step, which to the nearest code
would be not at all. A second moment above zero never gets code 0, for its update would have no bound.

Shapes: N elements, G groups of 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.adamw import noise_at, noise_like, rates, reference_adamw_, rounded, rounds, updated
from danlu.ops.kernels import fits, jit, tl, triton

GROUP, GROUPS_PER_PROGRAM, NUM_WARPS = 256, 4, 4
SIGNED, UNSIGNED = 127.0, 255.0


@dataclass(frozen=True, slots=True)
class Moments:
    """Both moments of one parameter: int8 and uint8 codes of N, fp32 scales of G."""

    exp_avg: Tensor
    exp_avg_scale: Tensor
    exp_avg_sq: Tensor
    exp_avg_sq_scale: Tensor

    @classmethod
    def like(cls, param: Tensor) -> Moments:
        """Of a parameter that has not moved yet."""
        num_elements, device = param.numel(), param.device
        scales = torch.zeros(2, -(-num_elements // GROUP), device=device)
        codes = (torch.zeros(num_elements, dtype=dtype, device=device) for dtype in (torch.int8, torch.uint8))
        return cls(next(codes), scales[0].clone(), next(codes), scales[1].clone())

    def decoded(self) -> tuple[Tensor, Tensor]:
        """(exp_avg_N, exp_avg_sq_N) in fp32."""
        average = self.exp_avg.float() / SIGNED
        square = (self.exp_avg_sq.float() / UNSIGNED).square().square()
        first, second = _spread(self.exp_avg_scale, average), _spread(self.exp_avg_sq_scale, square)
        return average * average.abs() * first, square * second


def adamw_8bit_(
    param_N: Tensor, grad_N: Tensor, moments: Moments, *, lr: Tensor, betas: tuple[float, float], eps: float,
    weight_decay: float, step: Tensor, scale: Tensor | None = None, salt: int = 0, start: int = 0,
) -> None:  # fmt: skip
    """Update parameter (fp32, or bf16 rounded by chance) and moments in place; arguments as those of `ops.adamw`. A
    part of a tensor begins with a group."""
    assert start % GROUP == 0, "groups of moments share a scale"
    if not fits(param_N, grad_N):
        reference_adamw_8bit_(
            param_N, grad_N, moments, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step, scale=scale,
            salt=salt, start=start,
        )  # fmt: skip
        return
    num_elements = param_N.numel()
    _adamw_8bit_kernel[(triton.cdiv(num_elements, GROUP * GROUPS_PER_PROGRAM),)](
        param_N, grad_N, moments.exp_avg, moments.exp_avg_scale, moments.exp_avg_sq, moments.exp_avg_sq_scale, lr, step,
        step if scale is None else scale, num_elements, salt, start, *rates(betas), eps, weight_decay,
        HAS_SCALE=scale is not None, ROUNDS=rounds(param_N), GROUP=GROUP, GROUPS=GROUPS_PER_PROGRAM,
        num_warps=NUM_WARPS,
    )  # fmt: skip


def reference_adamw_8bit_(
    param_N: Tensor, grad_N: Tensor, moments: Moments, *, lr: Tensor, betas: tuple[float, float], eps: float,
    weight_decay: float, step: Tensor, scale: Tensor | None = None, salt: int = 0, start: int = 0,
) -> None:  # fmt: skip
    """The same in torch: decode, update, encode."""
    exp_avg_N, exp_avg_sq_N = moments.decoded()
    reference_adamw_(
        param_N, grad_N, exp_avg_N, exp_avg_sq_N, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, step=step,
        scale=scale, salt=salt, start=start,
    )  # fmt: skip
    for scales, values_N in ((moments.exp_avg_scale, exp_avg_N), (moments.exp_avg_sq_scale, exp_avg_sq_N)):
        scales.copy_(_grouped(values_N).abs().amax(1))
    chance1, chance2 = (_chance(noise_like(param_N, step, salt, stream, start)) for stream in (1, 2))
    moments.exp_avg.copy_(_signed_codes(exp_avg_N / _divisors(moments.exp_avg_scale, exp_avg_N), chance1))
    moments.exp_avg_sq.copy_(_unsigned_codes(exp_avg_sq_N / _divisors(moments.exp_avg_sq_scale, exp_avg_sq_N), chance2))


def _grouped(values_N: Tensor) -> Tensor:
    padding = -len(values_N) % GROUP
    return torch.nn.functional.pad(values_N, (0, padding)).view(-1, GROUP)


def _spread(scales_G: Tensor, like_N: Tensor) -> Tensor:
    return scales_G.repeat_interleave(GROUP)[: len(like_N)]


def _divisors(scales_G: Tensor, like_N: Tensor) -> Tensor:
    """Scales for each element; 1 for a group of zeros."""
    return _spread(scales_G.where(scales_G > 0, 1.0), like_N)


def _chance(noise: Tensor) -> Tensor:
    """[0, 1) of 24 bits, which fp32 holds exactly."""
    return (noise >> 8).float() * 2.0**-24


def _signed_codes(share_N: Tensor, chance_N: Tensor) -> Tensor:
    """int8 codes of shares in [-1, 1], right on average."""
    wanted = share_N.abs() * (SIGNED * SIGNED)
    low = wanted.sqrt().floor()
    code = low + (chance_N * (2 * low + 1) < wanted - low * low).float()
    return (code * share_N.sign()).to(torch.int8)


def _unsigned_codes(share_N: Tensor, chance_N: Tensor) -> Tensor:
    """uint8 codes of shares in [0, 1], right on average but for those that would be 0."""
    root = share_N.sqrt() * (UNSIGNED * UNSIGNED)
    low = root.sqrt().floor()
    floor, ceiling = (low * low).square(), ((low + 1) * (low + 1)).square()
    code = low + (chance_N * (ceiling - floor) < root * root - floor).float()
    return code.clamp(max=UNSIGNED).clamp(min=(share_N > 0).float()).to(torch.uint8)


# ---- the kernel


@jit
def _signed_code(share, chance):  # type: ignore[no-untyped-def]
    wanted = tl.abs(share) * 16129.0
    low = tl.floor(tl.sqrt_rn(wanted))
    code = low + tl.where(chance * (2 * low + 1) < wanted - low * low, 1.0, 0.0)
    return tl.where(share < 0, -code, code)


@jit
def _unsigned_code(share, chance):  # type: ignore[no-untyped-def]
    root = tl.sqrt_rn(share) * 65025.0
    low = tl.floor(tl.sqrt_rn(root))
    floor, ceiling = low * low, (low + 1) * (low + 1)
    floor, ceiling = floor * floor, ceiling * ceiling
    code = low + tl.where(chance * (ceiling - floor) < root * root - floor, 1.0, 0.0)
    return tl.maximum(tl.minimum(code, 255.0), tl.where(share > 0, 1.0, 0.0))


@jit
def _chance_at(place, step, salt, stream: tl.constexpr):  # type: ignore[no-untyped-def]
    return (noise_at(place, step, salt, stream) >> 8).to(tl.float32) * 5.9604644775390625e-08


@jit(do_not_specialize=["salt", "start"])
def _adamw_8bit_kernel(  # type: ignore[no-untyped-def]
    param, grad, average_codes, average_scales, square_codes, square_scales, lr, step, scale, num_elements, salt,
    start, rise1, rise2, log_beta1, log_beta2, eps, weight_decay,
    HAS_SCALE: tl.constexpr, ROUNDS: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """A few groups each, one a row."""
    group = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    place = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    inside, is_group = place < num_elements, group * GROUP < num_elements
    count, drawn = tl.load(step).to(tl.float32), place + start
    g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_SCALE:
        g *= tl.load(scale).to(tl.float32)
    average = tl.load(average_codes + place, mask=inside, other=0).to(tl.float32) / 127.0
    average *= tl.abs(average) * tl.load(average_scales + group, mask=is_group, other=0.0)[:, None]
    square = tl.load(square_codes + place, mask=inside, other=0).to(tl.float32) / 255.0
    square *= square
    square *= square * tl.load(square_scales + group, mask=is_group, other=0.0)[:, None]
    p, average, square = updated(
        tl.load(param + place, mask=inside, other=0.0).to(tl.float32), g, average, square,
        tl.load(lr).to(tl.float32), count, rise1, rise2, log_beta1, log_beta2, eps, weight_decay,
    )  # fmt: skip
    if ROUNDS:
        p = rounded(p, noise_at(drawn, count, salt, 0))
    tl.store(param + place, p.to(param.dtype.element_ty), mask=inside)
    largest = tl.max(tl.abs(average), 1)
    tl.store(average_scales + group, largest, mask=is_group)
    share = tl.div_rn(average, tl.where(largest > 0, largest, 1.0)[:, None])
    codes = _signed_code(share, _chance_at(drawn, count, salt, 1))
    tl.store(average_codes + place, codes.to(tl.int8), mask=inside)
    largest = tl.max(square, 1)
    tl.store(square_scales + group, largest, mask=is_group)
    share = tl.div_rn(square, tl.where(largest > 0, largest, 1.0)[:, None])
    codes = _unsigned_code(share, _chance_at(drawn, count, salt, 2))
    tl.store(square_codes + place, codes.to(tl.uint8), mask=inside)
