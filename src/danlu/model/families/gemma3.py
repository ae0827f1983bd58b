"""Gemma 3, text only: Gemma 2 without bent scores, with query/key norms, five local layers to one global, each kind
with its own angles."""

from __future__ import annotations

from typing import Any

from danlu.model.families.family import Config, Family, base_shape, layer_types, need, rope, value
from danlu.model.spec import Spec
from danlu.ops.rope import RopeSpec

# What config.json may leave unsaid: the larger models' text part names little more than its width and depth.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True, "query_pre_attn_scalar": 256,
}  # fmt: skip


def spec(config: Config) -> Spec:
    config = {**DEFAULTS, **{k: v for k, v in config.items() if k != "hidden_act"}}
    shape = base_shape(config, family="gemma3_text", context=131_072)
    pattern = value(config, "sliding_window_pattern", 6)
    slides = layer_types(config, lambda layer: (layer + 1) % pattern != 0)
    window = value(config, "sliding_window", 4096)
    shape["windows"] = tuple(window if sliding else None for sliding in slides)
    shape["attention_scale"] = value(config, "query_pre_attn_scalar", 256) ** -0.5
    near, far = local_and_global(config, shape["head_size"])
    has_bias = bool(value(config, "attention_bias", False))
    return Spec(
        **shape,
        ropes=tuple(near if sliding else far for sliding in slides),
        has_qkv_bias=has_bias,
        has_o_bias=has_bias,
        has_qk_norm=True,
        has_sandwich_norms=True,
        norm_offset=1.0,
        embed_scale=shape["hidden_size"] ** 0.5,
        # Present in config.json, but the architecture's attention does not use `attn_logit_softcapping`.
        logit_softcap=config.get("final_logit_softcapping"),
    )


def local_and_global(config: Config, head_size: int) -> tuple[RopeSpec, RopeSpec]:
    """(sliding layers', full layers') angles: two tables in transformers 5, `rope_local_base_freq` beside
    `rope_theta` in 4."""
    far = rope(config, theta=1_000_000.0, head_size=head_size, kind_of_layer="full_attention")
    if "sliding_attention" in (config.get("rope_parameters") or {}):
        return rope(config, theta=10_000.0, head_size=head_size, kind_of_layer="sliding_attention"), far
    return RopeSpec(head_size, float(value(config, "rope_local_base_freq", 10_000.0))), far


def text_config(config: Config) -> dict[str, Any]:
    """The text part of a model that also sees pictures, as a config that transformers loads by itself."""
    own = {key: config[key] for key in ("eos_token_id", "bos_token_id", "pad_token_id") if key in config}
    kind = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    return {**DEFAULTS, **own, **need(config, "text_config"), **kind}


FAMILY = Family("gemma3_text", spec)

SEEING = Family(
    "gemma3",
    spec,
    renames=(("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.", "")),
    text_config=text_config,
    left_out=("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."),
)
