"""Telling an answer while it is made: pieces of text that never break a character or show a stop string's beginning.

Torch-free. A piece is what the decoded text has gained for certain. A token's text depends on its neighbours: a
character's bytes come in several tokens, and a tokenizer that writes a space before each word (SentencePiece) drops the
first. So each token is decoded behind the few before it, whose text is known, and what comes behind that is its own. At
the end the whole is decoded once, and that is the answer's text, whatever the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

REPLACEMENT = "\ufffd"
"""What an unfinished UTF-8 character decodes to."""


class Detokenizer:
    """Text of one answer, without blank space around it. `decode` turns ids into text; a last token in `ends` is none
    of it; `stop` ends it before the first of these strings."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = (), ends: AbstractSet[int] = frozenset()
    ) -> None:
        self._growing, self._stop, self._ends = GrowingText(decode), tuple(stop), ends
        self.text = ""
        self.is_stopped = False
        self._given = 0

    def feed(self, ids: Sequence[int], *, is_last: bool = False) -> bool:
        """Take all ids so far; True when a stop string has come and `text` ends before it."""
        num = len(ids) - (bool(ids) and ids[-1] in self._ends)
        text = (self._growing.whole(ids, num) if is_last else self._growing.grown(ids, num)).strip()
        cuts = [place for string in self._stop if (place := text.find(string)) >= 0]
        self.is_stopped = bool(cuts)
        self.text = text[: min(cuts)] if cuts else text
        return self.is_stopped

    def new_text(self, *, is_last: bool = False) -> str:
        """What can be said now and was not said before. `is_last` says the rest."""
        sure = len(self.text) if is_last or self.is_stopped else self._sure()
        piece = self.text[self._given : sure]
        self._given = max(self._given, sure)
        return piece

    def _sure(self) -> int:
        """How much of the text cannot change: not an unfinished character, blank space at the end (it may be the
        answer's), or what may become a stop string."""
        sure = self.text.rstrip(REPLACEMENT).rstrip()
        held = max((_overlap(sure, string) for string in self._stop), default=0)
        return len(sure) - held


class GrowingText:
    """The text of ids that become more, a few of them decoded each time."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._settled = ""
        """The text of ids up to `_end`, where a character ends."""
        self._begin = self._end = 0
        self._known = ""
        """What the ids from `_begin` to `_end` are when decoded alone."""

    def grown(self, ids: Sequence[int], num: int) -> str:
        """The text of the first `num` ids, which begin with those of the last call."""
        window = self._decode(ids[self._begin : num])
        if not window.startswith(self._known):  # a decoder that takes back what it has said
            self._settled, self._known, self._begin, self._end = "", "", 0, 0
            window = self._decode(ids[:num])
        text = self._settled + window[len(self._known) :]
        if len(window) > len(self._known) and not window.endswith(REPLACEMENT):
            alone = self._decode(ids[self._end : num])
            # nothing comes of a lone first space: what follows it would be the first again
            self._begin, self._known = (self._end, alone) if alone else (self._begin, window)
            self._settled, self._end = text, num
        return text

    def whole(self, ids: Sequence[int], num: int) -> str:
        return self._decode(ids[:num])


def _overlap(text: str, string: str) -> int:
    """The longest end of `text` that begins `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
