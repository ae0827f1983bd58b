"""Telling an answer while it is made: pieces of text that never break a character or show a stop string's beginning.

Torch-free. A piece is what the decoded text has gained for certain; the whole is decoded each time, because a token's
text may depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
"""What an unfinished UTF-8 character decodes to."""


class Teller:
    """Text of one answer. `decode` turns all its ids into text; `stop` ends it before the first of these strings."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(stop)
        self.text = ""
        self.is_stopped = False
        self._told = 0

    def hear(self, ids: Sequence[int]) -> bool:
        """Take all ids so far; True when a stop string has come and `text` ends before it."""
        text = self._decode(ids)
        cuts = [place for string in self._stop if (place := text.find(string)) >= 0]
        self.is_stopped = bool(cuts)
        self.text = text[: min(cuts)] if cuts else text
        return self.is_stopped

    def tell(self, *, is_last: bool = False) -> str:
        """What can be said now and was not said before. `is_last` says the rest."""
        sure = len(self.text) if is_last or self.is_stopped else self._sure()
        piece = self.text[self._told : sure]
        self._told = max(self._told, sure)
        return piece

    def _sure(self) -> int:
        """How much of the text cannot change: not an unfinished character, blank space at the end (decoders may trim
        it), or what may become a stop string."""
        sure = self.text.rstrip(REPLACEMENT).rstrip()
        held = max((_overlap(sure, string) for string in self._stop), default=0)
        return len(sure) - held


def _overlap(text: str, string: str) -> int:
    """The longest end of `text` that begins `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
