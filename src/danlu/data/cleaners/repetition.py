"""repetition: texts that say the same over and over, as models do that have lost their way, and pages made for search.

After the repetition rules of Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
2021 (table A1), with characters for words, so that Chinese is judged like English: the share of 20-grams of folded
characters, about ten words of Chinese, that stood in the text before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.cleaners.loops_words import count_repeats
from danlu.data.cleaners.words import Words
from danlu.data.joined import Places
from danlu.data.sample import Document
from danlu.data.twins.minhash import gram_keys

_GRAM = 20
_LEAST = 60
"""Folded characters below which a text is a short cry rather than a loop."""
_MOST_REPEATED = 0.35
_MOST_IN_ANSWERS = 0.5
"""Songs, forms and source code repeat themselves honestly."""
_GATE = 0.12
"""Repeated share in a tenth of the grams from which all of them are counted."""
_ODD = np.uint64(0x9E3779B97F4A7C15)
_TENTH, _COMPARED = np.uint64(2**64 // 10), np.uint64(2**40 - 1)
Keys = npt.NDArray[np.uint64]


class Repetition:
    name = "repetition"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        for row in _suspects(batch.words):
            share = repeated_share(_keys(batch.folded_body.units(row)))
            if share > (_MOST_REPEATED if isinstance(batch.samples[row], Document) else _MOST_IN_ANSWERS):
                found[row] = Finding("repetition", {"share": round(100 * share)})
        return found


def repeated_share(keys: Keys) -> float:
    """The share of grams that stood before."""
    return 1 - len(np.unique(keys)) / len(keys) if len(keys) else 0.0


def _suspects(words: Words) -> list[int]:
    """Rows of which a tenth of the grams, chosen by content so that equal ones are chosen alike, repeats itself."""
    begins, ends = words.at[1:-1:2], words.at[2::2]  # of bodies
    rows = np.flatnonzero(ends - begins >= _LEAST)
    if not len(rows):
        return []
    num_again, total = _repeats(words, begins[rows], ends[rows])
    # too few grams to judge by: looked at as they are
    suspects: list[int] = rows[(num_again > _GATE * total) | (total < 4)].tolist()
    return suspects


def _repeats(words: Words, begins: Places, ends: Places) -> tuple[Places, Places]:
    """Of each text how many of the grams chosen stood before, and how many there are. Of no interest, and not always
    counted, is a text of which too little repeats itself."""
    if words.is_quick:
        num_again, total = np.empty(len(begins), np.int64), np.empty(len(begins), np.int64)
        count_repeats(words.units, begins, ends, _TENTH, _COMPARED, _MOST_REPEATED, num_again, total)
        return num_again, total
    keys = _keys(words.units)
    places = np.flatnonzero(keys < _TENTH)
    owner = np.searchsorted(begins, places, "right") - 1
    is_own = (owner >= 0) & (places + _GRAM <= ends[owner])  # not those that reach into the next text
    owner = owner[is_own]
    packed = np.sort(owner.astype(np.uint64) << np.uint64(40) | keys[places[is_own]] & _COMPARED)
    again = packed[1:][packed[1:] == packed[:-1]]
    num_again = np.bincount((again >> np.uint64(40)).astype(np.int64), minlength=len(begins))
    return num_again, np.bincount(owner, minlength=len(begins))


def _keys(units: npt.NDArray[np.uint16]) -> Keys:
    """A hash of the twenty units from each place on."""
    num = len(units) - _GRAM + 1
    if num <= 0:
        return np.zeros(0, np.uint64)
    keys = gram_keys(units, 3)
    for step in (3, 6, 8):  # of 3 units, of 6, of 12, of 20
        mixed = keys[:-step] * _ODD
        mixed ^= mixed >> np.uint64(29)
        mixed += keys[step:]
        keys = mixed * _ODD
    return keys
