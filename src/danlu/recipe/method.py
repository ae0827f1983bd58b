"""Chapter `method`: what is learnt. `stages` chains several, each starting from the last one's output."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from danlu.recipe.section import Section
from danlu.recipe.training import TrainingSection


class PretrainSection(Section):
    accepts: ClassVar[frozenset[str]] = frozenset({"document"})
    """Kinds of samples this method learns from; the method itself says the same (tested)."""

    kind: Literal["pretrain"] = "pretrain"
    """pretrain: next-token prediction on whole documents: continued pretraining, or pretraining from scratch."""


class SFTSection(Section):
    accepts: ClassVar[frozenset[str]] = frozenset({"conversation", "label"})

    kind: Literal["sft"] = "sft"
    """sft: supervised fine-tuning on answers."""

    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens are learnt: every assistant turn, the last one only, or the whole text."""


class DPOSection(Section):
    accepts: ClassVar[frozenset[str]] = frozenset({"preference"})

    kind: Literal["dpo"] = "dpo"
    """dpo: direct preference optimisation on pairs (Rafailov et al. 2023)."""

    beta: float = Field(0.1, gt=0, le=10)
    """How strongly the policy is held to the reference."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference label is wrong."""


class ClassifySection(Section):
    accepts: ClassVar[frozenset[str]] = frozenset({"label"})

    kind: Literal["classify"] = "classify"
    """classify: an encoder (BERT, RoBERTa) learns which class a text belongs to (Devlin et al. 2019)."""


MethodSection = Annotated[PretrainSection | SFTSection | DPOSection | ClassifySection, Field(discriminator="kind")]


class StageSection(Section):
    method: MethodSection
    """What this stage learns; a bare name such as `sft` takes its defaults."""

    training: TrainingSection = TrainingSection()
    """Knobs of chapter `training` that differ in this stage; what is not set here is the recipe's own."""
