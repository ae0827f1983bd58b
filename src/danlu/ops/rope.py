"""Rotary positions (Su et al., 2021) and the ways their reach is stretched.

linear: positions divided by `factor`. llama3: only low frequencies divided (Llama 3.1). yarn: a ramp between both and a
temperature on cos/sin (Peng et al., 2023). longrope: one factor per frequency, a short and a long set (Ding et al.,
2024). Dynamic NTK is absent: its angles depend on the length of the text so far, which no cached key can follow.

Angles and `apply_rope` for autograd are here; the turn itself, with a backward by hand and kernels, is in `turn.py`.

Shapes: T tokens, H heads, D head size, R rotated part of D, F = R/2 frequencies.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from danlu.ops.turn import HeadNorms, Rotation, rotate, turn_qkv, turn_qkv_back

__all__ = [
    "HeadNorms", "RopeKind", "RopeSpec", "Rotation", "apply_rope", "longrope_attention_factor", "reference_rope",
    "rotation", "turn_qkv", "turn_qkv_back", "yarn_attention_factor",
]  # fmt: skip

RopeKind = Literal["default", "linear", "llama3", "yarn", "longrope"]


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """The angles of one layer. Fields after `factor` belong to one kind each; see the module's text."""

    rotary_size: int
    theta: float
    kind: RopeKind = "default"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the ramp's ends to whole dimensions
    attention_factor: float = 1.0  # yarn, longrope: multiplies cos and sin
    short_factors: tuple[float, ...] = ()  # longrope
    long_factors: tuple[float, ...] = ()  # longrope


def rotation(spec: RopeSpec, positions_T: Tensor, dtype: torch.dtype, reach_T: Tensor | None = None) -> Rotation:
    """Angles for `positions_T`. `reach_T` is the length of each token's document (longrope chooses its factors by
    it)."""
    frequencies_F = _frequencies(spec, False, positions_T.device)
    angles_TF = positions_T.float()[:, None] * frequencies_F
    if spec.kind == "longrope":
        reach_T = positions_T + 1 if reach_T is None else reach_T
        long_TF = positions_T.float()[:, None] * _frequencies(spec, True, positions_T.device)
        angles_TF = torch.where((reach_T > spec.original_context)[:, None], long_TF, angles_TF)
    angles_TR = torch.cat((angles_TF, angles_TF), dim=-1)
    scale = spec.attention_factor
    return Rotation((angles_TR.cos() * scale).to(dtype), (angles_TR.sin() * scale).to(dtype))


def apply_rope(x_THD: Tensor, turn: Rotation) -> Tensor:
    """Rotate the first R dimensions of each head, pairing dimension i with i + R/2; the others pass."""
    if not (x_THD.requires_grad and torch.is_grad_enabled()):
        return rotate(x_THD, turn.cos, turn.signed_sin)
    out: Tensor = _Rotate.apply(x_THD, turn.cos, turn.signed_sin)  # type: ignore[no-untyped-call]
    return out


def reference_rope(x_THD: Tensor, turn: Rotation) -> Tensor:
    """The same as it is usually written: x · cos + (-x₂, x₁) · sin."""
    size = turn.cos.shape[-1]
    cos, sin = turn.cos[:, None].to(x_THD.dtype), turn.sin[:, None].to(x_THD.dtype)
    first, second = x_THD[..., :size].chunk(2, dim=-1)
    turned = x_THD[..., :size] * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, x_THD[..., size:]), dim=-1)


class _Rotate(torch.autograd.Function):
    """The gradient of a turn is the turn back."""

    @staticmethod
    def forward(ctx, x_THD, cos_TR, signed_sin_TR):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(cos_TR, signed_sin_TR)
        return rotate(x_THD, cos_TR, signed_sin_TR)

    @staticmethod
    def backward(ctx, grad_THD):  # type: ignore[no-untyped-def]
        cos_TR, signed_sin_TR = ctx.saved_tensors
        return rotate(grad_THD, cos_TR, -signed_sin_TR), None, None


def yarn_attention_factor(factor: float, mscale: float = 0.0, mscale_all_dim: float = 0.0) -> float:
    """YaRN's temperature 0.1 ln(s) + 1; a ratio of two of them where the checkpoint names both mscales."""

    def temperature(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if mscale and mscale_all_dim:
        return temperature(mscale) / temperature(mscale_all_dim)
    return temperature(1.0)


def longrope_attention_factor(factor: float, original_context: int) -> float:
    """LongRoPE's sqrt(1 + ln s / ln L)."""
    return math.sqrt(1 + math.log(factor) / math.log(original_context)) if factor > 1 else 1.0


@functools.lru_cache(maxsize=64)
def _frequencies(spec: RopeSpec, is_long: bool, device: torch.device) -> Tensor:
    """Inverse wavelengths over 2π, [F], always fp32 (bf16 would lose whole positions beyond 256)."""
    exponents_F = torch.arange(0, spec.rotary_size, 2, dtype=torch.int64).float() / spec.rotary_size
    plain_F = 1.0 / spec.theta**exponents_F
    match spec.kind:
        case "default":
            out_F = plain_F
        case "linear":
            out_F = plain_F / spec.factor
        case "llama3":
            out_F = _llama3(spec, plain_F)
        case "yarn":
            out_F = _yarn(spec, exponents_F)
        case "longrope":
            factors_F = torch.tensor(spec.long_factors if is_long else spec.short_factors, dtype=torch.float32)
            out_F = 1.0 / (factors_F * spec.theta**exponents_F)
    return out_F.to(device)


def _llama3(spec: RopeSpec, plain_F: Tensor) -> Tensor:
    """Wavelengths beyond original/low are divided by `factor`, below original/high kept, between them blended."""
    wavelength_F = 2 * math.pi / plain_F
    turns_F = spec.original_context / wavelength_F
    blend_F = (turns_F - spec.low_freq_factor) / (spec.high_freq_factor - spec.low_freq_factor)
    blended_F = (1 - blend_F) * plain_F / spec.factor + blend_F * plain_F
    slow_F = torch.where(turns_F < spec.low_freq_factor, plain_F / spec.factor, blended_F)
    return torch.where(turns_F > spec.high_freq_factor, plain_F, slow_F)


def _yarn(spec: RopeSpec, exponents_F: Tensor) -> Tensor:
    """Dimensions that turn often keep their frequency, those that turn seldom are divided, a linear ramp between."""

    def dimension_of(num_turns: float) -> float:
        reach = math.log(spec.original_context / (num_turns * 2 * math.pi))
        return spec.rotary_size * reach / (2 * math.log(spec.theta))

    low, high = dimension_of(spec.beta_fast), dimension_of(spec.beta_slow)
    if spec.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, spec.rotary_size - 1)
    if low == high:
        high += 0.001
    ramp_F = ((torch.arange(spec.rotary_size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    wavelength_F = spec.theta**exponents_F
    return ramp_F / (spec.factor * wavelength_F) + (1 - ramp_F) / wavelength_F
