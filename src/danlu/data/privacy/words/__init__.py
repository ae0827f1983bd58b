"""Word lists: administrative divisions (GB/T 2260, past and present), surnames, letters of given names."""

from __future__ import annotations

import functools
from importlib import resources


@functools.cache
def words(name: str) -> tuple[frozenset[str], ...]:
    """The lists of one file, one per line."""
    text = (resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(frozenset(line.split()) for line in text.splitlines() if line)


@functools.cache
def letters(name: str) -> str:
    """A file that is one long line of single characters."""
    return (resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8").splitlines()[0]


@functools.cache
def lines(name: str) -> tuple[tuple[str, ...], ...]:
    """The lists of one file in their order."""
    text = (resources.files(__name__) / f"{name}.txt").read_text(encoding="utf-8")
    return tuple(tuple(line.split()) for line in text.splitlines() if line)
