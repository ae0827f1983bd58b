"""The plan: what a recipe will hold in memory, told before anything is loaded. An estimate, labelled as one.

Weights, gradients, optimizer state and activations are counted separately. Activations follow what an eager bf16
decoder keeps for the backward pass: per token and layer about 17 hidden-sized and 4 ffn-sized values (norms, q, k, v,
attention output, residuals, gate, up, product), plus one chunk of logits.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from danlu.planning.shapes import Shapes
from danlu.recipe.adapter import LoRASection
from danlu.recipe.recipe import Recipe

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "auto": 2}
ADAM_BYTES = 8  # two fp32 moments a trained value
LOGITS_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """Predicted bytes of one stage on one device, and the counts they follow from."""

    num_params: int
    num_trainable: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    tokens_at_once: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes

    @property
    def trainable_ratio(self) -> float:
        return self.num_trainable / self.num_params

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"total_bytes": self.total_bytes, "trainable_ratio": self.trainable_ratio}


def plan(recipe: Recipe, shapes: Shapes) -> list[Plan]:
    """One plan per stage of the recipe."""
    return [_plan_stage(recipe, shapes, stage.training.micro_tokens or 0) for stage in recipe.plan_stages()]


def _plan_stage(recipe: Recipe, shapes: Shapes, tokens: int) -> Plan:
    adapter = recipe.adapter
    width = BYTES[recipe.model.dtype]
    if isinstance(adapter, LoRASection):
        targets = None if adapter.targets == "all-linear" else adapter.targets
        trainable = shapes.lora_params(adapter.rank, targets)
        weights = shapes.num_params * width + trainable * 4
    else:
        trainable = shapes.num_params
        weights = shapes.num_params * 4  # fp32 masters
    per_token = shapes.num_layers * (17 * shapes.hidden + 4 * shapes.ffn) * 2
    logits = min(tokens, LOGITS_ROWS) * shapes.vocab * (4 + 2)
    return Plan(
        num_params=shapes.num_params,
        num_trainable=trainable,
        weights_bytes=weights,
        gradients_bytes=trainable * 4,
        optimizer_bytes=trainable * ADAM_BYTES,
        activations_bytes=tokens * per_token + logits,
        tokens_at_once=tokens,
    )
