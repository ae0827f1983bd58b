"""The shelf of row formats: from a record's columns to a Sample, and back.

Adding one: a file with a `Format` (see `format.py`) and a line in `FORMATS`. `choose` finds the format of a row;
`convert` writes a sample in another format or says what that format cannot hold.
"""

from __future__ import annotations

import functools
from typing import Any

from danlu.core.shelf import Shelf
from danlu.data.formats.format import Format, Row
from danlu.data.sample import Sample

FORMATS: Shelf[type[Format]] = Shelf(
    "formats",
    {
        "preference": "danlu.data.formats.preference:PreferencePairs",
        "kto": "danlu.data.formats.kto:Kto",
        "messages": "danlu.data.formats.messages:Messages",
        "sharegpt": "danlu.data.formats.sharegpt:ShareGpt",
        "alpaca": "danlu.data.formats.alpaca:Alpaca",
        "prompt_completion": "danlu.data.formats.prompt_completion:PromptCompletion",
        "label": "danlu.data.formats.label:Labels",
        "text": "danlu.data.formats.text:Text",
    },
)

__all__ = ["FORMATS", "Format", "choose", "convert", "load_format"]


@functools.cache
def load_format(name: str) -> Format:
    return FORMATS.load(name)()


def choose(row: Row) -> Format | None:
    """The format that knows this row best, or None when none does."""
    scored = [(load_format(name).matches(row), name) for name in FORMATS.names()]
    score, name = max(scored)
    return load_format(name) if score > 0 else None


def convert(sample: Sample, name: str) -> dict[str, Any]:
    """The sample as a row of another format. Raises RowError when that format cannot hold all of it."""
    return load_format(name).write(sample)
