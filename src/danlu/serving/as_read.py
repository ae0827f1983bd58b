"""A text as it is read: what has no shape on a screen is left out (zero-width spaces, soft hyphens, marks of
direction), digits, letters and dashes of other forms are the plain ones (`１３８`, `١٣٨`, `𝟏𝟑𝟖`, `①`), and each
character knows where it stood. Detectors look through this beside the text itself; none of it is ever shown or sent.

Letters that only look alike (a Cyrillic `а`) stay what they are, and so do numbers in words.
"""

from __future__ import annotations

import bisect
import functools
import re
import unicodedata
from typing import NamedTuple

_ODD = re.compile(r"[^\t\n\r -~]")
_SHAPELESS = frozenset(("Cf", "Cc", "Mn", "Me"))
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters by their category, and blank."""
_MARKS = frozenset("@._-+")


class AsRead(NamedTuple):
    """`text` as it is read, and how many characters were left out before each of its own."""

    text: str
    gaps: list[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` stood, with what was left out inside."""
        return self._stood(start), self._stood(end - 1) + 1

    def _stood(self, at: int) -> int:
        return at + bisect.bisect_right(self.gaps, at)


def as_read(text: str) -> AsRead | None:
    """None where it reads as it is written, as most texts do."""
    if _ODD.search(text) is None:
        return None
    table = {ord(letter): read for letter in set(text) if (read := _read(letter)) != letter}
    if not table:
        return None
    left_out = "".join(chr(code) for code, read in table.items() if not read)
    gaps = []
    if left_out:
        places = re.finditer(f"[{re.escape(left_out)}]", text)
        gaps = [place.start() - num_before for num_before, place in enumerate(places)]
    return AsRead(text.translate(table), gaps)


@functools.lru_cache(maxsize=8192)
def _read(letter: str) -> str:
    if " " <= letter <= "~" or letter in "\t\n\r":
        return letter
    category = unicodedata.category(letter)
    if category in _SHAPELESS or letter in _FILLERS:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if category == "Zs":
        return " "
    if category == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    narrow = unicodedata.normalize("NFKC", letter)
    is_plain = len(narrow) == 1 and narrow.isascii() and (narrow.isalnum() or narrow in _MARKS)
    return narrow if is_plain else letter
