"""Chapter `round`: what the next training starts from, what it has to stand beside, and what is promoted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from danlu.recipe.section import Section


class RoundSection(Section):
    start: Literal["base", "adapter"] = "base"
    """base: train anew on all data; adapter: go on from the adapter that `alias` points at."""

    alias: str = Field("prod", pattern=r"^[a-z][a-z0-9_\-]{0,31}$")
    """The registry's name for what is in use: compared with, and moved when the new one is promoted."""

    max_loss: float = Field(0.02, ge=0, le=1)
    """Largest loss of domain accuracy against the version in use that must be ruled out, at 97.5 %."""

    mark: str | None = Field(None, pattern=r"^[0-9a-f]{12}$")
    """Digest of the data that was seen: new data is a run of its own; `danlu round` and `danlu run DATA` write it."""
