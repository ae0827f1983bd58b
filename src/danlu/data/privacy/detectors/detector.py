"""The contract of the shelf `detectors`: what finds personal data in a text.

A rule is a pattern for the one pass over all texts and a function that looks closely at what the pattern stopped at.
Patterns are the common ground of RE2 and `re`: no look-around, no back-references, no `\\d \\w \\s \\b`, no negated
classes, no case folding; so both engines stop at the same places. A recognizer reads whole texts by itself (a model).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from danlu.data.privacy.finding import Finding


class Spot(NamedTuple):
    """Where the pass has stopped: `text[start:end]` matched. Only `text[low:high]` belongs to the same row's text."""

    text: str
    start: int
    end: int
    low: int
    high: int

    def before(self, size: int, start: int | None = None) -> str:
        at = self.start if start is None else start
        return self.text[max(self.low, at - size) : at]

    def after(self, size: int, end: int | None = None) -> str:
        at = self.end if end is None else end
        return self.text[at : min(self.high, at + size)]


def is_word(letter: str) -> bool:
    """What `\\w` is for codes: a code that goes on with one of these is another code."""
    return letter.isascii() and (letter.isalnum() or letter == "_")


@runtime_checkable
class Rule(Protocol):
    """One file of the shelf. `opens` are all characters a match of `pattern` can begin with. `gate` stops somewhere in
    every text in which there is anything to find, and in few others: a pattern for RE2 alone, by default `pattern`."""

    name: str
    version: int
    pattern: str
    gate: str
    opens: str

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        """Findings, and where the pass goes on. Without findings the next rule is asked; the farthest place counts."""
        ...


@runtime_checkable
class Recognizer(Protocol):
    """A model or a service inside the house, from an entry point `danlu.detectors`; built without arguments.

    `kinds` are what it may report. Loads on its first `read`; offsets count characters of each text.
    """

    name: str
    version: int
    kinds: tuple[str, ...]

    def read(self, texts: Sequence[str]) -> list[list[Finding]]: ...
