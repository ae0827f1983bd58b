"""Chapter `data`: sources, what becomes of their rows, what is made of them, the split, and where all that runs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.cleaning import CleaningSection
from danlu.recipe.documents import DocumentsSection
from danlu.recipe.privacy import PrivacySection
from danlu.recipe.section import Section
from danlu.recipe.synthesis import AugmentSection, ReplaySection, SynthesisSection, TeacherSection


class SourceSection(Section):
    path: str
    """A file, a folder (read recursively) or a glob. Format, encoding and columns are sniffed per file."""

    format: str = "auto"
    """A name from `danlu list formats` where sniffing is not wanted."""

    columns: dict[str, str] = Field(default_factory=dict)
    """Column names of this source, as danlu's field: the file's column, for example {question: 问题}."""


class SplitSection(Section):
    test: float = Field(0.1, ge=0, lt=0.9)
    """Share of groups held out for evaluation."""

    validation: float = Field(0.05, ge=0, lt=0.5)
    """Share of groups watched during training."""

    seed: int = Field(3407, ge=0)
    """Changes which groups are held out."""


class DataSection(Section):
    sources: tuple[SourceSection, ...] = ()
    """Where training data is read; a plain path is enough."""

    documents: DocumentsSection = DocumentsSection()
    """How documents are read."""

    over_length: Literal["drop", "split", "truncate-prompt"] = "drop"
    """Rows longer than training.context: rejected, split at turns or sentences, or shortened at the prompt's start."""

    max_rejected: float = Field(0.1, ge=0, le=1)
    """Largest share of rejected rows at which a run still goes on."""

    duplicates: Literal["drop", "keep"] = "drop"
    """Rows that are identical after folding width, case, punctuation and spaces."""

    cleaning: CleaningSection = CleaningSection()
    """What is mended, and which rows are left out."""

    privacy: PrivacySection = PrivacySection()
    """Personal data and secrets."""

    split: SplitSection = SplitSection()
    """How much is held out, by group."""

    validation: str | None = None
    """A file watched during training; empty takes split.validation of the sources."""

    teacher: TeacherSection = TeacherSection()
    """Who answers when data is made."""

    synthesis: SynthesisSection = SynthesisSection()
    """What is made of the sources."""

    augment: AugmentSection = AugmentSection()
    """What is varied in the train part."""

    replay: ReplaySection = ReplaySection()
    """General data mixed into training."""

    engine: Literal["auto", "inline", "local", "ray"] = "auto"
    """Where rows are read and cleaned: inline in this process, local in worker processes, ray on a cluster. auto:
    inline for little data, else local."""

    workers: int | None = Field(None, ge=1, le=1024)
    """Processes that read and clean at once; empty takes one per core."""
