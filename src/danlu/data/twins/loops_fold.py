"""Folding by table as a loop: the same as `folding._fold_some` does with numpy, in one pass over the units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled

_WORD, _DECIMAL, _ALNUM, _SUFFIX, _SIGN, _MANY = 1, 2, 4, 8, 16, 128  # as in folding.py
_RARE = _SUFFIX | _SIGN | _MANY
_BREAK, _STOP = 10, 46

Units = npt.NDArray[np.uint16]
Places = npt.NDArray[np.int64]


@compiled
def fold_texts(
    units: Units, ends: Places, table: npt.NDArray[np.int32], points: Places, point_kinds: npt.NDArray[np.uint8],
    coarse: Units, coarse_at: Places, fine: Units, fine_at: Places, is_hard: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    """Fills the last five. `table` holds what each unit folds to, and its kind 16 bits higher; `point_kinds` the kinds
    of the `points` beyond U+FFFF that occur, sorted. A text that is hard is empty here."""
    num_coarse = num_fine = first = 0
    for text in range(len(ends)):
        begin_coarse, begin_fine = num_coarse, num_fine
        kind = before = before_that = 0
        is_number = 0  # whether the last word is a number's; then where it is, and where `fine` goes on behind it
        last = behind = -1
        at = first
        while at < ends[text]:
            unit = units[at]
            entry = table[unit]
            before_that, before, kind = before, kind, entry >> 16
            if kind & _RARE == 0:  # letters, numbers and marks that part them: no branch to guess but one
                is_word, is_decimal = kind & _WORD, kind & _DECIMAL
                if is_decimal & is_number != 0 and last + 1 < at:  # marks part two numbers: one stop stands for them
                    fine[behind] = _STOP
                    num_fine = behind + 1
                coarse[num_coarse] = fine[num_fine] = entry & 0xFFFF
                num_coarse += is_word
                num_fine += is_word
                is_number = is_decimal if is_word else is_number
                last = at if is_decimal else last
                behind = num_fine if is_decimal else behind
            elif kind & _MANY:
                kind = _MANY
                other = units[at + 1]
                if unit >> 10 == 0x36 and other >> 10 == 0x37:
                    point = 0x10000 + ((np.int64(unit) & 0x3FF) << 10) + (np.int64(other) & 0x3FF)
                    kind = int(point_kinds[np.searchsorted(points, point)])
                if kind & _MANY:
                    is_hard[text] = True
                    num_coarse, num_fine = begin_coarse, begin_fine
                    break
                if kind & _WORD:
                    is_number = 0
                    coarse[num_coarse] = fine[num_fine] = unit
                    coarse[num_coarse + 1] = fine[num_fine + 1] = other
                    num_coarse += 2
                    num_fine += 2
                before = kind
                at += 1
            else:
                stays = kind & _SUFFIX != 0 and (
                    before & _ALNUM != 0 or (before & _SUFFIX != 0 and before_that & _ALNUM != 0)
                )
                if not stays and kind & _SIGN != 0 and before & _WORD == 0:
                    stays = (table[units[at + 1]] >> 16) & _DECIMAL != 0
                if stays:
                    fine[num_fine] = entry & 0xFFFF
                    num_fine += 1
            at += 1
        fine[num_fine] = _BREAK
        num_fine += 1
        coarse_at[text + 1], fine_at[text + 1] = num_coarse, num_fine
        first = ends[text] + 1
