"""symbols: texts that are mostly marks or broken characters and hardly a word; documents that are mostly digits."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.cleaners.cleaner import Batch, Finding, Folded
from danlu.data.sample import Document
from danlu.data.twins.folding import encode

_LEAST = 20
"""Characters below which a text may well be a formula, a number or a face."""
_LEAST_WORDS = 0.35
"""Share of letters and digits among all that is no space (prose 0.8 to 0.95, source code 0.6, tables 0.5)."""
_MOST_DIGITS = 0.6
_MOST_BROKEN = 0.02
# private characters below U+E600 are the emoji of old telephones
_BROKEN = re.compile("[\ufffd\ue600-\uf8ff]|锟斤拷|烫烫烫|屯屯屯|ï¿½|â€[œ™\u009d]|Ã[©¨¤¶¼]")
_RUN = re.compile(r"([\W_])\1+")
"""Three exclamation marks are one, and so is the line under a heading."""


class Symbols:
    name = "symbols"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        folded = batch.folded_body
        size = np.fromiter(map(len, batch.body), np.int64, len(batch))
        words = np.diff(folded.unit_start) - 1
        for row in np.flatnonzero((size >= _LEAST) & (words < 0.6 * size)).tolist():
            num_seen = len(_RUN.sub(r"\1", "".join(batch.body[row].split())))
            if num_seen >= _LEAST and words[row] < _LEAST_WORDS * num_seen:
                found[row] = Finding("symbols", {"share": round(100 * words[row] / num_seen)})
        for row in _with_broken(batch.body, size):
            text = batch.body[row]
            if (num := sum(map(len, _BROKEN.findall(text)))) > _MOST_BROKEN * len(text):
                found[row] = Finding("broken_characters", {"num": num})
        for row, share in _of_digits(folded, words).items():
            is_document = isinstance(batch.samples[row], Document)  # an answer may well be a number
            if is_document and size[row] >= _LEAST and share > _MOST_DIGITS:
                found.setdefault(row, Finding("digits", {"share": round(100 * share)}))
        return found


def _with_broken(texts: Sequence[str], size: npt.NDArray[np.int64]) -> list[int]:
    """Rows with any sign of broken characters."""
    joined = "\n".join(texts)
    if joined.isascii():
        return []
    units = encode(joined)
    found = np.flatnonzero(_table()[units])
    if not len(found):
        return []
    places = found - np.searchsorted(np.flatnonzero(units >> 10 == 0x37), found)
    rows: list[int] = np.unique(np.searchsorted(np.cumsum(size + 1), places, "right")).tolist()
    return rows


@functools.cache
def _table() -> npt.NDArray[np.bool_]:
    """Units that a broken character is, or begins with."""
    table = np.zeros(65536, bool)
    table[0xE600:0xF900] = table[0xFFFD] = True
    table[[ord(char) for char in "锟烫屯ïâÃ"]] = True
    return table


def _of_digits(folded: Folded, words: npt.NDArray[np.int64]) -> dict[int, float]:
    """The share of digits in rows where it is high."""
    units = folded.units
    digits = np.flatnonzero((units >= 0x30) & (units <= 0x39))
    rows = np.searchsorted(folded.unit_start, digits, "right") - 1
    share = np.bincount(rows, minlength=len(words)) / np.maximum(words, 1)
    return {int(row): float(share[row]) for row in np.flatnonzero(share > _MOST_DIGITS)}
