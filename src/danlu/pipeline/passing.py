"""From the recipe's chapter `data` to what every row goes through: cleaners, privacy, text recognition."""

from __future__ import annotations

import re
from pathlib import Path

from danlu.core.errors import DataError
from danlu.core.progress import Progress
from danlu.data.cleaners import build as build_cleaners
from danlu.data.flow.passing import Passing
from danlu.data.ocr import choose
from danlu.data.privacy import Keyring, Policy, PrivacyStage
from danlu.data.privacy.forgotten import Forgotten
from danlu.data.privacy.known import load_names
from danlu.evaluation.probes import suite_paths
from danlu.recipe.data import DataSection
from danlu.recipe.privacy import PrivacySection


def build_passing(section: DataSection, questions: str | None = None, *, progress: Progress | None = None) -> Passing:
    """The stages in their order; `questions` is the file that the project will ask: neither it nor danlu's own
    probes may be trained on. DataError for a package or file that a stage needs and does not find."""
    check_keys_apart(section)
    asked: list[Path | str] = [*suite_paths(), *([questions] if questions else [])]
    return Passing(
        stages=build_cleaners(section.cleaning, asked, progress=progress),
        privacy=build_privacy(section.privacy),
        recogniser=choose(section.documents.ocr, section.documents.ocr_command),
        has_children=makes_samples(section),
    )


def makes_samples(section: DataSection) -> bool:
    """Whether a teacher is to make samples of the rows."""
    wanted = section.synthesis
    return bool(wanted.questions or wanted.instructions or wanted.preferences)


def check_keys_apart(section: DataSection) -> None:
    """DataError when the key file lies in a folder that is read: whoever gets the data would get the keys."""
    if not _has_privacy(section.privacy):
        return
    keys = Path(section.privacy.key_file).expanduser().resolve()
    for source in section.sources:
        begin, *pattern = re.split(r"[*?\[]", source.path, maxsplit=1)
        folder = Path(begin) if not pattern or begin.endswith("/") else Path(begin).parent
        if keys.is_relative_to(folder.expanduser().resolve()):
            raise DataError("privacy.key_inside", where="data.privacy.key_file", given=source.path)


def _has_privacy(section: PrivacySection) -> bool:
    return section.pack != "off" or bool(section.actions) or bool(section.levels) or section.forget is not None


def build_privacy(section: PrivacySection) -> PrivacyStage | None:
    """None where nothing is to be looked for."""
    if not _has_privacy(section):
        return None
    return PrivacyStage(
        Policy.of(section),
        Keyring.open(section.key_file),
        names=load_names(Path(section.names)) if section.names is not None else (),
        recognizers=section.recognizers,
        forgotten=Forgotten.read(Path(section.forget)) if section.forget else None,
    )
