"""A quick look at much text: which lines hold a character that `mend` would look at more closely? Mostly none does.

May suspect a line that is in order, never the other way round (a test holds it to `mend`'s own expression).
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from danlu.data.joined import Laid

_ESCAPES = ("\\u", "\\b", "\\f")
"""What stands behind a backslash in JSON is not seen here."""
SIGNS = "\u200b\u2060\ufeff\ufffe\uffff鐨鏄鍦銆锛鈥浜绗鍙涓锟"
_BEYOND = 0x10000


def suspect_lines(text: str, num_lines: int) -> list[bool]:
    """One answer per line of the text (joined by line breaks): True where it has to be looked at."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    hits = _suspects()[np.minimum(codes, _BEYOND)]
    high = (codes >= 0x80) & (codes < 0x100)
    hits[:-2] |= high[:-2] & high[1:-1] & high[2:]
    found = [False] * num_lines
    if hits.any():
        ends = np.flatnonzero(codes == 0x0A)
        for line in np.unique(np.searchsorted(ends, np.flatnonzero(hits))).tolist():
            found[line] = True
    if any(escape in text for escape in _ESCAPES):
        for number, line in enumerate(text.split("\n")):
            found[number] = found[number] or any(escape in line for escape in _ESCAPES)
    return found


def suspect_texts(texts: list[str]) -> list[int]:
    """Numbers of the texts that have to be looked at."""
    laid = Laid(texts)
    codes = laid.units
    hits = np.take(_suspects(), codes)  # all halves of a pair are suspect
    high = codes - np.uint16(0x80) < 0x80
    if high.any():
        hits[:-2] |= high[:-2] & high[1:-1] & high[2:]
    places = np.flatnonzero(hits)
    if not len(places):
        return []
    found: list[int] = np.unique(np.searchsorted(laid.unit_ends, places)).tolist()
    return found


@functools.cache
def _suspects() -> npt.NDArray[np.bool_]:
    """By code point; the last stands for all beyond U+FFFF."""
    table = np.zeros(_BEYOND + 1, bool)
    table[:0x20] = True
    table[[0x09, 0x0A, 0x0D]] = False
    table[0x7F] = True
    table[0xD800:0xE000] = True
    table[[ord(sign) for sign in SIGNS]] = True
    return table
