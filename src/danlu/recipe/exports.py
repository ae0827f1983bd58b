"""Chapter `exports`: what is shipped, each proven equal to what was trained."""

from __future__ import annotations

from typing import Literal

from danlu.recipe.section import Section


class ExportSection(Section):
    kind: Literal["adapter", "merged"]
    """adapter: a PEFT folder; merged: a Hugging Face folder that needs nothing beside it."""
