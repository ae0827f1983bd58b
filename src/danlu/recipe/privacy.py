"""Chapter `data.privacy`: what is looked for, what is done about it, and where the keys lie."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from danlu.recipe.section import Section

Action = Literal["keep", "mask", "token", "pseudonym", "drop"]
Level = Literal["public", "internal", "confidential", "restricted"]
SECTORS = ("finance", "medical", "legal")
"""Packs of a profession: cards of their models, and answers where that is asked for, say what they are not."""


class PrivacySection(Section):
    pack: str = "minimal"
    """The policy to start from: minimal, finance, medical, legal, off, or a YAML file of one's own."""

    actions: dict[str, Action] = Field(default_factory=dict)
    """What to do with a kind, before all else: {mobile: pseudonym, bank_card: drop}. keep reports, mask leaves first
    and last, token writes <手机号>, pseudonym puts a constant false value of the same form, drop drops the row."""

    levels: dict[Level, Action] = Field(default_factory=dict)
    """What to do with kinds of a level that `actions` does not name: {restricted: drop}."""

    min_score: float | None = Field(None, ge=0, le=1)
    """Findings less certain than this are left alone; empty takes the pack's."""

    level: Level = "internal"
    """How sensitive rows are at least, whatever is found in them."""

    names: str | None = None
    """A text file of known people, one name per line: found wherever they stand."""

    recognizers: tuple[str, ...] = ()
    """Models of other packages that find names (entry points danlu.detectors), by name."""

    key_file: str = "~/.danlu/privacy.keys"
    """Keys of pseudonyms and records; made when missing, readable by its owner only, never inside the data."""

    forget: str | None = None
    """A list written by `danlu forget`: rows that hold one of its values are dropped."""

    @field_validator("pack", mode="before")
    @classmethod
    def _off(cls, given: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return "off" if given is False else given
