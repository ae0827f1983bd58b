"""Sections of chapter `data` that make data: who answers (`teacher`), what is made (`synthesis`), what is varied
(`augment`), what is repeated against forgetting (`replay`). All of it is off, but for replay, until a recipe asks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section

Level = Literal["public", "internal", "confidential", "restricted"]
QuestionKind = Literal["fact", "how", "why", "compare", "unanswerable", "multi-turn"]


class TeacherSection(Section):
    url: str | None = None
    """An OpenAI-compatible URL, such as https://host/v1; empty lets a model on this machine answer, with no network."""

    model: str | None = None
    """The model's name at that URL; without a URL a folder or hub id, and empty means the recipe's own base."""

    key_file: str | None = None
    """File that holds the API key alone."""

    key_variable: str | None = None
    """Name of the environment variable that holds the API key."""

    ca_file: str | None = None
    """Certificate of the organisation's own authority, for https inside an intranet."""

    levels: tuple[Level, ...] = ("public", "internal")
    """What may be sent to a teacher outside this machine. Confidential and restricted rows only where named here."""

    parallel: int = Field(8, ge=1, le=256)
    """Most requests under way at once; fewer while the server says that it is busy."""

    timeout_s: float = Field(120.0, gt=0, le=3600)
    """Longest wait for one answer."""

    prompt_price: float | None = Field(None, ge=0)
    """Money per million tokens sent, as the provider's price list says."""

    answer_price: float | None = Field(None, ge=0)
    """Money per million tokens received."""

    max_cost: float | None = Field(None, gt=0)
    """Most money to spend, in the price list's currency; the work stops before it is passed."""

    max_tokens: int | None = Field(None, ge=1)
    """Most tokens to send and receive; the work stops before it is passed."""


class SynthesisSection(Section):
    questions: int = Field(0, ge=0, le=32)
    """Questions asked for about each passage of a document; 0 makes none."""

    kinds: tuple[QuestionKind, ...] = ("fact", "how", "why", "compare", "unanswerable", "multi-turn")
    """Which kinds of questions; unanswerable ones teach to decline."""

    instructions: int = Field(0, ge=0, le=100_000)
    """New tasks wanted from Self-Instruct (Wang et al. 2023); 0 makes none."""

    topic: str | None = Field(None, max_length=2000)
    """What the new tasks are about, in a sentence or two."""

    seeds: str | None = None
    """File of example tasks for Self-Instruct; empty takes danlu's own."""

    paraphrases: int = Field(0, ge=0, le=8)
    """Other wordings of each question that was made."""

    preferences: bool = False
    """Make pairs for DPO: the checked answer against the base's own where the two disagree."""

    min_quality: int = Field(0, ge=0, le=5)
    """Keep what the teacher, asked as a judge, gives at least so many of 5 points; 0 asks no judge."""


class AugmentSection(Section):
    methods: tuple[str, ...] = ()
    """Names from `danlu list augment`; empty varies nothing. Only the train part is ever varied."""

    copies: int = Field(1, ge=1, le=8)
    """Variants per method and row."""

    strength: float = Field(0.1, gt=0, le=0.5)
    """Share of words that eda may touch."""


class ReplaySection(Section):
    ratio: float = Field(0.1, ge=0, le=0.5)
    """Share of train tokens that is general data, against forgetting."""

    path: str | None = None
    """General conversations or texts to replay."""

    source: Literal["auto", "file", "base", "none"] = "auto"
    """file: `path`. base: the base's own answers to general prompts. auto: the file if one is named, else the base
    where it is large enough and can answer here."""

    prompts: str | None = None
    """File of general prompts for the base to answer; empty takes danlu's own."""
