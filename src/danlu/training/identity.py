"""What makes two trainings the same one: a checkpoint may only be gone on from when all of it is equal.

Covered: data, method, adapter, starting weights, every knob that moves a number. Not covered: where and how often to
save, which change nothing that is computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
import torch

from danlu.adapters.adapter import Attached
from danlu.core.files import dump_json, sha256_json
from danlu.model.model import Model
from danlu.model.quantized import quantized_layers
from danlu.recipe.training import TrainingSection
from danlu.training.methods.method import Method

UNMOVED = {"save_every", "devices"}
"""Knobs of chapter `training` that change no number, or the last bits of sums alone."""
KNOB_DEFAULTS: dict[str, Any] = {f"training.{key}": knob.default for key, knob in TrainingSection.model_fields.items()}
"""What a checkpoint from before a knob was trained with."""


def identify(
    model: Model, attached: Attached, method: Method, section: TrainingSection, data_digest: str
) -> dict[str, Any]:
    """Equal for equal trainings, as JSON; to be asked before anything has been trained."""
    knobs = {key: value for key, value in section.model_dump(mode="json").items() if key not in UNMOVED}
    identity = {
        "data": data_digest,
        "method": _settings(method),
        "adapter": _adapter(attached),
        "weights": weights_digest(model),
        **{f"training.{key}": value for key, value in knobs.items()},
    }
    # As it will read when it comes back from the file: tuples are lists there.
    read_back: dict[str, Any] = orjson.loads(dump_json(identity))
    return read_back


def _adapter(attached: Attached) -> dict[str, Any]:
    """Where states lie moves no number; masters beside bf16 weights do."""
    trained = attached.parameters()
    facts: dict[str, Any] = {"kind": attached.kind, "num_weights": sum(w.numel() for w in trained.values())}
    if attached.kind == "full" and len(trained) < sum(1 for _ in attached.model.parameters()):
        facts["trained"] = sha256_json(sorted(trained))  # a part of the weights: which
    return facts | ({"masters": "apart"} if attached.has_masters_apart else {})


def identity_digest(identity: Mapping[str, Any]) -> str:
    return sha256_json(identity)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys in which two identities differ. A knob that one of them does not know yet had its default there."""

    def value(identity: Mapping[str, Any], key: str) -> Any:
        return identity.get(key, KNOB_DEFAULTS.get(key))

    return sorted(key for key in one.keys() | other.keys() if value(one, key) != value(other, key))


def weights_digest(model: Model, num_samples: int = 64) -> str:
    """A digest of a few numbers of every tensor: other weights are noticed, and 70 billion are not read."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        flat = weight.detach().flatten()
        sampled = torch.cat((flat[:num_samples], flat[-num_samples:])).to("cpu", torch.float64)
        digest.update(name.encode())
        digest.update(sampled.numpy().tobytes())
    for layer in quantized_layers(model):
        flat = layer.codes.flatten()
        sampled = torch.cat((flat[:num_samples].float(), flat[-num_samples:].float())).cpu()
        digest.update(layer.kind.encode())
        digest.update(sampled.numpy().tobytes())
    return digest.hexdigest()


def _settings(method: object) -> dict[str, Any]:
    """A method's own numbers: its fields, but for what it works out while training, and who answers for it."""
    assert is_dataclass(method), "a method is a dataclass, so that its settings can be named"
    names = [item.name for item in fields(method) if item.init and item.compare and item.name != "accepts"]
    return {name: getattr(method, name) for name in names}
