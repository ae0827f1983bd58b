"""Quotes found again in the text they are said to be from: exactly, or with width, case, spaces and marks folded.

A folded hit gives the place in the original, so a span always points to what really stands there. Nothing is matched
loosely: a quote with one word changed is no quote.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_ELLIPSIS = re.compile(r"\s*(?:…+|\.{3,}|。{3,}|\[…\]|\[\.\.\.\])\s*")
_DASHES = str.maketrans("‐‑‒–—―−﹣－〜～∼", "---------~~~")
_JOINS_NUMBERS = frozenset(".,:/-~%")
MIN_QUOTE = {"zh": 4, "en": 12, "other": 12}
"""Characters below which a quote could stand anywhere."""


@dataclass(frozen=True, slots=True)
class Span:
    """Half-open character range in the passage."""

    start: int
    end: int


class Quotable:
    """A passage in which quotes are looked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded, self._places = _fold(text)

    def find(self, quote: str) -> Span | None:
        """Where the quote stands, or None. It may not begin or end inside a number or a Latin word."""
        quote = quote.strip()
        folded = _fold(quote)[0].strip()
        if not folded:
            return None
        start = self.text.find(quote)
        while start >= 0:
            if _is_whole(self.text, start, start + len(quote)):
                return Span(start, start + len(quote))
            start = self.text.find(quote, start + 1)
        start = self._folded.find(folded)
        while start >= 0:
            if _is_whole(self._folded, start, start + len(folded)):
                last = self._places[start + len(folded) - 1]
                return Span(self._places[start], last + 1)
            start = self._folded.find(folded, start + 1)
        return None

    def find_all(self, quote: str) -> list[Span] | None:
        """The spans of a quote with omissions (`A … B`), in the order of the passage; None when a part is missing."""
        if whole := self.find(quote):
            return [whole]
        parts = [part for part in _ELLIPSIS.split(quote) if _fold(part)[0].strip()]
        spans = [self.find(part) for part in parts]
        found = [span for span in spans if span is not None]
        return found if found and len(found) == len(parts) else None


def _is_whole(text: str, start: int, end: int) -> bool:
    return not (_runs_on(text, start) or _runs_on(text, end))


def _runs_on(text: str, place: int) -> bool:
    """Whether a number or a Latin word goes on across this place: "5 days" is no quote of "15 days" or "2.5 days"."""
    if not 0 < place < len(text):
        return False
    before, after = text[place - 1], text[place]
    if before.isdigit() and after.isdigit():
        return True
    if before.isdigit() and after in ".," and text[place + 1 : place + 2].isdigit():
        return True
    if after.isdigit() and before in ".," and place >= 2 and text[place - 2].isdigit():
        return True
    return before.isalpha() and before < "\u0250" and after.isalpha() and after < "\u0250"


def _fold(text: str) -> tuple[str, list[int]]:
    """Folded text and, for each of its characters, the place in `text` it comes from.

    Punctuation goes, but for what joins two numbers (3.5 is not 35) and signs that belong to them (%, c++). Spaces go,
    but for those between two Latin letters or digits.
    """
    plain: list[tuple[str, int]] = []
    place = 0
    while place < len(text):
        end = place + 1
        while end < len(text) and unicodedata.combining(text[end]):
            end += 1
        for character in unicodedata.normalize("NFKC", text[place:end]).translate(_DASHES).casefold():
            plain.append((character, place))
        place = end
    return _without_marks(plain)


def _without_marks(plain: list[tuple[str, int]]) -> tuple[str, list[int]]:
    characters: list[str] = []
    places: list[int] = []
    gap = False
    for index, (character, place) in enumerate(plain):
        if character.isspace():
            gap = True
            continue
        if not character.isalnum() and not _is_kept(plain, index):
            # a mark parts words as a space does: "end.Next" and "end. Next" fold alike
            gap = gap or not (character in "'’" or _is_thousands(plain, index))
            continue
        if gap and characters and _is_narrow(characters[-1]) and _is_narrow(character):
            characters.append(" ")
            places.append(place)
        characters.append(character)
        places.append(place)
        gap = False
    return "".join(characters), places


def _is_kept(plain: list[tuple[str, int]], index: int) -> bool:
    character = plain[index][0]
    before = plain[index - 1][0] if index else " "
    after = plain[index + 1][0] if index + 1 < len(plain) else " "
    if character == "%":
        return before.isdigit()
    if character in "+#":
        return before.isascii() and before.isalnum()
    if _is_thousands(plain, index):
        return False
    if character in _JOINS_NUMBERS and before.isdigit() and after.isdigit():
        return True
    return character == "-" and after.isdigit() and not (before.isalnum() or before in "-)")


def _is_thousands(plain: list[tuple[str, int]], index: int) -> bool:
    """The comma of 1,000."""
    character, before = plain[index][0], plain[index - 1][0] if index else " "
    after = "".join(found for found, _ in plain[index + 1 : index + 5])
    return character == "," and before.isdigit() and re.fullmatch(r"\d{3}\D?", after) is not None


def _is_narrow(character: str) -> bool:
    return character < "\u0250"
