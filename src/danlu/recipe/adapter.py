"""Chapter `adapter`: which weights train."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from danlu.recipe.layers import Layers
from danlu.recipe.section import Section


class LoRASection(Section):
    kind: Literal["lora"] = "lora"
    """lora: low-rank adapters beside frozen weights (Hu et al. 2021)."""

    rank: int = Field(16, ge=1, le=1024)
    """Width of each low-rank pair."""

    alpha: float | None = Field(None, gt=0)
    """The update is scaled by alpha / rank. Empty means twice the rank, also when the rank changes."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of adapter inputs dropped in training."""

    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get a pair: all-linear, or names such as q_proj, v_proj."""

    layers: Layers = None
    """Which decoder layers train: a number for so many of the last, or a list such as [0, 1, 24-31]; empty: all."""

    rslora: bool = False
    """Divide by the square root of the rank instead of the rank (Kalajdzievski 2023)."""

    dora: bool = False
    """Train the length of each weight's rows beside the pair (DoRA, Liu et al. 2024)."""

    start: str | None = None
    """Folder of a PEFT adapter to continue from; empty starts a fresh one."""


class FullSection(Section):
    kind: Literal["full"] = "full"
    """full: every weight trains."""

    layers: Layers = None
    """Which decoder layers train: a number for so many of the last, or a list such as [0, 1, 24-31]; empty: all."""

    masters: Literal["fp32", "none"] = "fp32"
    """none: weights stay bf16 while they train and are rounded up or down by chance; fp32: a wider copy trains."""

    offload: Literal["none", "masters", "all"] = "none"
    """What lies in the machine's memory and visits the card a piece at a time: fp32 masters; or AdamW's moments too."""


class PrefixSection(Section):
    kind: Literal["prefix"] = "prefix"
    """prefix: keys and values before every text, in every layer, and nothing else (Li & Liang 2021; P-tuning v2)."""

    num_tokens: int = Field(20, ge=1, le=1024)
    """How many tokens the prefix stands for."""


AdapterSection = Annotated[LoRASection | FullSection | PrefixSection, Field(discriminator="kind")]
