"""What every act needs of the recipe's model: folder, tokenizer and template. The model itself: `loading.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import TemplateError
from danlu.core.progress import Progress, Silent
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.model.hub import find_base
from danlu.recipe.model import ModelSection


@dataclass(frozen=True, slots=True)
class Base:
    """A base on this machine. `template` is None where the checkpoint has none (fine for pretraining)."""

    folder: Path
    tokenizer: Tokenizer
    template: Template | None


def open_base(section: ModelSection, *, progress: Progress | None = None) -> Base:
    """Find (or, for a hub id, fetch) the base and read its tokenizer and template. No torch."""
    folder = find_base(
        section.base,
        revision=section.revision,
        hub=section.hub,
        mirror=section.mirror,
        needs_weights=section.init == "pretrained",
        progress=progress or Silent(),
    )
    tokenizer = Tokenizer.load(folder)
    return Base(folder, tokenizer, _template(section, folder, tokenizer))


def _template(section: ModelSection, folder: Path, tokenizer: Tokenizer) -> Template | None:
    override = None if section.template == "auto" else section.template
    try:
        return Template.load(folder, tokenizer, override, system=section.system, thinking=section.thinking)
    except TemplateError as error:
        if override is None and error.key == "template.none":
            return None
        raise
