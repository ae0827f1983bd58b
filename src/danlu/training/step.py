"""What one step was like, and which validation was the best so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimizer update was like. `loss` is per unit (token or pair) of this step's data, before the update;
    `grad_norm` before clipping; `validation` is there when this step was followed by one."""

    number: int
    num_steps: int
    epoch: float
    loss: float
    lr: float
    grad_norm: float
    num_tokens: int
    num_supervised_tokens: int
    tokens_per_s: float
    metrics: dict[str, float] = field(default_factory=dict)
    validation: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Best:
    """The lowest validation loss so far, and how many validations since have not come below it. Where answers are
    rewarded `loss` is the reward with a minus."""

    number: int
    loss: float
    num_misses: int = 0


def badness(validation: Mapping[str, float]) -> float:
    """By what validations are compared, lower being better: their loss, or the reward with a minus."""
    return -validation["reward"] if "reward" in validation else validation["loss"]
