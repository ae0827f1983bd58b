"""A model as llama.cpp describes it: header keys, and what it does otherwise or not at all.

A checkpoint that llama.cpp would load and compute wrongly is refused here, by name. Where it computes only short texts
as they were trained (it has no sliding window for some families, and one set of LongRoPE factors for all lengths) the
file's context ends there, unless longer texts are asked for.
Which family is what there stands in `planning/servable.py`. Source: the GGUF specification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from danlu.core.errors import ExportError
from danlu.model.spec import Spec
from danlu.ops.rope import RopeSpec, yarn_attention_factor
from danlu.planning.servable import ARCHITECTURES, Architecture

Key = int | float | bool | str | list[bool]


@dataclass(frozen=True, slots=True)
class Description:
    """`keys` without the architecture's name before them; `tensors` are tables that the header has no room for;
    `context` is how many tokens llama.cpp will take."""

    architecture: Architecture
    keys: dict[str, Key]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    context: int = 0


def describe(spec: Spec, *, reach: int = 0) -> Description:
    """The header of a model of this shape that takes texts of at least `reach` tokens. ExportError names what llama.cpp
    cannot compute."""
    architecture = architecture_of(spec)
    if faults := find_faults(spec, architecture):
        raise ExportError("gguf.cannot_compute", where=spec.family, what=", ".join(faults))
    context = context_of(spec, architecture)
    if reach > context:
        context = spec.context
    keys: dict[str, Key] = {
        "block_count": spec.num_layers,
        "context_length": context,
        "embedding_length": spec.hidden_size,
        "feed_forward_length": spec.ffn_size,
        "vocab_size": spec.vocab_size,
        "attention.head_count": spec.num_heads,
        "attention.head_count_kv": spec.num_kv_heads,
        "attention.key_length": spec.head_size,
        "attention.value_length": spec.head_size,
        "attention.layer_norm_rms_epsilon": spec.norm_eps,
    }
    if spec.attention_softcap is not None:
        keys["attn_logit_softcapping"] = spec.attention_softcap
    if spec.logit_softcap is not None:
        keys["final_logit_softcapping"] = spec.logit_softcap
    if architecture.window_period is not None:
        keys |= _windows(spec, architecture.window_period)
    angles, tensors = _angles(spec)
    return Description(architecture, keys | angles, tensors, context)


def architecture_of(spec: Spec) -> Architecture:
    if spec.family not in ARCHITECTURES:
        raise ExportError(
            "gguf.no_architecture", where="exports: gguf", given=spec.family, known=", ".join(ARCHITECTURES)
        )
    return ARCHITECTURES[spec.family]


def context_of(spec: Spec, architecture: Architecture) -> int:
    """Up to where llama.cpp computes what was trained. It chooses LongRoPE's factors by the room it was started with,
    not by the text's length, so short texts keep their angles only in a room of the first length."""
    far = _far(spec)
    ends = [spec.context, *([far.original_context] if far.kind == "longrope" else [])]
    if architecture.window_period is None:
        ends += [window for window in spec.windows if window is not None]
    return min(ends)


def find_faults(spec: Spec, architecture: Architecture) -> list[str]:
    """What of this model llama.cpp would silently leave out or do otherwise."""
    far = _far(spec)
    has = {"qkv": spec.has_qkv_bias, "o": spec.has_o_bias, "mlp": spec.has_mlp_bias}
    is_deep = spec.num_layers in architecture.scale_by_depth
    scale = (spec.hidden_size // spec.num_heads if is_deep else spec.head_size) ** -0.5
    rules = {
        f"rope {far.kind}": far.kind not in architecture.rope_kinds,
        "yarn truncate=false": far.kind == "yarn" and not far.truncate,
        "partial rotation": architecture.turns_neighbours and far.rotary_size != spec.head_size,
        f"activation {spec.activation}": spec.activation != architecture.activation,
        "no softcap": architecture.needs_softcaps and None in (spec.attention_softcap, spec.logit_softcap),
        "heads × head size ≠ width": architecture.heads_fill_width
        and spec.num_heads * spec.head_size != spec.hidden_size,
        f"attention scale {spec.attention_scale:.6g} ≠ {scale:.6g}": not math.isclose(spec.attention_scale, scale),
    }
    rules |= {f"{name} bias": is_there and name not in architecture.biases for name, is_there in has.items()}
    rules |= {"angles by layer": not _has_known_angles(spec, architecture)}
    return [name for name, is_broken in rules.items() if is_broken]


def _far(spec: Spec) -> RopeSpec:
    """The angles of the layers that see everything, or of all."""
    return next((rope for rope, window in zip(spec.ropes, spec.windows, strict=True) if window is None), spec.ropes[0])


def _near(spec: Spec) -> RopeSpec:
    """The angles of the layers whose window slides, or of all."""
    return next((rope for rope, w in zip(spec.ropes, spec.windows, strict=True) if w is not None), spec.ropes[0])


def _has_known_angles(spec: Spec, architecture: Architecture) -> bool:
    far, near = _far(spec), _near(spec)
    if architecture.window_period is None:
        return len(set(spec.ropes)) == 1
    pairs = zip(spec.ropes, spec.windows, strict=True)
    is_by_window = all(rope == (far if window is None else near) for rope, window in pairs)
    return is_by_window and (near == far or near.kind == "default")


def _windows(spec: Spec, period: int) -> dict[str, Key]:
    """The window, and which layers slide where that is not every one but each `period`-th."""
    slides = [window is not None for window in spec.windows]
    widths = {window for window in spec.windows if window is not None}
    keys: dict[str, Key] = {"attention.sliding_window": widths.pop() if widths else spec.context}
    if slides != [layer % period < period - 1 for layer in range(spec.num_layers)]:
        keys["attention.sliding_window_pattern"] = slides
    return keys


def _angles(spec: Spec) -> tuple[dict[str, Key], dict[str, Tensor]]:
    far, near = _far(spec), _near(spec)
    keys: dict[str, Key] = {"rope.dimension_count": far.rotary_size, "rope.freq_base": float(far.theta)}
    tensors: dict[str, Tensor] = {}
    if near != far:
        keys["rope.freq_base_swa"] = float(near.theta)
    match far.kind:
        case "default":
            pass
        case "linear":
            keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": far.factor}
        case "llama3":
            tensors["rope_freqs.weight"] = _slowing(far)
        case "yarn":
            warmth = far.attention_factor / yarn_attention_factor(far.factor)
            keys |= {
                "rope.scaling.type": "yarn", "rope.scaling.factor": far.factor,
                "rope.scaling.original_context_length": far.original_context,
                "rope.scaling.yarn_beta_fast": far.beta_fast, "rope.scaling.yarn_beta_slow": far.beta_slow,
            }  # fmt: skip
            if not math.isclose(warmth, 1.0):
                keys["rope.scaling.attn_factor"] = warmth
        case "longrope":
            keys |= {
                "rope.scaling.original_context_length": far.original_context,
                "rope.scaling.attn_factor": far.attention_factor,
            }
            tensors["rope_factors_long.weight"] = torch.tensor(far.long_factors, dtype=torch.float32)
            tensors["rope_factors_short.weight"] = torch.tensor(far.short_factors, dtype=torch.float32)
    return keys, tensors


def _slowing(rope: RopeSpec) -> Tensor:
    """By what Llama 3.1's scaling divides each frequency, [R/2] fp32: the file holds divisors, not frequencies."""
    exponents_F = torch.arange(0, rope.rotary_size, 2, dtype=torch.float64) / rope.rotary_size
    turns_F = rope.original_context / (2 * math.pi * rope.theta**exponents_F)
    blend_F = (turns_F - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 / ((1 - blend_F.clamp(0, 1)) / rope.factor + blend_F.clamp(0, 1))).float()


def typed(architecture: Architecture, keys: dict[str, Key]) -> dict[str, Any]:
    """The keys as they stand in the file."""
    return {f"{architecture.name}.{name}": value for name, value in keys.items()}
