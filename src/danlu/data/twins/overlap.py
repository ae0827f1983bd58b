"""What two parts of the data share, counted from the parts themselves: the split's certificate rests on this.

Nothing here looks at the groups that the split was made of. Likeness across parts is sought through the bands and
verified; how much of an answer stands in the training text is counted in grams of 13 characters, as is usual for
contamination (Brown et al., "Language Models are Few-Shot Learners", 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import GRAM_BORDER, QUESTION, Columns
from danlu.data.twins.folding import Places, Units
from danlu.data.twins.likeness import Ratios, Texts, jaccard
from danlu.data.twins.minhash import LONG_GRAM, SHORT_GRAM, Hashes, gram_keys

GRAM = 13
Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]
_REACH = 4
"""Rows of the other part that a row is compared with in one bucket."""
_MAX_ANSWERS = 5000
_FILTER_BITS = 24
_BLOCK = 1 << 22
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Across(NamedTuple):
    """Pairs of a row of one part and a row of the other, and how alike they are; of bucket-mates, not of all rows."""

    held_out: Places
    train: Places
    ratio: Ratios


def across(shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask, *, question: bool = False) -> Across:
    """Every held-out row with the training rows that share a band with it."""
    found = [_across(shards, texts, held_out, train, view | (QUESTION if question else 0)) for view in (0, 1)]
    return Across(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _across(shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask, view: int) -> Across:
    row, bands = view_of(shards, view, held_out | train)
    is_held = held_out[row]
    pairs = [np.zeros(0, np.uint64)]
    for band in range(bands.shape[1]):
        left, right = _met(bands[is_held, band], bands[~is_held, band])
        pairs.append(left.astype(np.uint64) << np.uint64(32) | right.astype(np.uint64))
    keys = np.unique(np.concatenate(pairs))
    left = row[is_held][(keys >> np.uint64(32)).astype(np.int64)]
    right = row[~is_held][(keys & np.uint64(0xFFFFFFFF)).astype(np.int64)]
    size = texts.asked if view & QUESTION else texts.length
    if not view & 1:
        fits = (size[left] < GRAM_BORDER) | (size[right] < GRAM_BORDER)
        left, right = left[fits], right[fits]
    gram, part = LONG_GRAM if view & 1 else SHORT_GRAM, "question" if view & QUESTION else "text"
    return Across(left, right, jaccard(texts, left, right, gram=gram, part=part))


def view_of(shards: Sequence[Columns], view: int, rows: Mask) -> tuple[Places, Hashes]:
    """Rows, in order, that have a signature of this view, and their bands."""
    found, bands, first = [np.zeros(0, np.int64)], [np.zeros((0, 25), np.uint32)], 0
    for shard in shards:
        row = np.asarray(shard["entry_row"]).astype(np.int64) + first
        is_wanted = (np.asarray(shard["entry_view"]) == view) & rows[row]
        found.append(row[is_wanted])
        bands.append(np.asarray(shard["bands"])[is_wanted])
        first += len(shard["answer"])
    return np.concatenate(found), np.concatenate(bands)


def _met(left: Hashes, right: Hashes) -> tuple[Places, Places]:
    """Places (left, right) with the same key: each left one with the first few right ones."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    begin, end = np.searchsorted(ordered, left), np.searchsorted(ordered, left, "right")
    num = np.minimum(end - begin, _REACH)
    at = np.repeat(begin - (np.cumsum(num) - num), num) + np.arange(num.sum())
    return np.repeat(np.arange(len(left)), num), order[at]


def answers_in(shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask) -> tuple[Places, Ratios]:
    """Held-out rows that answer something (an even choice of 5,000 of them) and which share of each answer's grams
    stands somewhere in the training rows."""
    rows = np.flatnonzero(held_out & (texts.said >= GRAM))
    rows = rows[:: max(1, -(-len(rows) // _MAX_ANSWERS))]
    start, length = texts.spans(rows, "answer")
    keys, owner = gram13(texts.slices(rows, start, length))
    wanted = np.unique(keys)
    seen = np.zeros(len(wanted), bool)
    maybe = np.zeros(1 << _FILTER_BITS, bool)
    maybe[(wanted >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True
    first = 0
    for shard in shards:
        is_train = train[first : first + len(shard["answer"])]
        first += len(is_train)
        for units in _blocks(shard, is_train) if len(wanted) else ():
            found = _keys13(units)
            found = found[maybe[(found >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)]]
            at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            seen[at[wanted[at] == found]] = True
    hits = seen[np.searchsorted(wanted, keys)] if len(keys) else np.zeros(0, bool)
    total = np.bincount(owner, minlength=len(rows))
    shares: Ratios = (np.bincount(owner, weights=hits, minlength=len(rows)) / np.maximum(total, 1)).astype(np.float32)
    return rows, shares


def _blocks(shard: Columns, rows: Mask) -> list[Units]:
    """The texts of these rows in pieces of a few million units, each text closed by `GRAM - 1` zeros."""
    units, start = np.asarray(shard["units"]), np.asarray(shard["start"])
    gap = np.zeros(GRAM - 1, np.uint16)
    blocks: list[Units] = []
    pieces: list[Units] = []
    size = 0
    for row in np.flatnonzero(rows).tolist():
        pieces += [units[start[row] : start[row + 1]], gap]
        size += len(pieces[-2])
        if size > _BLOCK:
            blocks.append(np.concatenate(pieces))
            pieces, size = [], 0
    return [*blocks, np.concatenate(pieces)] if pieces else blocks


def gram13(texts: Sequence[Units]) -> tuple[Keys, Places]:
    """All 13-grams of the texts, and the number of the text that each is of."""
    keys = [_keys13(text) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(found) for found in keys])
    return np.concatenate([np.zeros(0, np.uint64), *keys]), owner


def _keys13(units: Units) -> Keys:
    """A hash of the 13 units from each place on."""
    num = len(units) - GRAM + 1
    if num <= 0:
        return np.zeros(0, np.uint64)
    three = gram_keys(units, SHORT_GRAM)
    keys = three[:num] * _ODD
    for at in (3, 6, 9, 10):
        keys ^= keys >> np.uint64(31)
        keys += three[at : at + num]
        keys *= _ODD
    return keys
