"""From the recipe's chapter `data` to what every row goes through: cleaners, privacy, text recognition."""

from __future__ import annotations

from danlu.data.flow.passing import Passing
from danlu.data.stage import RowStage
from danlu.recipe.data import DataSection


def build_passing(section: DataSection) -> Passing:
    """The stages in their order. DataError for a package or file that a stage needs and does not find."""
    return Passing(stages=_cleaners(section), has_children=makes_samples(section))


def makes_samples(section: DataSection) -> bool:
    """Whether a teacher is to make samples of the rows."""
    return bool(section.synthesis.questions or section.synthesis.instructions)


def _cleaners(section: DataSection) -> tuple[RowStage, ...]:
    return ()
