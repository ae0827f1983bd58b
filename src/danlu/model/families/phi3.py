"""Phi-3, Phi-3.5, Phi-4 and Phi-4-mini: Llama with q, k, v in one weight and gate, up in another; LongRoPE; Phi-4-mini
rotates only part of each head."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, Fused, base_shape, need, rope, value
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    shape = base_shape(config, family="phi3", context=4096)
    shape["norm_eps"] = value(config, "rms_norm_eps", 1e-5)
    shape["windows"] = (config.get("sliding_window"),) * shape["num_layers"]
    angles = rope(_as_longrope(config), theta=10_000.0, head_size=shape["head_size"])
    return Spec(**shape, ropes=(angles,) * shape["num_layers"])


def _as_longrope(config: Config) -> Config:
    """Early Phi-3 files say "su" or "yarn" where they mean LongRoPE; the length it grew from stands outside the
    table."""
    table = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    kind = table.get("rope_type", table.get("type", "default"))
    if kind in ("su", "yarn", "longrope"):
        table["rope_type"] = "longrope"
        table.setdefault("original_max_position_embeddings", config.get("original_max_position_embeddings", 4096))
        # Reach is max_position_embeddings over the original, whatever `factor` says.
        table["factor"] = need(config, "max_position_embeddings") / table["original_max_position_embeddings"]
    return {**config, "rope_parameters": table, "rope_scaling": None}


FAMILY = Family(
    "phi3",
    spec,
    fused=(
        Fused(
            "self_attn.qkv_proj",
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            lambda s: (s.num_heads * s.head_size, s.num_kv_heads * s.head_size, s.num_kv_heads * s.head_size),
        ),
        Fused("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"), lambda s: (s.ffn_size, s.ffn_size)),
    ),
)
