"""What every act needs of the recipe's model: folder, tokenizer and template. The model itself: `loading.py`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import TemplateError
from danlu.core.files import read_json
from danlu.core.progress import Progress, Silent
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.model.hub import find_base
from danlu.planning.shapes import Shapes
from danlu.recipe.model import ModelSection


@dataclass(frozen=True, slots=True)
class Base:
    """A base on this machine. `template` is None where the checkpoint has none (fine for pretraining). `reach` is how
    many tokens an encoder reads at once; None of a decoder."""

    folder: Path
    tokenizer: Tokenizer
    template: Template | None
    reach: int | None = None


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
    reach = _reach(folder)
    return Base(folder, tokenizer, _template(section, folder, tokenizer) if reach is None else None, reach)


def _reach(folder: Path) -> int | None:
    config = folder / "config.json"
    shapes = Shapes.read(read_json(config)) if config.is_file() else None
    return shapes.reach if shapes is not None and shapes.is_encoder else None


def _template(section: ModelSection, folder: Path, tokenizer: Tokenizer) -> Template | None:
    override = None if section.template == "auto" else section.template
    try:
        return Template.load(folder, tokenizer, override, system=section.system, thinking=section.thinking)
    except TemplateError as error:
        if override is None and error.key == "template.none":
            return None
        raise
