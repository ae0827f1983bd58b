"""The contract of this shelf: a rule looks at a batch of rows and says which it objects to, and why.

A rule is pure and knows nothing of other rows: the same row is judged alike in any batch. What it costs matters, for
every row passes every rule; so a `Batch` folds all texts at once (`words.py`), and `search` tries an expression only
where a cue of it stands.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from danlu.data.cleaners.words import Cues, Words
from danlu.data.joined import Laid, Places, Units
from danlu.data.sample import Conversation, Document, Label, Message, Preference, Sample
from danlu.data.texts import answer_at

__all__ = ["Batch", "Cues", "Finding", "Folded", "Rule"]
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
    """One of the two texts of every row (see `Batch`), folded."""

    def __init__(self, words: Words, side: int) -> None:
        self.words, self.side = words, side

    def __getitem__(self, row: int) -> str:
        return self.words.text(2 * row + self.side)

    @property
    def length(self) -> Places:
        """(rows,) units of each text."""
        return self.words.length[self.side :: 2]

    def units(self, row: int) -> Units:
        at = self.words.at
        return self.words.units[at[2 * row + self.side] : at[2 * row + self.side + 1]]

    def search(self, pattern: re.Pattern[str], cues: Cues) -> Iterator[tuple[int, re.Match[str], int]]:
        """(row, match in the row's folded text, its place there). Matches may overlap: one is tried at each cue."""
        words = self.words
        places = words.cues_of(cues)
        texts = np.searchsorted(words.at, places, "right") - 1
        is_own = texts & 1 == self.side
        said, known = "", -1
        for place, text in zip(places[is_own].tolist(), texts[is_own].tolist(), strict=True):
            if text != known:
                said, known = words.text(text), text
            at = place - int(words.at[text])
            if len(said) != words.length[text]:  # characters of two units stand before it
                at = len(words.units[place - at : place].tobytes().decode("utf-16-le", "surrogatepass"))
            if match := pattern.match(said, at):
                yield text >> 1, match, at


class Batch:
    """Rows as rules see them: `asked` is all that comes before the answer, `body` what is to be learnt: the last answer
    (the better one of a preference), a document's text, the text that a label judges.

    `laid` holds both of each row in turn; `page` may be that already, where it holds nothing else, and is for certain
    with `are_pairs`. `quick`: by compiled loops or without; by default where they pay."""

    def __init__(
        self,
        samples: Sequence[Sample],
        page: Laid | None = None,
        *,
        are_pairs: bool = False,
        quick: bool | None = None,
    ) -> None:
        self.samples = samples
        both: list[str] = []
        self._are_pairs = are_pairs
        if are_pairs and page is not None:
            both = page.flat
        else:
            for sample in samples:
                both += _asked_and_body(sample)
        self.asked, self.body = both[0::2], both[1::2]
        self.laid = page if page is not None and page.flat == both else Laid(both)
        self._quick = quick

    def __len__(self) -> int:
        return len(self.samples)

    @functools.cached_property
    def words(self) -> Words:
        return Words(self.laid, quick=self._quick)

    @functools.cached_property
    def folded_asked(self) -> Folded:
        return Folded(self.words, 0)

    @functools.cached_property
    def folded_body(self) -> Folded:
        return Folded(self.words, 1)

    @functools.cached_property
    def is_answer_of(self) -> list[bool]:
        if self._are_pairs:
            return [True] * len(self)
        return [not isinstance(sample, Document | Label) for sample in self.samples]

    def is_answer(self, row: int) -> bool:
        """Is the body an answer, and neither a document nor a text to be judged?"""
        return self.is_answer_of[row]

    @functools.cached_property
    def size(self) -> Places:
        """(rows,) characters of each body."""
        return self.laid.num_chars[1::2]

    def texts_at(self, places: Places) -> list[int]:
        """The texts of `laid` in which these places of its units lie, each once, in order."""
        found: list[int] = np.unique(np.searchsorted(self.laid.unit_ends, places)).tolist()
        return found


def _asked_and_body(sample: Sample) -> tuple[str, str]:
    if type(sample) is Conversation and len(sample.messages) == 2 and sample.messages[1].role == "assistant":
        return sample.messages[0].content, sample.messages[1].content  # as below, for nearly all rows
    if isinstance(sample, Document | Label):
        return "", sample.text
    if isinstance(sample, Preference):
        return _joined(sample.prompt), _joined(sample.chosen)
    turns = sample.messages
    last = answer_at(turns)
    return _joined(turns[:last]), turns[last].content if last < len(turns) else ""


def _joined(turns: Sequence[Message]) -> str:
    return turns[0].content if len(turns) == 1 else _BREAK.join([turn.content for turn in turns])
