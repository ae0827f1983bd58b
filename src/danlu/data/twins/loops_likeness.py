"""Pairs of texts compared by loops: the same as `likeness.py` does with numpy.

The grams of the first text of a pair go into a small table, those of the second are looked up in it. A slot counts for
one pair only, by its stamp, so nothing is ever cleared; what several pairs in a row have in common as their first text
is put into the table once.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.compiled import compiled
from danlu.data.twins.draws import ODD, OTHER

_S16, _S29, _S32 = (np.uint64(shift) for shift in (16, 29, 32))
_EVEN = np.uint64(2**64 - 2)
_ZERO, _NINE = 48, 57

Units = npt.NDArray[np.uint16]
Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@compiled
def _grams(units: Units, gram: int, keys: Words) -> Words:
    """A number for each gram of a text, as `minhash.gram_keys`, 63 bits of a long one. A text that is shorter than a
    gram is one, with zeros behind its end."""
    num = len(units) - gram + 1
    if num < 1:
        filled = np.zeros(5, np.uint16)
        filled[: len(units)] = units
        return _grams_of(filled, 1, gram, keys)
    return _grams_of(units, num, gram, keys)


@compiled
def _grams_of(units: Units, num: int, gram: int, keys: Words) -> Words:
    second, third = units[1:], units[2:]
    if gram == 3:
        for at in range(num):
            keys[at] = np.uint64(units[at]) | np.uint64(second[at]) << _S16 | np.uint64(third[at]) << _S32
        return keys[:num]
    fourth, fifth = units[3:], units[4:]
    for at in range(num):
        key = (np.uint64(units[at]) | np.uint64(second[at]) << _S16 | np.uint64(third[at]) << _S32) * ODD
        key ^= key >> _S29
        key += (np.uint64(fourth[at]) | np.uint64(fifth[at]) << _S16) * OTHER
        key ^= key >> _S32
        keys[at] = (key * ODD) & _EVEN
    return keys[:num]


@compiled
def _find(keys: Words, stamps: Places, key: np.uint64, one: int, other: int) -> np.int64:
    """The slot with the key, or the free one where it belongs; slots with another stamp than these two are free."""
    mask = np.uint64(len(keys) - 1)
    slot = np.int64((key * ODD >> _S32) & mask)
    while (stamps[slot] == one or stamps[slot] == other) and keys[slot] != key:
        slot = np.int64(np.uint64(slot + 1) & mask)
    return slot


@compiled
def count_grams(
    units: Units, start: Places, length: Places, left: Places, right: Places, gram: int,
    shared: Places, distinct: Places,
) -> None:  # fmt: skip
    """How many grams the texts `left` and `right` of each pair share, and how many they have together."""
    longest = 1
    for text in range(len(start)):
        longest = max(longest, length[text])
    size = 64
    while size < 4 * longest:
        size *= 2
    keys, stamps, met = np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(size, np.int64)
    grams = np.empty(longest, np.uint64)
    of_left = num_left = 0
    for pair in range(len(left)):
        if pair == 0 or left[pair] != left[pair - 1]:
            of_left, num_left = 2 * pair + 1, 0
            own = units[start[left[pair]] : start[left[pair]] + length[left[pair]]]
            for key in _grams(own, gram, grams):
                slot = _find(keys, stamps, key, of_left, of_left)
                if stamps[slot] != of_left:
                    stamps[slot], keys[slot] = of_left, key
                    num_left += 1
        of_right = 2 * pair + 2
        num_shared, num = 0, num_left
        own = units[start[right[pair]] : start[right[pair]] + length[right[pair]]]
        for key in _grams(own, gram, grams):
            slot = _find(keys, stamps, key, of_left, of_right)
            if stamps[slot] == of_left:
                if met[slot] != of_right:
                    met[slot] = of_right
                    num_shared += 1
            elif stamps[slot] != of_right:
                stamps[slot], keys[slot] = of_right, key
                num += 1
        shared[pair], distinct[pair] = num_shared, num


@compiled
def _is_digit(unit: int) -> bool:
    return _ZERO <= unit <= _NINE


@compiled
def _same(one: Units, other: Units, digits: bool) -> bool:
    """Are the digits of two texts, or all but the digits, the same?"""
    here = there = 0
    while True:
        while here < len(one) and _is_digit(one[here]) != digits:
            here += 1
        while there < len(other) and _is_digit(other[there]) != digits:
            there += 1
        if here == len(one) or there == len(other):
            return here == len(one) and there == len(other)
        if one[here] != other[there]:
            return False
        here += 1
        there += 1


@compiled
def find_forms(
    units: Units, start: Places, length: Places, left: Places, right: Places, is_form: npt.NDArray[np.bool_]
) -> None:
    """Which pairs differ in their digits, and in nothing else."""
    for pair in range(len(left)):
        one = units[start[left[pair]] : start[left[pair]] + length[left[pair]]]
        other = units[start[right[pair]] : start[right[pair]] + length[right[pair]]]
        is_form[pair] = _same(one, other, False) and not _same(one, other, True)
