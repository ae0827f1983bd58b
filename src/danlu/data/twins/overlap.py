"""What two parts of the data share, counted from the parts themselves: the split's certificate rests on this.

Nothing here looks at the groups that the split was made of. Likeness across parts is sought through the bands and
verified; how much of an answer stands in the training text is counted in grams of 13 characters, as is usual for
contamination (Brown et al., "Language Models are Few-Shot Learners", 2020).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import GRAM_BORDER, NUM_BANDS, QUESTION, Columns
from danlu.data.twins.compiled import purse
from danlu.data.twins.folding import Places, Units
from danlu.data.twins.forms import of_forms
from danlu.data.twins.likeness import Ratios, Texts, jaccard
from danlu.data.twins.loops_overlap import FIRST_BITS, bits_of, mark_seen
from danlu.data.twins.minhash import (
    LONG_GRAM,
    SHORT_GRAM,
    Hashes,
    Signed,
    agreement,
    distinct,
    least_agreement,
    long_keys,
)
from danlu.data.twins.threads import num_threads, threaded

GRAM = 13
Mask = npt.NDArray[np.bool_]
Keys = npt.NDArray[np.uint64]
_REACH = 4
"""Rows of the other part that a row is compared with in one bucket."""
_ALIKE, _NUM_OTHERS = 0.5, 5000
"""The least threshold that a recipe may set; pairs below it that are compared all the same, for the nearest of all."""
_MAX_ANSWERS = 2000
_FILTER_BITS = 22
_BLOCK = 1 << 18
_MANY = 100_000
"""Keys from which a look at which can meet at all pays."""
_CHEAPER = 6
"""How much less a unit that is looked through costs in numpy than one that is signed."""


class Across(NamedTuple):
    """Pairs of a row of one part and a row of the other, and how alike they are; of bucket-mates, not of all rows."""

    held_out: Places
    train: Places
    ratio: Ratios
    is_form: Mask
    """Alike by the template of a form only."""


def across(
    shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask, threshold: float, *, question: bool = False
) -> Across:
    """Every held-out row with the training rows that share a band with it; `threshold` from which they are alike."""
    views = (QUESTION, QUESTION | 1) if question else (0, 1)
    found = [_across(shards, texts, held_out, train, view, threshold) for view in views]
    return Across(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _across(
    shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask, view: int, threshold: float
) -> Across:
    row, signed = view_of(shards, view, held_out | train)
    is_held = held_out[row]
    held, learnt = np.flatnonzero(is_held), np.flatnonzero(~is_held)

    def meet(band: int) -> Keys:
        left, right = _met(signed.bands[held, band], signed.bands[learnt, band])
        return left.astype(np.uint64) << np.uint64(32) | right.astype(np.uint64)

    keys = distinct(np.concatenate([np.zeros(0, np.uint64), *threaded(meet, range(signed.bands.shape[1]))]))
    one, other = held[(keys >> np.uint64(32)).astype(np.int64)], learnt[(keys & np.uint64(0xFFFFFFFF)).astype(np.int64)]
    nearest = _likeliest(agreement(signed.sketch[one], signed.sketch[other]))
    left, right = row[one[nearest]], row[other[nearest]]
    size = texts.asked if view & QUESTION else texts.length
    if not view & 1:
        fits = (size[left] < GRAM_BORDER) | (size[right] < GRAM_BORDER)
        left, right = left[fits], right[fits]
    gram, part = LONG_GRAM if view & 1 else SHORT_GRAM, "question" if view & QUESTION else "text"
    ratio = jaccard(texts, left, right, gram=gram, part=part)
    is_form = np.zeros(len(left), bool)
    near = np.flatnonzero(ratio >= threshold)
    is_form[near] = of_forms(texts, left[near], right[near], gram=gram, part=part, threshold=threshold)
    return Across(left, right, ratio, is_form)


def _likeliest(agreed: npt.NDArray[np.int64]) -> Places:
    """Pairs that may be alike at all, and of the others the nearest few thousand: one of them is the nearest of all."""
    num_wanted = max(int((agreed >= least_agreement(_ALIKE)).sum()), _NUM_OTHERS)
    num_at_least = np.cumsum(np.bincount(agreed, minlength=1)[::-1])[::-1]
    border = int(np.flatnonzero(num_at_least >= num_wanted).max(initial=0))
    places = np.flatnonzero(agreed >= border)  # all that can be among them
    return places[np.argsort(-agreed[places], kind="stable")][:num_wanted]


def view_of(shards: Sequence[Columns], view: int, rows: Mask) -> tuple[Places, Signed]:
    """Rows, in order, that have a signature of this view, and these; the bands lie band by band."""
    found, first = [np.zeros(0, np.int64)], 0
    bands, sketches = [np.zeros((NUM_BANDS, 0), np.uint32)], [np.zeros((0, 2), np.uint64)]
    for shard in shards:
        row = np.asarray(shard["entry_row"]).astype(np.int64) + first
        at = np.flatnonzero((np.asarray(shard["entry_view"]) == view) & rows[row])
        found.append(row[at])
        bands.append(np.asarray(shard["bands"])[at].T)
        sketches.append(np.asarray(shard["sketch"])[at])
        first += len(shard["answer"])
    return np.concatenate(found), Signed(np.concatenate(bands, axis=1).T, np.concatenate(sketches))


def _met(left: Hashes, right: Hashes) -> tuple[Places, Places]:
    """Places (left, right) with the same key: each left one with the first few right ones."""
    left_in, right_in = np.arange(len(left)), np.arange(len(right))
    if len(left) + len(right) >= _MANY:  # few of them have a mate at all
        right_in = _meeting(left, right)
        left_in = _meeting(right[right_in], left)
    left_keys, left_at = _ordered(left[left_in])
    right_keys, right_at = _ordered(right[right_in])
    begin, end = np.searchsorted(right_keys, left_keys), np.searchsorted(right_keys, left_keys, "right")
    num = np.minimum(end - begin, _REACH)
    at = np.repeat(begin - (np.cumsum(num) - num), num) + np.arange(num.sum())
    return left_in[np.repeat(left_at, num)], right_in[right_at[at]]


def _meeting(some: Hashes, keys: Hashes) -> Places:
    """Which of the keys may be among some."""
    is_there = np.zeros(1 << _FILTER_BITS, bool)
    is_there[some >> np.uint32(32 - _FILTER_BITS)] = True
    return np.flatnonzero(is_there[keys >> np.uint32(32 - _FILTER_BITS)])


def _ordered(keys: Hashes) -> tuple[Keys, Places]:
    """Keys in order, and where each stood: one sort of both in one number."""
    packed = np.sort(keys.astype(np.uint64) << np.uint64(32) | np.arange(len(keys), dtype=np.uint64))
    return packed >> np.uint64(32), (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)


def answers_in(shards: Sequence[Columns], texts: Texts, held_out: Mask, train: Mask) -> tuple[Places, Ratios]:
    """Held-out rows that answer something (an even choice of 2,000 of them) and which share of each answer's grams
    stands somewhere in the training rows."""
    rows = np.flatnonzero(held_out & (texts.said >= GRAM))
    rows = rows[:: max(1, -(-len(rows) // _MAX_ANSWERS))]
    start, length = texts.spans(rows, "answer")
    keys, owner = gram13(texts.slices(rows, start, length))
    wanted = distinct(keys)
    quick = purse.is_worth(sum(len(shard["units"]) for shard in shards) // _CHEAPER)
    seen = _seen_quickly(shards, train, wanted) if quick else _seen(shards, train, wanted)
    hits = seen[np.searchsorted(wanted, keys)] if len(keys) else np.zeros(0, bool)
    total = np.bincount(owner, minlength=len(rows))
    shares: Ratios = (np.bincount(owner, weights=hits, minlength=len(rows)) / np.maximum(total, 1)).astype(np.float32)
    return rows, shares


def _seen(shards: Sequence[Columns], train: Mask, wanted: Keys) -> Mask:
    """Which of the wanted 13-grams, sorted, stand in a training text."""
    seen = np.zeros(len(wanted), bool)
    maybe = np.zeros(1 << _FILTER_BITS, bool)
    maybe[(wanted >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)] = True
    first = 0
    for shard in shards:
        is_train = train[first : first + len(shard["answer"])]
        first += len(is_train)
        for found in _keys_in(shard, is_train) if len(wanted) else ():
            found = np.sort(found[maybe[(found >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)]])
            at = np.minimum(np.searchsorted(wanted, found), len(wanted) - 1)
            seen[at[wanted[at] == found]] = True
    return seen


def _keys_in(shard: Columns, rows: Mask) -> Iterator[Keys]:
    """The 13-grams of these rows' texts, in pieces that stay in the cache."""
    start, units = np.asarray(shard["start"]), np.asarray(shard["units"])
    at = 0
    while at < len(rows):
        last = max(at + 1, int(np.searchsorted(start, start[at] + _BLOCK, "right")) - 1)
        keys = long_keys(units[start[at] : start[last]], GRAM)
        length = np.diff(start[at : last + 1])
        is_gram = np.repeat(rows[at:last], length)
        ends = start[at + 1 : last + 1] - start[at]
        for back in range(1, GRAM):  # what begins so near a text's end reaches into the next one
            is_gram[np.maximum(ends - back, ends - length)[length > 0]] = False
        yield keys[is_gram[: len(keys)]]
        at = last


def _seen_quickly(shards: Sequence[Columns], train: Mask, wanted: Keys) -> Mask:
    """The same by a loop, which forgets what it has seen; every thread for itself, so that none waits."""
    first = np.searchsorted(wanted >> np.uint64(64 - FIRST_BITS), np.arange((1 << FIRST_BITS) + 1, dtype=np.uint64))
    bounds = np.cumsum([0, *(len(shard["answer"]) for shard in shards)])
    num = num_threads()

    def look(thread: int) -> Mask:
        seen, bits = np.zeros(len(wanted), bool), bits_of(wanted)
        for number in range(thread, len(shards), num):
            rows = train[bounds[number] : bounds[number + 1]]
            units, start = np.asarray(shards[number]["units"]), np.asarray(shards[number]["start"])
            mark_seen(units, start, rows, wanted, first, seen, bits)
        return seen

    seen: Mask = np.logical_or.reduce(list(threaded(look, range(num))))
    return seen


def gram13(texts: Sequence[Units]) -> tuple[Keys, Places]:
    """All 13-grams of the texts, and the number of the text that each is of."""
    keys = [long_keys(text, GRAM) for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(found) for found in keys])
    return np.concatenate([np.zeros(0, np.uint64), *keys]), owner
