"""Chapter `training`: the loop's numbers. Empty (null) values are filled by method and adapter in `defaults.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from danlu.recipe.section import Section


class TrainingSection(Section):
    epochs: float = Field(3.0, gt=0, le=1000)
    """Passes over the training part."""

    max_steps: int | None = Field(None, ge=1)
    """Stop after so many optimizer steps, whatever epochs says."""

    lr: float | None = Field(None, gt=0, le=1)
    """Peak learning rate; empty takes the method's and adapter's usual value."""

    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after warm-up."""

    warmup_ratio: float = Field(0.03, ge=0, le=0.5)
    """Share of steps in which the rate rises from zero."""

    weight_decay: float = Field(0.01, ge=0, le=1)
    """Decoupled decay (AdamW); never on norms and biases."""

    clip: float = Field(1.0, ge=0)
    """Largest gradient norm; 0 switches clipping off."""

    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw_8bit keeps AdamW's two moments in a byte each instead of four (Dettmers et al. 2022)."""

    context: int = Field(2048, ge=16, le=1_048_576)
    """Longest sample in tokens; data.over_length says what happens to longer ones."""

    batch_tokens: int = Field(16_384, ge=16)
    """Tokens per optimizer step, packed without padding."""

    micro_tokens: int | None = Field(None, ge=16)
    """Tokens computed at once; more are accumulated. Empty: the whole batch, or as many as fit."""

    seed: int = Field(3407, ge=0)
    """Order of data, dropout and fresh weights. Same seed, same run."""

    eval_every: float = Field(0.5, gt=0)
    """Validation interval in epochs."""

    patience: int = Field(3, ge=0)
    """Validations without improvement before training stops early; 0 never stops early."""

    save_every: int = Field(200, ge=1)
    """Optimizer steps between checkpoints."""

    devices: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Cards of this machine that train together, or all."""

    compile: bool = False
    """Compile with torch.compile what has no quick form: slower start, faster steps; pays on long runs."""
