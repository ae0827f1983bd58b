"""The contract of a family: how one architecture is described in `config.json` and named in its checkpoint.

To add one: a file with `FAMILY = Family(...)`, a line in `families/__init__.py`, a case in
`tests/numerics/test_families.py`. Both spellings of transformers are read: `rope_theta`/`rope_scaling` (4.x) and
`rope_parameters` (5.x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import ModelError
from danlu.core.messages import listed
from danlu.model.spec import Spec
from danlu.ops.gated import Activation
from danlu.ops.rope import RopeKind, RopeSpec, longrope_attention_factor, yarn_attention_factor

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu": "gelu", "relu": "relu",
}  # fmt: skip

OLD_NORMS = ((".gamma", ".weight"), (".beta", ".bias"))
"""What the first checkpoints, translated from TensorFlow, call a norm's weights."""


@dataclass(frozen=True, slots=True)
class Fused:
    """One weight of the checkpoint that holds several of ours, stacked along rows: split on load, fused on save."""

    name: str
    parts: tuple[str, ...]
    sizes: Callable[[Spec], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """`spec` reads config.json; `fused` and `renames` (checkpoint prefix → ours) tell how the file's names differ
    from ours."""

    name: str
    spec: Callable[[Config], Spec]
    fused: tuple[Fused, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    text_config: Callable[[Config], dict[str, Any]] | None = None
    """Of a model that also sees: the config of its text part, which is all that is loaded, and saved as a model of
    its own."""
    left_out: tuple[str, ...] = ()
    """Prefixes of tensors that belong to what is not text, or to a head that is not ours."""
    endings: tuple[tuple[str, str], ...] = ()
    """Endings of old checkpoints' names, and ours for them; never written."""
    may_lack: tuple[str, ...] = ()
    """Prefixes of our names that a checkpoint may leave out: they are drawn then."""


def value(config: Config, key: str, default: Any = None) -> Any:
    """config[key], or the default where it is absent or null (config.json uses both to say "unset")."""
    found = config.get(key)
    return default if found is None else found


def need(config: Config, key: str) -> Any:
    """config[key] of a key without which no shape can be known."""
    found = config.get(key)
    if found is None:
        raise ModelError(
            "model.config_key_missing", where="config.json", name=key, family=config.get("model_type", "?")
        )
    return found


def activation(config: Config) -> Activation:
    name = value(config, "hidden_act", value(config, "hidden_activation", "silu"))
    if name not in ACTIVATIONS:
        raise ModelError("model.unknown_activation", where="config.json", given=name, known=listed(ACTIVATIONS))
    return ACTIVATIONS[name]


def base_shape(config: Config, *, family: str, context: int) -> dict[str, Any]:
    """The fields that all families spell alike; each family adds its own to them."""
    num_layers, num_heads = need(config, "num_hidden_layers"), need(config, "num_attention_heads")
    head_size = value(config, "head_dim", need(config, "hidden_size") // num_heads)
    num_kv_heads = value(config, "num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise ModelError("model.heads_uneven", where="config.json", heads=num_heads, kv_heads=num_kv_heads)
    context = value(config, "max_position_embeddings", context)
    return {
        "family": family,
        "vocab_size": need(config, "vocab_size"),
        "hidden_size": need(config, "hidden_size"),
        "ffn_size": need(config, "intermediate_size"),
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_size": head_size,
        "context": context,
        "norm_eps": value(config, "rms_norm_eps", 1e-6),
        "activation": activation(config),
        "is_tied": bool(value(config, "tie_word_embeddings", False)),
        "attention_scale": head_size**-0.5,
        "windows": (None,) * num_layers,
        "init_std": value(config, "initializer_range", 0.02),
    }


def encoder_shape(config: Config, *, family: str) -> dict[str, Any]:
    """What all encoders of BERT's kind spell alike. ModelError for places that are not counted from the text's start,
    and for an encoder made into a decoder."""
    places = value(config, "position_embedding_type", "absolute")
    if places != "absolute" or value(config, "is_decoder", False):
        given = "is_decoder" if places == "absolute" else places
        raise ModelError("model.encoder_kind", where="config.json", given=given)
    shape = base_shape({"hidden_act": "gelu", **config}, family=family, context=512)
    dropout = value(config, "hidden_dropout_prob", 0.1)
    return shape | {
        "norm_eps": value(config, "layer_norm_eps", 1e-12),
        "is_tied": False,
        "ropes": (),
        "num_positions": shape["context"],
        "num_types": value(config, "type_vocab_size", 2),
        "dropout": dropout,
        "attention_dropout": value(config, "attention_probs_dropout_prob", 0.1),
        "head_dropout": value(config, "classifier_dropout", dropout),
    }


def layer_types(config: Config, default: Callable[[int], bool]) -> list[bool]:
    """Per layer: does its window slide? From `layer_types`, or by the family's rule (layer index → slides)."""
    named = config.get("layer_types")
    if named is None:
        return [default(layer) for layer in range(config["num_hidden_layers"])]
    known = {"sliding_attention": True, "full_attention": False}
    for name in named:
        if name not in known:
            raise ModelError("model.unknown_layer_type", where="config.json", given=name, known=listed(known))
    return [known[name] for name in named]


def rope(config: Config, *, theta: float, head_size: int, kind_of_layer: str | None = None) -> RopeSpec:
    """The angles, from either spelling; `theta` is the family's default, `kind_of_layer` picks from per-layer
    tables."""
    table: Config = config.get("rope_parameters") or {}
    if kind_of_layer is not None and isinstance(table.get(kind_of_layer), Mapping):
        table = table[kind_of_layer]
    table = {**(config.get("rope_scaling") or {}), **table}
    theta = value(table, "rope_theta", value(config, "rope_theta", theta))
    part = value(table, "partial_rotary_factor", value(config, "partial_rotary_factor", 1.0))
    return rope_from(table, config, theta=float(theta), rotary_size=int(head_size * part))


def rope_from(table: Config, config: Config, *, theta: float, rotary_size: int) -> RopeSpec:
    """A scaling table of `config.json` as angles."""
    kind = _kind(value(table, "rope_type", value(table, "type", "default")))
    factor = float(value(table, "factor", 1.0))
    context = value(config, "max_position_embeddings", 0)
    original = value(
        table, "original_max_position_embeddings", value(config, "original_max_position_embeddings", context)
    )
    match kind:
        case "default":
            return RopeSpec(rotary_size, theta)
        case "linear":
            return RopeSpec(rotary_size, theta, kind, factor)
        case "llama3":
            return RopeSpec(
                rotary_size, theta, kind, factor, original,
                low_freq_factor=float(need(table, "low_freq_factor")),
                high_freq_factor=float(need(table, "high_freq_factor")),
            )  # fmt: skip
        case "yarn":
            warmth = yarn_attention_factor(factor, value(table, "mscale", 0.0), value(table, "mscale_all_dim", 0.0))
            return RopeSpec(
                rotary_size, theta, kind, factor, original,
                beta_fast=float(value(table, "beta_fast", 32)), beta_slow=float(value(table, "beta_slow", 1)),
                truncate=bool(value(table, "truncate", True)),
                attention_factor=value(table, "attention_factor", warmth),
            )  # fmt: skip
        case "longrope":
            reach = float(table["factor"]) if table.get("factor") else context / original
            warmth = longrope_attention_factor(reach, original)
            return RopeSpec(
                rotary_size, theta, kind, reach, original,
                attention_factor=value(table, "attention_factor", warmth),
                short_factors=tuple(need(table, "short_factor")), long_factors=tuple(need(table, "long_factor")),
            )  # fmt: skip


def _kind(name: str) -> RopeKind:
    kinds: dict[str, RopeKind] = {
        "default": "default", "linear": "linear", "llama3": "llama3", "yarn": "yarn",
        "longrope": "longrope", "su": "longrope",
    }  # fmt: skip
    if name not in kinds:
        known = listed(sorted(set(kinds.values())))
        raise ModelError("model.unknown_rope", where="config.json", given=name, known=known)
    return kinds[name]
