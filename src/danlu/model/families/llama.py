"""Llama 2, 3, 3.1, 3.2 and what wears its shape: Yi, DeepSeek-LLM, TinyLlama, SmolLM."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, base_shape, rope, value
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    shape = base_shape(config, family="llama", context=2048)
    angles = rope(config, theta=10_000.0, head_size=shape["head_size"])
    has_bias = bool(value(config, "attention_bias", False))
    return Spec(
        **shape,
        ropes=(angles,) * shape["num_layers"],
        has_qkv_bias=has_bias,
        has_o_bias=has_bias,
        has_mlp_bias=bool(value(config, "mlp_bias", False)),
    )


FAMILY = Family("llama", spec)
