"""MinHash of many texts at once, and its bands: who shares one band with whom is worth a closer look.

Broder, "On the resemblance and containment of documents", 1997; banding after Indyk and Motwani, 1998. A text's set is
its n-grams of folded characters (UTF-16 units), so text without spaces is nothing special. Plain numpy, in blocks that
stay in the cache: one multiplication of all gram hashes per permutation and one minimum per text. `loops_sign.py` does
the same in a third of the time where numba is; digests are equal everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.data.twins.columns import NUM_BANDS, NUM_PERMUTATIONS
from danlu.data.twins.draws import FACTORS, MIXERS, ODD, OTHER, ROWS
from danlu.data.twins.folding import Places, Units
from danlu.data.twins.loops_sign import sign_texts

Hashes = npt.NDArray[np.uint32]
_BLOCK = 1 << 16
"""Gram hashes worked on at once: two such arrays of 4 bytes stay in a core's cache."""
SHORT_GRAM, LONG_GRAM = 3, 5
NUM_VALUES = NUM_BANDS * ROWS


@dataclass(frozen=True, slots=True)
class Spans:
    """Texts to sign: text i is `units[start[i] : start[i] + length[i]]`, of at least one unit. `head[i]` > 0 asks for a
    second signature, of its first `head[i]` units: at least a gram, and not all of the text."""

    start: Places
    length: Places
    head: Places


class Signed(NamedTuple):
    """Of each text its band keys (texts, bands), and one bit of each value (texts, 2): two texts agree in about
    (1 + J) / 2 of their bits (Li and Koenig, "b-Bit Minwise Hashing", 2010)."""

    bands: Hashes
    sketch: npt.NDArray[np.uint64]


def sign(units: Units, spans: Spans, gram: int, *, quick: bool = False) -> tuple[Signed, Signed]:
    """The signatures of the whole texts, and of the heads of those that have one, in their order. `quick`: by compiled
    loops, which give the same."""
    found = [Signed(np.empty((num, NUM_BANDS), np.uint32), np.empty((num, 2), np.uint64))
             for num in (len(spans.start), int((spans.head > 0).sum()))]  # fmt: skip
    whole, heads = found
    if quick:
        sign_texts(units, spans.start, spans.length, spans.head, gram, *whole, *heads)
        return whole, heads
    num_heads = 0
    for first, last in _blocks(spans.length):
        start, length, head = spans.start[first:last], spans.length[first:last], spans.head[first:last]
        mins, head_mins = _minima(_gathered(units, start, length), length, head, gram)
        own = slice(num_heads, num_heads + head_mins.shape[1])
        whole.bands[first:last], whole.sketch[first:last] = _bands(mins), _sketch(mins)
        heads.bands[own], heads.sketch[own] = _bands(head_mins), _sketch(head_mins)
        num_heads = own.stop
    return whole, heads


def agreement(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """In how many of the bits each pair of sketches agrees."""
    differing = one ^ other
    if hasattr(np, "bitwise_count"):  # numpy 2
        num = np.bitwise_count(differing[:, 0]).astype(np.int64) + np.bitwise_count(differing[:, 1])
    else:
        octets = np.ascontiguousarray(differing).view(np.uint8).reshape(-1, NUM_PERMUTATIONS // 8)
        num = _ONES[octets].sum(axis=1, dtype=np.int64)
    agreed: npt.NDArray[np.int64] = NUM_VALUES - num
    return agreed


def least_agreement(threshold: float) -> int:
    """Bits in which texts of that similarity agree, but for three pairs in a million."""
    num, ratio = NUM_VALUES, (1 + threshold) / 2
    return int(num * ratio - 4.5 * (num * ratio * (1 - ratio)) ** 0.5)


def _blocks(lengths: Places) -> Iterator[tuple[int, int]]:
    """Runs of texts of about `_BLOCK` units together."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _BLOCK, "right")))
        yield first, last
        first = last


def _gathered(units: Units, start: Places, length: Places) -> Units:
    """The texts end to end; a view where they lie so already."""
    if (start[1:] == start[:-1] + length[:-1]).all():
        return units[start[0] : start[-1] + length[-1]]
    return np.concatenate([units[at : at + size] for at, size in zip(start.tolist(), length.tolist(), strict=True)])


def gram_keys(units: Units, gram: int) -> npt.NDArray[np.uint64]:
    """A number for the gram that begins at each unit but the last `gram - 1`: 3-grams as they are, 48 bits, so that no
    two are the same; 5-grams mixed into 64 bits."""
    wide = units.astype(np.uint64)
    keys: npt.NDArray[np.uint64] = wide[:-2] | wide[1:-1] << np.uint64(16) | wide[2:] << np.uint64(32)
    if gram == SHORT_GRAM:
        return keys
    keys = keys[:-2] * ODD
    keys ^= keys >> np.uint64(29)
    keys += (wide[3:-1] | wide[4:] << np.uint64(16)) * OTHER
    keys ^= keys >> np.uint64(32)
    return keys * ODD


def long_keys(units: Units, gram: int) -> npt.NDArray[np.uint64]:
    """A hash of the `gram` units, four at least, from each place on; none where there are fewer. Pieces that reach from
    one text into the next are of none, and match one by a chance of none."""
    num = len(units) - gram + 1
    if num <= 0:
        return np.zeros(0, np.uint64)
    three = gram_keys(units, SHORT_GRAM)
    keys = three[:num] * ODD
    for at in [*range(3, gram - 2, 3), gram - 3]:
        keys ^= keys >> np.uint64(31)
        keys += three[at : at + num]
        keys *= ODD
    return keys


def _hashes(units: Units, length: Places, gram: int) -> Hashes:
    """A 32-bit hash for each unit's gram. Where a text is too near its end for a gram, its last gram again: the set of
    its grams is the same. A text shorter than a gram is one gram of its own."""
    padded = np.concatenate([units, np.zeros(gram - 1, np.uint16)])
    hashes = _mixed(gram_keys(padded, gram))
    ends = np.cumsum(length)
    whole = length >= gram
    for back in range(1, gram):
        hashes[ends[whole] - back] = hashes[ends[whole] - gram]
    short = np.flatnonzero(~whole)
    owns = [slice(ends[index] - length[index], ends[index]) for index in short.tolist()]
    numbers = [int.from_bytes(units[own].tobytes(), "little") for own in owns]  # at most four units, so 64 bits
    for own, value in zip(owns, _mixed(np.array(numbers, np.uint64)).tolist(), strict=True):
        hashes[own] = value
    return hashes


def _mixed(keys: npt.NDArray[np.uint64]) -> Hashes:
    keys = keys * ODD
    keys ^= keys >> np.uint64(31)
    return (keys * OTHER >> np.uint64(32)).astype(np.uint32)


def _minima(units: Units, length: Places, head: Places, gram: int) -> tuple[Hashes, Hashes]:
    """(permutations, texts) and (permutations, heads): the least value of each permutation over the text's grams."""
    hashes = _hashes(units, length, gram)
    begins = np.cumsum(length) - length
    has_head = head > 0
    behind = (begins + head)[has_head] - (gram - 1)  # where the grams begin that the head does not hold
    places = np.sort(np.concatenate([begins, behind]))
    at, at_behind = np.searchsorted(places, begins), np.searchsorted(places, behind)
    values, pieces = np.empty_like(hashes), np.empty((len(FACTORS), len(places)), np.uint32)
    for number, factor in enumerate(FACTORS):
        np.multiply(hashes, factor, out=values)
        np.minimum.reduceat(values, places, out=pieces[number])
    if not len(behind):
        return pieces, pieces[:, :0]
    mins = pieces[:, at]
    head_mins = mins[:, has_head]
    mins[:, has_head] = np.minimum(head_mins, pieces[:, at_behind])
    return mins, head_mins


def _bands(mins: Hashes) -> Hashes:
    """Five values make one 32-bit key; two different bands that share a key only cost a look."""
    wide = mins.astype(np.uint64).reshape(NUM_BANDS, ROWS, -1)
    keys = (wide * MIXERS[None, :, None]).sum(axis=1, dtype=np.uint64)
    keys ^= keys >> np.uint64(29)
    bands: Hashes = (keys * ODD >> np.uint64(32)).astype(np.uint32).T
    return bands


def _sketch(mins: Hashes) -> npt.NDArray[np.uint64]:
    bits = np.zeros((NUM_PERMUTATIONS, mins.shape[1]), np.uint8)
    bits[: len(mins)] = (mins >> np.uint32(5)) & np.uint32(1)
    packed = np.ascontiguousarray(np.packbits(bits, axis=0).T)
    sketch: npt.NDArray[np.uint64] = packed.view("<u8").astype(np.uint64)
    return sketch


def distinct(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Sorted, each once; by one sort, which is quicker than numpy's `unique` by hashing."""
    ordered = np.sort(keys)
    is_first = np.concatenate([np.ones(min(1, len(keys)), bool), ordered[1:] != ordered[:-1]])
    found: npt.NDArray[np.uint64] = ordered[is_first]
    return found


_ONES = np.array([value.bit_count() for value in range(256)], np.uint8)
