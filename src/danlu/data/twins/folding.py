"""Fold: what two copies of one text share. `fold` for likeness, `fold_finely` for rows of which only one is kept.

The two functions say what folding is. `fold_all` gives the same for many texts at once: a table over UTF-16 units
instead of Unicode normalisation text by text, which is what costs most in Chinese (full-width marks never take the
quick way). Texts with anything that a table of single units cannot fold (ligatures, combining marks, characters
beyond U+FFFF) go through the functions.

Traditional and simplified Chinese are one text, by a table of single characters that ships with danlu
(`simplified.txt`): no package decides what a digest is. Pairs with a character beyond U+FFFF are not in it, and words
that differ by region (軟體, 软件) stay two.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.twins.loops_fold import fold_texts

Units = npt.NDArray[np.uint16]
Places = npt.NDArray[np.int64]

_MARKS = re.compile(r"[\W_]+")
_MEANT = re.compile(r"(?P<between>(?<=\d)[\W_]+(?=\d))|(?<=[a-z0-9])[+#%]{1,2}|(?<![^\W_])[-+](?=\d)")
"""Marks that are no mere punctuation: whatever parts two numbers (3.5 is not 35), c++, 5%, -5."""
_WORD, _DECIMAL, _ALNUM, _SUFFIX, _SIGN, _MANY = 1, 2, 4, 8, 16, 128
_BREAK = 10
_SOME = 1500
"""Texts folded at once: their units stay in the cache."""


def plain_of(text: str) -> str:
    """Compatibility forms, case and traditional characters gone; marks and spaces stay."""
    return unicodedata.normalize("NFKC", text).casefold().translate(simplified())


@functools.cache
def simplified() -> dict[int, int]:
    """The character that stands for each traditional one and variant; never one that is itself folded."""
    lines = (resources.files("danlu.data.twins") / "simplified.txt").read_text(encoding="utf-8").splitlines()
    return {ord(char): ord(line[0]) for line in lines if not line.startswith("#") for char in line[1:]}


def fold(text: str) -> str:
    """Case, width, script, punctuation and spaces gone: what two copies share. Pure punctuation stays as it is.

    Coarse on purpose: what is tied by mistake is merely kept on one side.
    """
    plain = plain_of(text)
    return _MARKS.sub("", plain) or plain.strip()


def fold_finely(text: str) -> str:
    """`fold`, but marks that make another number or name stay: for rows of which only one is to be kept."""
    plain = plain_of(text)
    parts, last = [], 0
    for found in _MEANT.finditer(plain):
        parts += [_MARKS.sub("", plain[last : found.start()]), "." if found["between"] else found[0]]
        last = found.end()
    return "".join([*parts, _MARKS.sub("", plain[last:])]) or plain.strip()


@dataclass(frozen=True, slots=True)
class Folded:
    """Text i is `coarse[coarse_at[i] : coarse_at[i + 1]]`, of marks alone empty here; and
    `fine[fine_at[i] : fine_at[i + 1]]`, a line break at its end."""

    coarse: Units
    coarse_at: Places
    fine: Units
    fine_at: Places


def fold_all(texts: Sequence[str], *, quick: bool = False) -> Folded:
    """`fold` and `fold_finely` of every text, as UTF-16 units. `quick`: by a compiled loop, which gives the same."""
    fold_some = _fold_some_quickly if quick else _fold_some
    some = [texts[at : at + _SOME] for at in range(0, len(texts), _SOME)]
    return gathered([(fold_some(own), 0, len(own)) for own in some])


def fold_pairs(texts: Sequence[str], units: Units, ends: Places) -> Folded:
    """`fold_all` of rows of three pieces, the second of which is empty. `texts` are the first and the third of each in
    turn, and lie in `units`, each closed by a line break, which stands at `ends`. By the compiled loop."""
    pieces = [piece for at in range(0, len(texts), 2) for piece in (texts[at], "", texts[at + 1])]
    # a piece that ends where the one before it does is empty and has no break of its own
    return _folded_quickly(pieces, units, np.repeat(ends.reshape(-1, 2), (2, 1), axis=1).ravel())


def _fold_some_quickly(texts: Sequence[str]) -> Folded:
    return _folded_quickly(texts, *_units_of(texts))


def _folded_quickly(texts: Sequence[str], units: Units, ends: Places) -> Folded:
    points, kinds = points_beyond(units)
    coarse, fine = np.empty(len(units), np.uint16), np.empty(len(units) + len(ends), np.uint16)
    coarse_at, fine_at = np.zeros(len(texts) + 1, np.int64), np.zeros(len(texts) + 1, np.int64)
    is_hard = np.zeros(len(texts), bool)
    fold_texts(units, ends, joint_table(), points, kinds, coarse, coarse_at, fine, fine_at, is_hard)
    bare = np.flatnonzero((np.diff(coarse_at) == 0) & (np.diff(ends, prepend=-1) > 1) & ~is_hard).tolist()
    folded = Folded(coarse[: coarse_at[-1]], coarse_at, fine[: fine_at[-1]], fine_at)
    return _mended(texts, folded, np.flatnonzero(is_hard).tolist(), bare)


Some = tuple[Folded, int, int]
"""Texts of some folds: those from the first number to before the second."""


def gathered(parts: Sequence[Some]) -> Folded:
    """Texts of several folds, one part after the other."""
    return Folded(
        *_gathered([(one.coarse, one.coarse_at[first : last + 1]) for one, first, last in parts]),
        *_gathered([(one.fine, one.fine_at[first : last + 1]) for one, first, last in parts]),
    )


def _gathered(parts: Sequence[tuple[Units, Places]]) -> tuple[Units, Places]:
    flat = np.concatenate([np.zeros(0, np.uint16), *(units[at[0] : at[-1]] for units, at in parts)])
    return flat, _bounds(np.cumsum(np.concatenate([np.zeros(0, np.int64), *(np.diff(at) for _, at in parts)])))


def points_beyond(units: Units) -> tuple[Places, npt.NDArray[np.uint8]]:
    """The characters beyond U+FFFF that occur, sorted, and their kinds."""
    first = _first_of_pairs(units)
    points = np.unique(_points(units, first))
    return points, np.array([_kind_beyond(chr(point)) for point in points.tolist()], np.uint8)


def _points(units: Units, first: Places) -> Places:
    points: Places = 0x10000 + ((units[first].astype(np.int64) & 0x3FF) << 10) + (units[first + 1] & 0x3FF)
    return points


@functools.cache
def joint_table() -> npt.NDArray[np.int32]:
    """For each UTF-16 unit what it folds to, its kind 16 bits higher: what the compiled loops look up."""
    folds, kinds = _tables()
    return folds.astype(np.int32) | kinds.astype(np.int32) << np.int32(16)


def _fold_some(texts: Sequence[str]) -> Folded:
    units, ends = _units_of(texts)
    folded, kind, hard = _looked_up(units, ends)
    is_word = (kind & _WORD).astype(bool)
    words = np.flatnonzero(is_word)
    coarse, coarse_at = folded[words], _bounds(np.searchsorted(words, ends))
    # texts of marks alone are told apart by the marks themselves
    bare = np.flatnonzero((np.diff(coarse_at) == 0) & (np.diff(ends, prepend=-1) > 1)).tolist()
    is_fine = _fine(kind, is_word, words, folded, ends)
    places = np.flatnonzero(is_fine)
    fine, fine_at = folded[places], _bounds(np.searchsorted(places, ends, "right"))
    return _mended(texts, Folded(coarse, coarse_at, fine, fine_at), hard, bare)


def _mended(texts: Sequence[str], folded: Folded, hard: Sequence[int], bare: Sequence[int]) -> Folded:
    """With the folds of texts that the table does not do, and the fine ones of marks alone."""
    coarse, coarse_at, fine, fine_at = folded.coarse, folded.coarse_at, folded.fine, folded.fine_at
    if hard:
        coarse, coarse_at = spliced(coarse, coarse_at, hard, [encode(words_of(texts[index])) for index in hard])
    if special := sorted({*hard, *bare}):
        fine, fine_at = spliced(fine, fine_at, special, [encode(fold_finely(texts[at]) + "\n") for at in special])
    return Folded(coarse, coarse_at, fine, fine_at)


def fold_words(texts: Sequence[str]) -> tuple[Units, Places]:
    """The coarse folds alone, end to end, each closed by a line break; and their bounds."""
    units, ends = _units_of(texts)
    folded, kind, hard = _looked_up(units, ends)
    keep = (kind & _WORD).astype(bool)
    keep[ends] = True
    folded[ends] = _BREAK
    places = np.flatnonzero(keep)
    flat, at = folded[places], _bounds(np.searchsorted(places, ends, "right"))
    if hard:
        flat, at = spliced(flat, at, hard, [encode(words_of(texts[index]) + "\n") for index in hard])
    return flat, at


def _looked_up(units: Units, ends: Places) -> tuple[Units, npt.NDArray[np.uint8], list[int]]:
    """What each unit folds to, its kind, and the texts that the table does not do."""
    folds, kinds = _tables()
    kind, folded = kinds[units], folds[units]
    places = np.flatnonzero(kind & _MANY)
    if not len(places):
        return folded, kind, []
    first, second = places[:-1], places[1:]
    is_pair = (second == first + 1) & (units[first] >> 10 == 0x36) & (units[second] >> 10 == 0x37)
    first = first[is_pair]
    distinct, which = np.unique(_points(units, first), return_inverse=True)  # emoji and rare Han: few different ones
    known = np.array([_kind_beyond(chr(point)) for point in distinct.tolist()], np.uint8)[which]
    for at in (first, first + 1):
        kind[at], folded[at] = known, units[at]
    hard = np.unique(np.searchsorted(ends, np.flatnonzero(kind & _MANY), "right")).tolist()
    return folded, kind, hard


@functools.lru_cache(4096)
def _kind_beyond(char: str) -> int:
    """Of a character beyond U+FFFF: a word, a mark, or nothing that folds to itself."""
    if unicodedata.normalize("NFKC", char).casefold() != char or unicodedata.combining(char) or char.isdecimal():
        return _MANY
    return _WORD * char.isalnum()


def encode(text: str) -> Units:
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), np.uint16)


def words_of(text: str) -> str:
    """The coarse fold; empty for a text of marks alone."""
    return _MARKS.sub("", plain_of(text))


def _units_of(texts: Sequence[str]) -> tuple[Units, Places]:
    """All texts, each closed by a line break, and where those breaks stand."""
    # some at a time: one character beyond U+FFFF makes Python hold all letters around it in twice the bytes
    some = ("\n".join([*texts[at : at + _SOME], ""]) for at in range(0, len(texts), _SOME))
    flat = np.frombuffer(b"".join([text.encode("utf-16-le", "surrogatepass") for text in some]), np.uint16)
    ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1) - 1
    num_beyond = len(flat) - (int(ends[-1]) + 1 if len(texts) else 0)
    if num_beyond:
        first = _first_of_pairs(flat)
        if len(first) == num_beyond:  # each is one character: where it stands among characters, and how many before
            ends += np.searchsorted(first - np.arange(num_beyond), ends)
        else:  # halves of pairs beside each other, which no well-formed text has
            ends = np.cumsum([len(encode(text)) + 1 for text in texts]) - 1
    return flat, ends


def _first_of_pairs(units: Units) -> Places:
    """Where characters beyond U+FFFF begin; the last unit is a line break."""
    first = np.flatnonzero(units >> 10 == 0x36)
    pairs: Places = first[units[first + 1] >> 10 == 0x37]
    return pairs


def _fine(
    kind: npt.NDArray[np.uint8], is_word: npt.NDArray[np.bool_], words: Places, folded: Units, ends: Places
) -> npt.NDArray[np.bool_]:
    """Which units the fine fold keeps; a stop is written into `folded` where marks part two numbers."""
    keep = is_word.copy()
    marks = np.flatnonzero(kind & (_SUFFIX | _SIGN))
    if len(marks):
        last = len(kind) - 1  # a line break; also what stands before the first unit
        before, before_that, after = kind[marks - 1], kind[marks - 2], kind[np.minimum(marks + 1, last)]
        before_that[marks < 2] = 0
        suffix = (kind[marks] & _SUFFIX != 0) & (
            (before & _ALNUM != 0) | ((before & _SUFFIX != 0) & (before_that & _ALNUM != 0))
        )
        sign = (kind[marks] & _SIGN != 0) & (before & _WORD == 0) & (after & _DECIMAL != 0)
        keep[marks[suffix | sign]] = True
    numbers = np.flatnonzero(kind & _DECIMAL)
    gaps = np.flatnonzero(np.diff(numbers) > 1)
    if len(gaps):
        left, right = numbers[gaps], numbers[gaps + 1]
        parted = np.searchsorted(words, right) == np.searchsorted(words, left) + 1
        parted &= np.searchsorted(ends, left) == np.searchsorted(ends, right)
        left, right = left[parted], right[parted]
        lengths = right - left - 1
        inside = np.repeat(left + 1 - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())
        keep[inside] = False
        keep[left + 1] = True
        folded[left + 1] = ord(".")
    keep[ends] = True
    folded[ends] = _BREAK
    return keep


def _bounds(ends: npt.NDArray[Any]) -> Places:
    return np.concatenate([[0], ends]).astype(np.int64)


def spliced(flat: Units, bounds: Places, at: Sequence[int], texts: Sequence[Units]) -> tuple[Units, Places]:
    """`flat` with the texts at these places replaced."""
    lengths, pieces, last = np.diff(bounds), [], 0
    for index, text in zip(at, texts, strict=True):
        pieces += [flat[last : bounds[index]], text]
        last = bounds[index + 1]
        lengths[index] = len(text)
    return np.concatenate([*pieces, flat[last:]]), _bounds(np.cumsum(lengths))


@functools.cache
def _tables() -> tuple[Units, npt.NDArray[np.uint8]]:
    """For each UTF-16 unit what it folds to, and what it is (bits above)."""
    folds, kinds = np.full(65536, ord("."), np.uint16), np.zeros(65536, np.uint8)
    odd = joining_characters() | {char for char in map(chr, range(0x20000)) if unicodedata.combining(char)}
    # all at once: nothing melts into a line break, and of single characters only the break itself has one
    units = [*range(_BREAK), *range(_BREAK + 1, 0xD800), *range(0xE000, 65536)]
    for unit, plain in zip(units, plain_of("\n".join(map(chr, units))).split("\n"), strict=True):
        if len(plain) == 1 and ord(plain) < 65536 and plain not in odd:
            if kind := _kind(plain):
                kinds[unit], folds[unit] = kind, ord(plain)
        elif not plain or any(char.isalnum() or char in "+-#%" or char in odd for char in plain):
            kinds[unit] = _MANY  # "…" is three marks like any other
    kinds[0xD800:0xE000] = _MANY
    return folds, kinds


def _kind(char: str) -> int:
    if char.isalnum():
        return _WORD | _DECIMAL * char.isdecimal() | _ALNUM * char.isascii()
    return _SUFFIX * (char in "+#%") | _SIGN * (char in "+-")


@functools.cache
def joining_characters() -> frozenset[str]:
    """Characters that may melt into the one before them when a text is normalised."""
    parts = map(unicodedata.decomposition, map(chr, range(0x30000)))  # nothing beyond decomposes into two
    seconds = [found[1] for found in map(str.split, filter(None, parts)) if len(found) == 2 and found[0][0] != "<"]
    medials_and_finals = [*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]
    return frozenset(map(chr, [*medials_and_finals, *(int(code, 16) for code in seconds)]))
