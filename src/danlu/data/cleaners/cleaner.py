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
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

from danlu.data.sample import Document, Label, Message, Preference, Sample
from danlu.data.twins.folding import fold_words

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


class Folded:
    """Texts without case, width, marks and spaces (`twins.folding`), end to end: so an expression finds what it looks
    for however it was spaced, and in one run over all texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.joined, lengths = fold_words(texts)
        self.start = [0, *accumulate(length + 1 for length in lengths)]

    def __getitem__(self, row: int) -> str:
        return self.joined[self.start[row] : self.start[row + 1] - 1]

    def length(self, row: int) -> int:
        return self.start[row + 1] - self.start[row] - 1

    def search(self, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str], int]]:
        """(row, match, place within the row's folded text); the pattern must not match line breaks."""
        for match in pattern.finditer(self.joined):
            row = bisect_right(self.start, match.start()) - 1
            yield row, match, match.start() - self.start[row]


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

    def is_answer(self, row: int) -> bool:
        """Is the body an answer, and neither a document nor a text to be judged?"""
        return not isinstance(self.samples[row], Document | Label)


def _asked_and_body(sample: Sample) -> tuple[str, str]:
    if isinstance(sample, Document | Label):
        return "", sample.text
    if isinstance(sample, Preference):
        return _joined(sample.prompt), _joined(sample.chosen)
    turns = sample.messages
    last = len(turns) - 1
    while last >= 0 and turns[last].role != "assistant":
        last -= 1
    if last < 0:
        return _joined(turns), ""
    return _joined(turns[:last]), turns[last].content


def _joined(turns: Sequence[Message]) -> str:
    return turns[0].content if len(turns) == 1 else _BREAK.join([turn.content for turn in turns])
