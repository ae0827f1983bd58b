"""Loops over folded units: the same as numpy does in `words.py`, `repetition.py` and `contaminated.py`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled

_ODD = np.uint64(0x9E3779B97F4A7C15)
_S16, _S20, _S29, _S32, _S48 = (np.uint64(shift) for shift in (16, 20, 29, 32, 48))
_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_S6, _LOW6, _ONE = np.uint64(6), np.uint64(63), np.uint64(1)
_S3, _SEVEN, _PAIR = np.uint64(3), np.uint64(7), np.uint64(2**32 - 1)

Units = npt.NDArray[np.uint16]
Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


_WORD, _MANY_OF = 1, 128  # as in folding.py


@compiled
def fold_words(
    units: Units, ends: Places, table: npt.NDArray[np.int32], points: Places, point_kinds: npt.NDArray[np.uint8],
    flat: Units, at: Places, is_hard: npt.NDArray[np.bool_],
) -> None:  # fmt: skip
    """The coarse half of `twins.loops_fold.fold_texts`: fills the last three. A text that is hard is empty here."""
    num = first = 0
    for text in range(len(ends)):
        begin, place = num, first
        while place < ends[text]:
            entry = table[units[place]]
            kind = entry >> 16
            if kind & _MANY_OF == 0:  # no branch to guess: a mark is written over
                flat[num] = entry & 0xFFFF
                num += kind & _WORD
                place += 1
                continue
            unit, other = units[place], units[place + 1]
            kind = _MANY_OF
            if unit >> 10 == 0x36 and other >> 10 == 0x37:
                point = 0x10000 + ((np.int64(unit) & 0x3FF) << 10) + (np.int64(other) & 0x3FF)
                kind = int(point_kinds[np.searchsorted(points, point)])
            if kind & _MANY_OF:
                is_hard[text] = True
                num = begin
                break
            if kind & _WORD:
                flat[num], flat[num + 1] = unit, other
                num += 2
            place += 2
        at[text + 1] = num
        first = ends[text] + 1


@compiled
def find_cues(units: Units, maybe: npt.NDArray[np.uint8], keys: Keys, found: Places) -> int:
    """Fills `found` with the places at which the four units, or the two, are one of `keys`, and returns how many.
    `maybe` is of 65536: 1 where fours of that hash are among the keys, 2 where pairs are."""
    num = 0
    window = np.uint64(0)
    for at in range(min(3, len(units))):
        window |= np.uint64(units[at]) << np.uint64(16 * (at + 1))
    for at in range(len(units)):
        window >>= _S16
        if at + 3 < len(units):
            window |= np.uint64(units[at + 3]) << _S48
        pair = window & _PAIR
        of_four = maybe[(window * _ODD) >> _S48] & 1
        of_pair = maybe[(pair * _ODD) >> _S48] & 2
        if of_four | of_pair and ((of_four and _holds(keys, window)) or (of_pair and _holds(keys, pair))):
            found[num] = at
            num += 1
    return num


@compiled
def masks_at(units: Units, places: Places, keys: Keys, masks: Keys, first: Places) -> Keys:
    """Whose cues stand at these places: `words._Table._masks_at`."""
    found = np.zeros(len(places), np.uint64)
    for number in range(len(places)):
        key = np.uint64(0)
        for size in range(min(8, len(units) - places[number])):
            unit = np.uint64(units[places[number] + size])
            key = key | unit << np.uint64(16 * size) if size < 4 else key * _ODD + unit
            own = keys[first[size] : first[size + 1]]
            at = np.searchsorted(own, key)
            if at < len(own) and own[at] == key:
                found[number] |= masks[first[size] + at]
    return found


@compiled
def _holds(keys: Keys, key: np.uint64) -> bool:
    at = np.searchsorted(keys, key)
    return bool(at < len(keys) and keys[at] == key)


@compiled
def count_repeats(
    units: Units, begins: Places, ends: Places, below: np.uint64, mask: np.uint64, least: float, num_again: Places,
    total: Places,
) -> None:  # fmt: skip
    """Of the twenty units from each place of each text on, hashed as `repetition._keys` does: how many hashes are less
    than `below` (`total`), and how many of those stood before in the text, by the bits of `mask` (`num_again`). Texts
    of which less than the share `least` can repeat itself have 0 of the highest number here."""
    longest = 0
    for text in range(len(begins)):
        longest = max(longest, ends[text] - begins[text])
    keys, other = np.empty(longest + 1, np.uint64), np.empty(longest + 1, np.uint64)
    size = 1 << 10
    slots, owner = np.empty(size, np.uint64), np.full(size, -1, np.int64)  # open addressing; whose a slot is
    seen = np.empty(1 << 14, np.uint64)
    for text in range(len(begins)):
        num = ends[text] - begins[text] - 2
        if _num_eights_again(units[begins[text] : ends[text]], seen) < least * (num - 17):
            num_again[text], total[text] = 0, _MANY
            continue
        _threes(units[begins[text] : ends[text]], keys)
        for step in (3, 6, 8):  # of 3 units, of 6, of 12, of 20
            num -= step
            for at in range(num):
                mixed = keys[at] * _ODD
                mixed ^= mixed >> _S29
                other[at] = (mixed + keys[at + step]) * _ODD
            keys, other = other, keys
        found = again = 0
        for at in range(num):
            found += keys[at] < below
        if size < 2 * found:  # room for the grams that are chosen, not for all of a long text
            while size < 2 * found:
                size *= 2
            slots, owner = np.empty(size, np.uint64), np.full(size, -1, np.int64)
        for at in range(num):
            if keys[at] < below:
                key = keys[at] & mask
                slot = np.int64(key & np.uint64(size - 1))
                while owner[slot] == text and slots[slot] != key:
                    slot = (slot + 1) & (size - 1)
                again += owner[slot] == text
                owner[slot], slots[slot] = text, key
        num_again[text], total[text] = again, found


_MANY = 1 << 40


@compiled
def _num_eights_again(units: Units, seen: Keys) -> int:
    """At how many places begin eight units that stood before; by a bit of their hash, so rather too many than too few.
    Twenty units that stood before begin with such eight."""
    num_bits = 1 << 12
    while num_bits < 32 * len(units) and num_bits < 64 * len(seen):
        num_bits *= 2
    seen[: num_bits // 64] = 0
    low = np.uint64(num_bits - 1)
    again = 0
    fours, next_fours = np.uint64(0), np.uint64(0)
    for at in range(3):
        fours = fours >> _S16 | np.uint64(units[at]) << _S48
        next_fours = next_fours >> _S16 | np.uint64(units[at + 4]) << _S48
    ahead, further = units[3:], units[7:]
    for at in range(len(further)):
        fours = fours >> _S16 | np.uint64(ahead[at]) << _S48
        next_fours = next_fours >> _S16 | np.uint64(further[at]) << _S48
        mixed = fours * _ODD + next_fours * _FACTOR
        bit = mixed >> _S32 & low
        word = seen[bit >> _S6]
        again += word >> (bit & _LOW6) & _ONE
        seen[bit >> _S6] = word | _ONE << (bit & _LOW6)
    return int(again)


@compiled
def _threes(units: Units, keys: Keys) -> None:
    """The three units from each place on."""
    for at in range(len(units) - 2):
        keys[at] = np.uint64(units[at]) | np.uint64(units[at + 1]) << _S16 | np.uint64(units[at + 2]) << _S32


@compiled
def find_pieces(
    units: Units, gram: int, factor: np.uint64, maybe: npt.NDArray[np.uint8], shift: np.uint64, keys: Keys,
    found: Places, which: Places,
) -> int:  # fmt: skip
    """Where the `gram` units from a place on are one of `keys` (`contaminated._keys`), and which; returns how many.
    `maybe` has two bits for each key: of its upper bits, those above `shift`, and of those that follow."""
    if len(units) < gram:
        return 0
    num = 0
    key, gone = np.uint64(0), np.uint64(1)  # `gone`: what the unit weighs that is left behind
    for at in range(gram):
        key = key * factor + np.uint64(units[at])
        gone *= factor
    coming = units[gram:]
    for at in range(len(coming) + 1):
        mixed = key * _ODD
        bit = mixed >> shift
        other = mixed << _S20 >> shift
        if maybe[bit >> _S3] >> np.uint8(bit & _SEVEN) & 1 and maybe[other >> _S3] >> np.uint8(other & _SEVEN) & 1:
            place = np.searchsorted(keys, mixed)
            if place < len(keys) and keys[place] == mixed:
                found[num], which[num] = at, place
                num += 1
        if at < len(coming):
            key = key * factor + (np.uint64(coming[at]) - gone * np.uint64(units[at]))
    return num


@compiled
def is_inside(
    units: Units, places: Places, back: int, gram: int, factor: np.uint64, maybe: npt.NDArray[np.uint8],
    shift: np.uint64, keys: Keys,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Whether one of the `gram` units that begin up to `back` before each place is one of `keys`."""
    inside = np.zeros(len(places), np.bool_)
    for number in range(len(places)):
        first = max(0, places[number] - back)
        inside[number] = _num_pieces(units[first : places[number] + gram], gram, factor, maybe, shift, keys, 1) > 0
    return inside


@compiled
def is_near(
    units: Units, places: Places, least: Places, reach: Places, gram: int, factor: np.uint64,
    maybe: npt.NDArray[np.uint8], shift: np.uint64, keys: Keys,
) -> npt.NDArray[np.bool_]:  # fmt: skip
    """Whether at least so many pieces begin up to its `reach` before or behind each place."""
    near = np.zeros(len(places), np.bool_)
    for number in range(len(places)):
        far = reach[number]
        own = units[max(0, places[number] - far) : places[number] + far + gram]
        near[number] = _num_pieces(own, gram, factor, maybe, shift, keys, least[number]) >= least[number]
    return near


@compiled
def _num_pieces(
    units: Units, gram: int, factor: np.uint64, maybe: npt.NDArray[np.uint8], shift: np.uint64, keys: Keys, most: int
) -> int:  # fmt: skip
    """At how many places the `gram` units are one of `keys`; no further than `most`."""
    if len(units) < gram:
        return 0
    num = 0
    key, gone = np.uint64(0), np.uint64(1)
    for at in range(gram):
        key = key * factor + np.uint64(units[at])
        gone *= factor
    coming = units[gram:]
    for at in range(len(coming) + 1):
        mixed = key * _ODD
        num += _is_piece(mixed, maybe, shift, keys)
        if num == most:
            return num
        if at < len(coming):
            key = key * factor + (np.uint64(coming[at]) - gone * np.uint64(units[at]))
    return num


@compiled
def _is_piece(mixed: np.uint64, maybe: npt.NDArray[np.uint8], shift: np.uint64, keys: Keys) -> bool:
    bit = mixed >> shift
    other = mixed << _S20 >> shift
    if maybe[bit >> _S3] >> np.uint8(bit & _SEVEN) & 1 and maybe[other >> _S3] >> np.uint8(other & _SEVEN) & 1:
        return _holds(keys, mixed)
    return False
