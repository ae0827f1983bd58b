"""What one run of the gates is asked to do. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """What a child is to do. `base`: a folder or "ember"; `quantize` and `optimizer` as in a recipe."""

    kind: str
    name: str
    base: str
    text: str
    folder: str
    device: str
    num_steps: int
    step_tokens: int
    num_held_out: int
    seed: int = 0
    adapter: str = "lora"
    masters: str = "fp32"
    offload: str = "none"
    quantize: str = "none"
    optimizer: str = "adamw"
