"""Chapter `method`: what is learnt. `stages` chains several, each starting from the last one's output."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from danlu.recipe.section import Section
from danlu.recipe.training import TrainingSection


class _Method(Section):
    @property
    def num_answers(self) -> int:
        """Answers that the model itself gives to each row before it is trained on them; 0: rows' own are learnt."""
        return 0

    @property
    def answer_tokens(self) -> int:
        """Most tokens of one of them."""
        return 0


class PretrainSection(_Method):
    accepts: ClassVar[frozenset[str]] = frozenset({"document"})
    """Kinds of samples this method learns from; the method itself says the same (tested)."""

    kind: Literal["pretrain"] = "pretrain"
    """pretrain: next-token prediction on whole documents: continued pretraining, or pretraining from scratch."""


class SFTSection(_Method):
    accepts: ClassVar[frozenset[str]] = frozenset({"conversation", "label"})

    kind: Literal["sft"] = "sft"
    """sft: supervised fine-tuning on answers."""

    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Which tokens are learnt: every assistant turn, the last one only, or the whole text."""


class DPOSection(_Method):
    accepts: ClassVar[frozenset[str]] = frozenset({"preference"})

    kind: Literal["dpo"] = "dpo"
    """dpo: direct preference optimisation on pairs (Rafailov et al. 2023)."""

    beta: float = Field(0.1, gt=0, le=10)
    """How strongly the policy is held to the reference."""

    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Probability that a preference label is wrong."""


class GRPOSection(_Method):
    accepts: ClassVar[frozenset[str]] = frozenset({"conversation", "label"})

    kind: Literal["grpo"] = "grpo"
    """grpo: the model's own answers, drawn in groups and rewarded by metrics (Shao et al. 2024)."""

    rewards: dict[str, float] = Field({"exact": 1.0}, min_length=1)
    """Metrics that judge an answer, each with its weight; an answer's reward is their weighted sum."""

    group: int = Field(8, ge=2, le=256)
    """Answers drawn for each question; one is as good as it is better than the others."""

    max_new_tokens: int = Field(256, ge=1, le=32_768)
    """Longest answer that is drawn."""

    temperature: float = Field(1.0, gt=0, le=2)
    """At which answers are drawn; their likelihood is counted at the same."""

    beta: float = Field(0.0, ge=0, le=10)
    """How strongly the policy is held to the reference; 0 needs none."""

    @property
    def num_answers(self) -> int:
        return self.group

    @property
    def answer_tokens(self) -> int:
        return self.max_new_tokens


class ClassifySection(_Method):
    accepts: ClassVar[frozenset[str]] = frozenset({"label"})

    kind: Literal["classify"] = "classify"
    """classify: an encoder (BERT, RoBERTa) learns which class a text belongs to (Devlin et al. 2019)."""


MethodSection = Annotated[
    PretrainSection | SFTSection | DPOSection | GRPOSection | ClassifySection, Field(discriminator="kind")
]


class StageSection(Section):
    method: MethodSection
    """What this stage learns; a bare name such as `sft` takes its defaults."""

    training: TrainingSection = TrainingSection()
    """Knobs of chapter `training` that differ in this stage; what is not set here is the recipe's own."""
