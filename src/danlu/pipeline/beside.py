"""Rows that come into training beside the split, variants and replay: those that are like a held-out row stay out.

The split never saw them. What it promises of train rows is held up here for these: no text and no question of theirs is
nearly one that is held out, by the same likeness and the same thresholds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.certificate import TEST, TRAIN, UNUSED, VALIDATION, crossing
from danlu.data.flow.account import LIKE_HELD_OUT
from danlu.data.flow.piece import joined
from danlu.data.twins import Settings
from danlu.pipeline.parts import Parts

Rows = npt.NDArray[np.int64]


def leave_out_like_held_out(parts: Parts, first: int, settings: Settings) -> int:
    """Leave out every row from `first` on that is like one of validation or test; how many they are."""
    held_out = np.flatnonzero((parts.part == VALIDATION) | (parts.part == TEST))
    fresh = first + np.flatnonzero(parts.verdicts.stays[first:])
    if not len(held_out) or not len(fresh):
        return 0
    num = _leave_out(parts, *_same(parts, held_out, fresh))
    shards = [piece.columns for piece in parts.pieces]
    while True:  # of a crowd only a few are compared at a time
        sides = np.full(len(parts.part), UNUSED, np.uint8)
        sides[held_out] = TEST
        sides[fresh[parts.verdicts.stays[fresh]]] = TRAIN
        found = crossing(shards, sides, settings)
        num_near = 0
        for pairs, least in ((found.texts, settings.threshold), (found.questions, settings.tie)):
            is_near = (pairs.ratio >= least) & ~pairs.is_form
            num_near += _leave_out(parts, pairs.train[is_near], pairs.held_out[is_near], pairs.ratio[is_near])
        if not num_near:
            return num
        num += num_near


def _same(parts: Parts, held_out: Rows, fresh: Rows) -> tuple[Rows, Rows, npt.NDArray[np.float32]]:
    """(fresh, held out, 1.0) of rows that say, or first ask, the same to the letter."""
    rows, twins = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for keys in (joined(parts.pieces, "exact")[:, 0], joined(parts.pieces, "opening")):
        order = held_out[np.argsort(keys[held_out], kind="stable")]
        at = np.minimum(np.searchsorted(keys[order], keys[fresh]), len(order) - 1)
        is_same = (keys[order][at] == keys[fresh]) & (keys[fresh] != 0)
        rows.append(fresh[is_same])
        twins.append(order[at][is_same])
    found = np.concatenate(rows)
    return found, np.concatenate(twins), np.ones(len(found), np.float32)


def _leave_out(parts: Parts, rows: Rows, twins: Rows, ratio: npt.NDArray[Any]) -> int:
    verdicts = parts.verdicts
    is_new = verdicts.stays[rows]
    rows, twins, ratio = rows[is_new], twins[is_new], ratio[is_new]
    order = np.argsort(ratio, kind="stable")  # of several the likest is written last
    verdicts.twin[rows[order]], verdicts.similarity[rows[order]] = twins[order], ratio[order]
    verdicts.left_out[rows] = LIKE_HELD_OUT
    parts.part[rows] = UNUSED
    return len(np.unique(rows))
