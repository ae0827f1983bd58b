"""How sensitive a row is: public, internal, confidential, restricted. Levels only ever go up along a derivation.

`tags["level"]` is the level of a row as its text stands now; `tags["level_found"]` what was found in it before it was
masked. What a text may be shown to, and what is made of it inherits, is `danlu.data.synthesis.teacher.Clearance`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from danlu.data.sample import Sample

Level = Literal["public", "internal", "confidential", "restricted"]
LEVELS: tuple[Level, ...] = get_args(Level)
_RANKS = {level: rank for rank, level in enumerate(LEVELS)}


def grade(levels: Iterable[Level]) -> Level:
    """The highest of several levels; public when there is none."""
    return max(levels, key=_RANKS.__getitem__, default="public")


def level_of(sample: Sample) -> Level | None:
    """The level a sample carries; None when no privacy stage has seen it."""
    level = sample.tags.get("level")
    return level if level in _RANKS else None
