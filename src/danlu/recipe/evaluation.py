"""Chapter `evaluation` and chapter `gate`: what is asked, who judges besides, and what is good enough to ship."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section

TaskName = Literal["domain", "consistency", "edge", "probes", "preference", "forgetting", "memorisation"]
SuiteName = Literal["sarcasm", "negation", "typo", "consistency", "unanswerable", "injection", "format"]


class JudgeSection(Section):
    model: str
    """The judge's name at its URL; without a URL a folder or hub id on this machine."""

    url: str | None = None
    """An OpenAI-compatible URL, such as https://host/v1; empty lets a model on this machine judge."""

    key_file: str | None = None
    """File that holds the API key alone."""

    rubric: str | None = None
    """File that says what a good answer is; empty takes danlu's own words."""


class SuiteSection(Section):
    harness: str
    """Whose suite: lm-eval, evalscope or opencompass."""

    python: str
    """The interpreter of the environment in which it is installed."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Its names of what to ask."""

    limit: int | None = Field(None, ge=1)
    """At most so many questions per task; empty asks all."""


class EvaluationSection(Section):
    tasks: tuple[TaskName, ...] = ("domain", "consistency", "probes", "forgetting", "memorisation")
    """What is measured, on the untouched base and on the tuned model alike."""

    questions: str | None = None
    """File of questions and answers never trained on; empty takes the held-out test part."""

    edge: str | None = None
    """File of edge cases: sarcasm, negation, unanswerable questions, with their kinds."""

    probes: tuple[SuiteName, ...] = (
        "sarcasm", "negation", "typo", "consistency", "unanswerable", "injection", "format",
    )  # fmt: skip
    """Which of danlu's own suites of edge cases the task `probes` asks."""

    preference: str | None = None
    """File of held-out preference pairs."""

    general: str | None = None
    """General text for the forgetting check; empty takes danlu's own small bilingual set."""

    general_questions: str | None = None
    """General questions with answers, asked beside danlu's own 360 to see what was forgotten."""

    metric: str | None = None
    """What judges an answer where its question names no metric; empty chooses by what the reference is."""

    beside: tuple[str, ...] = ()
    """Further metrics reported beside the one that counts, such as rouge_l, bleu, chrf."""

    max_new_tokens: int = Field(128, ge=1, le=32_768)
    """Longest answer."""

    temperature: float = Field(0.7, ge=0, le=2)
    """Serving temperature, used where a question is asked several times; single answers are greedy."""

    repeats: int = Field(3, ge=2, le=20)
    """How often the consistency task asks each question."""

    max_items: int | None = Field(None, ge=1)
    """Ask at most so many questions per task, chosen by seed; empty asks all."""

    judge: JudgeSection | None = None
    """A model that judges the answers, base beside tuned, in both orders. Empty asks none."""

    suites: tuple[SuiteSection, ...] = ()
    """Other people's benchmarks, put to base and tuned alike."""


class GateSection(Section):
    min_gain: float | None = Field(0.05, ge=-1, le=1)
    """Smallest gain in domain accuracy over the base that may ship."""

    max_forget: float | None = Field(0.15, ge=0)
    """Largest rise of general-text perplexity that may ship, as a ratio (0.15 = 15 %)."""

    min_accuracy: float | None = Field(0.0, ge=0, le=1)
    """Smallest domain accuracy that may ship."""

    min_consistency: float | None = Field(0.0, ge=0, le=1)
    """Smallest share of questions answered right every time."""

    max_loss: float | None = Field(0.02, ge=0, le=1)
    """Largest loss of accuracy on general questions that may ship; a larger one must be ruled out at 95 %."""

    max_category_loss: float | None = Field(0.05, ge=0, le=1)
    """Largest loss of accuracy in any category of general questions that may ship."""

    prove_categories: bool = False
    """Rule the loss out at 95 % in each category, too, not only overall."""

    max_probe_loss: float | None = Field(0.05, ge=0, le=1)
    """Largest loss on any probe suite that may ship, where the loss is shown at 95 %."""

    min_win_rate: float | None = Field(None, ge=0, le=1)
    """Smallest share of answers that the judge prefers to the base's, ties as halves; empty does not judge it."""

    max_suite_loss: float | None = Field(0.05, ge=0, le=1)
    """Largest loss on any outside benchmark that may ship, where the loss is shown at 95 %."""
