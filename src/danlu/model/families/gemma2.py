"""Gemma 2: norms on both sides of each branch, bent scores and logits, every other layer's window slides."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, base_shape, layer_types, rope, value
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    defaults = {"head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True}
    # Old config.json files carry `hidden_act: gelu` beside `hidden_activation`; the latter is what the weights were
    # trained with.
    config = {**defaults, **{k: v for k, v in config.items() if k != "hidden_act"}}
    shape = base_shape(config, family="gemma2", context=8192)
    slides = layer_types(config, lambda layer: layer % 2 == 0)
    window = value(config, "sliding_window", 4096)
    shape["windows"] = tuple(window if sliding else None for sliding in slides)
    shape["attention_scale"] = value(config, "query_pre_attn_scalar", 256) ** -0.5
    angles = rope(config, theta=10_000.0, head_size=shape["head_size"])
    has_bias = bool(value(config, "attention_bias", False))
    return Spec(
        **shape,
        ropes=(angles,) * shape["num_layers"],
        has_qkv_bias=has_bias,
        has_o_bias=has_bias,
        has_sandwich_norms=True,
        norm_offset=1.0,
        embed_scale=shape["hidden_size"] ** 0.5,
        attention_softcap=config.get("attn_logit_softcapping", 50.0),
        logit_softcap=config.get("final_logit_softcapping", 30.0),
    )


FAMILY = Family("gemma2", spec)
