"""From the recipe's chapter `data` to what every row goes through: cleaners, privacy, text recognition."""

from __future__ import annotations

from pathlib import Path

from danlu.core.progress import Progress
from danlu.data.cleaners import build as build_cleaners
from danlu.data.flow.passing import Passing
from danlu.data.ocr import choose
from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.privacy.forgotten import Forgotten
from danlu.data.privacy.stage import load_names
from danlu.recipe.data import DataSection
from danlu.recipe.privacy import PrivacySection


def build_passing(section: DataSection, questions: str | None = None, *, progress: Progress | None = None) -> Passing:
    """The stages in their order; `questions` is the file that the project will ask. DataError for a package or file
    that a stage needs and does not find."""
    return Passing(
        stages=build_cleaners(section.cleaning, [questions] if questions else [], progress=progress),
        privacy=build_privacy(section.privacy),
        recogniser=choose(section.documents.ocr, section.documents.ocr_command),
        has_children=makes_samples(section),
    )


def makes_samples(section: DataSection) -> bool:
    """Whether a teacher is to make samples of the rows."""
    wanted = section.synthesis
    return bool(wanted.questions or wanted.instructions or wanted.preferences)


def build_privacy(section: PrivacySection) -> PrivacyStage | None:
    """None where nothing is to be looked for."""
    if section.pack == "off" and not section.actions and not section.levels and section.forget is None:
        return None
    return PrivacyStage(
        Policy.of(section),
        Keyring.open(section.key_file),
        names=load_names(Path(section.names)) if section.names is not None else (),
        recognizers=section.recognizers,
        forgotten=Forgotten.read(Path(section.forget)) if section.forget else None,
    )
