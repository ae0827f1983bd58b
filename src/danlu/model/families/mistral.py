"""Mistral: Llama whose every layer may see through a sliding window."""

from __future__ import annotations

from danlu.model.families.family import Config, Family, base_shape, rope
from danlu.model.spec import Spec


def spec(config: Config) -> Spec:
    shape = base_shape({"num_key_value_heads": 8, **config}, family="mistral", context=131_072)
    # A null window means none; a config.json without the key means the 4096 of Mistral 7B v0.1.
    shape["windows"] = (config.get("sliding_window", 4096),) * shape["num_layers"]
    angles = rope(config, theta=10_000.0, head_size=shape["head_size"])
    return Spec(**shape, ropes=(angles,) * shape["num_layers"])


FAMILY = Family("mistral", spec)
