"""The contract of this shelf: a rule looks at a batch of rows and says which it objects to, and why.

A rule is pure and knows nothing of other rows: the same row is judged alike in any batch. What it costs matters, for
every row passes every rule; so a `Batch` folds all texts at once, and `search` runs an expression over all of them in
one go.
"""

from __future__ import annotations

import functools
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from danlu.data.sample import Document, Label, Message, Preference, Sample
from danlu.data.texts import answer_at
from danlu.data.twins.folding import Places, Units, encode, fold, fold_words

_BREAK = "\n"


class Finding(NamedTuple):
    """`reason` is a catalogue key of the room `ledger`; `values` fill it and hold no text of the row."""

    reason: str
    values: dict[str, Any] = {}  # noqa: RUF012  never changed


class Rule(Protocol):
    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]:
        """JSON: a version and every parameter that can change a finding."""
        ...

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        """Findings by the row's number in the batch; a row without one is in order."""
        ...


class Cues:
    """Beginnings that all matches of an expression have, so that it is tried only where one stands: four characters of
    a beginning, two where it is of two or three in Han."""

    def __init__(self, *beginnings: str) -> None:
        self.twos, self.fours = np.zeros(65536, bool), np.zeros(65536, bool)
        for text in beginnings:
            assert fold(text) == text, f"{text} is not what a fold leaves"
            if len(text) > 3:
                self.fours[_fours(encode(text[:4]))] = True
            else:
                assert len(text) > 1 and text[0] > "\u2e7f", f"{text} is too short to be rare"
                self.twos[_twos(encode(text[:2]))] = True


def _twos(units: Units) -> Units:
    """A hash of the two units at each place."""
    wide = units.astype(np.uint32)
    return ((wide[:-1] * np.uint32(0x9E3779B1) + wide[1:] * np.uint32(0x85EBCA77)) >> np.uint32(16)).astype(np.uint16)


def _fours(units: Units) -> Units:
    """A hash of the four units at each place."""
    twos = _twos(units).astype(np.uint32)
    return ((twos[:-2] * np.uint32(0xC2B2AE3D) + twos[2:] * np.uint32(0x27D4EB2F)) >> np.uint32(16)).astype(np.uint16)


class Folded:
    """Texts without case, width, marks and spaces (`twins.folding`), end to end: so an expression finds what it looks
    for however it was spaced, and in one run over all texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.units, self.unit_start = fold_words(texts)
        self.joined = self.units.tobytes().decode("utf-16-le", "surrogatepass")
        self.is_plain = len(self.joined) == len(self.units)
        self.start: list[int] = self._places(self.unit_start)

    def __getitem__(self, row: int) -> str:
        return self.joined[self.start[row] : self.start[row + 1] - 1]

    def length(self, row: int) -> int:
        return self.start[row + 1] - self.start[row] - 1

    def _places(self, units: Places) -> list[int]:
        """Places of units as places in the joined text."""
        if not self.is_plain:
            units = units - np.searchsorted(np.flatnonzero(self.units >> 10 == 0x37), units)
        found: list[int] = units.tolist()
        return found

    @functools.cached_property
    def _hashes(self) -> tuple[Units, Units]:
        return _twos(self.units), _fours(self.units)

    def search(self, pattern: re.Pattern[str], cues: Cues) -> Iterator[tuple[int, re.Match[str], int]]:
        """(row, match, place within the row's folded text); the pattern must not match line breaks. Matches may
        overlap: one is tried at each cue."""
        if len(self.units) < 4:
            return
        twos, fours = self._hashes
        is_cue = cues.twos[twos]
        is_cue[: len(fours)] |= cues.fours[fours]
        for place in self._places(np.flatnonzero(is_cue)):
            if match := pattern.match(self.joined, place):
                row = bisect_right(self.start, place) - 1
                yield row, match, place - self.start[row]


class Batch:
    """Rows as rules see them: `asked` is all that comes before the answer, `body` what is to be learnt: the last answer
    (the better one of a preference), a document's text, the text that a label judges."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self.samples = samples
        pairs = [_asked_and_body(sample) for sample in samples]
        self.asked: list[str] = [asked for asked, _ in pairs]
        self.body: list[str] = [body for _, body in pairs]

    def __len__(self) -> int:
        return len(self.samples)

    @functools.cached_property
    def folded_asked(self) -> Folded:
        return Folded(self.asked)

    @functools.cached_property
    def folded_body(self) -> Folded:
        return Folded(self.body)

    @functools.cached_property
    def is_answer_of(self) -> list[bool]:
        return [not isinstance(sample, Document | Label) for sample in self.samples]

    def is_answer(self, row: int) -> bool:
        """Is the body an answer, and neither a document nor a text to be judged?"""
        return self.is_answer_of[row]


def _asked_and_body(sample: Sample) -> tuple[str, str]:
    if isinstance(sample, Document | Label):
        return "", sample.text
    if isinstance(sample, Preference):
        return _joined(sample.prompt), _joined(sample.chosen)
    turns = sample.messages
    last = answer_at(turns)
    return _joined(turns[:last]), turns[last].content if last < len(turns) else ""


def _joined(turns: Sequence[Message]) -> str:
    return turns[0].content if len(turns) == 1 else _BREAK.join([turn.content for turn in turns])
