"""Chapter `evaluation` and chapter `gate`: what is asked, and what counts as good enough to ship."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section

TaskName = Literal["domain", "consistency", "edge", "preference", "forgetting"]


class EvaluationSection(Section):
    tasks: tuple[TaskName, ...] = ("domain", "consistency", "forgetting")
    """What is measured, on the untouched base and on the tuned model alike."""

    questions: str | None = None
    """File of questions and answers never trained on; empty takes the held-out test part."""

    edge: str | None = None
    """File of edge cases: sarcasm, negation, unanswerable questions, with their kinds."""

    preference: str | None = None
    """File of held-out preference pairs."""

    general: str | None = None
    """General text for the forgetting check; empty takes danlu's own small bilingual set."""

    max_new_tokens: int = Field(128, ge=1, le=32_768)
    """Longest answer."""

    temperature: float = Field(0.7, ge=0, le=2)
    """Serving temperature, used where a question is asked several times; single answers are greedy."""

    repeats: int = Field(3, ge=2, le=20)
    """How often the consistency task asks each question."""

    max_items: int | None = Field(None, ge=1)
    """Ask at most so many questions per task, chosen by seed; empty asks all."""


class GateSection(Section):
    min_gain: float = Field(0.05, ge=-1, le=1)
    """Smallest gain in domain accuracy over the base that may ship."""

    max_forget: float = Field(0.15, ge=0)
    """Largest rise of general-text perplexity that may ship, as a ratio (0.15 = 15 %)."""

    min_accuracy: float = Field(0.0, ge=0, le=1)
    """Smallest domain accuracy that may ship."""

    min_consistency: float = Field(0.0, ge=0, le=1)
    """Smallest share of questions answered right every time."""
