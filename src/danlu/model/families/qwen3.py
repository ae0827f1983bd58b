"""Qwen3 (dense): Qwen2 without its biases, with a norm on each head's query and key; heads of 128 whatever the
width."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, base_shape, layer_types, rope, value
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    shape = base_shape({"head_dim": 128, **config}, family="qwen3", context=32_768)
    window = value(config, "sliding_window", 4096) if value(config, "use_sliding_window", False) else None
    first_sliding = value(config, "max_window_layers", 28)
    slides = layer_types(config, lambda layer: layer >= first_sliding)
    shape["windows"] = tuple(window if sliding else None for sliding in slides)
    angles = rope(config, theta=10_000.0, head_size=shape["head_size"])
    has_bias = bool(value(config, "attention_bias", False))
    return Spec(
        **shape, ropes=(angles,) * shape["num_layers"], has_qk_norm=True, has_qkv_bias=has_bias, has_o_bias=has_bias
    )


FAMILY = Family("qwen3", spec)
