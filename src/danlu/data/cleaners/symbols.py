"""symbols: texts that are mostly marks or broken characters and hardly a word; documents that are mostly digits."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.joined import Laid, Places, Units
from danlu.data.sample import Document

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
        size, words = batch.size, batch.folded_body.length
        for row in np.flatnonzero((size >= _LEAST) & (words < 0.6 * size)).tolist():
            num_seen = len(_RUN.sub(r"\1", "".join(batch.body[row].split())))
            if num_seen >= _LEAST and words[row] < _LEAST_WORDS * num_seen:
                found[row] = Finding("symbols", {"share": round(100 * words[row] / num_seen)})
        for text in batch.texts_at(_broken_at(batch.laid)):
            row = text >> 1
            if text & 1 and (num := sum(map(len, _BROKEN.findall(batch.body[row])))) > _MOST_BROKEN * size[row]:
                found[row] = Finding("broken_characters", {"num": num})
        for row, sample in enumerate(batch.samples):
            if isinstance(sample, Document) and size[row] >= _LEAST:  # an answer may well be a number
                share = _share_of_digits(batch.folded_body.units(row))
                if share > _MOST_DIGITS:
                    found.setdefault(row, Finding("digits", {"share": round(100 * share)}))
        return found


def _broken_at(laid: Laid) -> Places:
    """Where broken characters may stand."""
    return laid.at_table(_table())


@functools.cache
def _table() -> npt.NDArray[np.bool_]:
    """Units that a broken character is or begins with."""
    table = np.zeros(65536, bool)
    table[0xE600:0xF900] = table[0xFFFD] = True
    table[[ord(char) for char in "ïâÃ锟烫屯"]] = True
    return table


def _share_of_digits(units: Units) -> float:
    return float(((units >= 0x30) & (units <= 0x39)).mean()) if len(units) else 0.0
