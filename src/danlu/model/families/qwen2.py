"""Qwen2 and Qwen2.5: Llama with biases on q, k and v; the upper layers' window slides when the config says so."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, base_shape, layer_types, rope, value
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    shape = base_shape(config, family="qwen2", context=32_768)
    window = value(config, "sliding_window", 4096) if value(config, "use_sliding_window", False) else None
    first_sliding = value(config, "max_window_layers", 28)
    slides = layer_types(config, lambda layer: layer >= first_sliding)
    shape["windows"] = tuple(window if sliding else None for sliding in slides)
    angles = rope(config, theta=10_000.0, head_size=shape["head_size"])
    return Spec(**shape, ropes=(angles,) * shape["num_layers"], has_qkv_bias=True)


FAMILY = Family("qwen2", spec)
