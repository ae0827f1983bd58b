"""The columns that twins, conflicts and the split are decided on: made per shard, read over all shards.

Plain numpy arrays, no objects: they are stored, memory-mapped and sent between machines as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from danlu.data.sample import Kind

VERSION = 3
"""Of the columns' content; part of whoever's cache key."""
NUM_PERMUTATIONS = 128
NUM_BANDS = 25
"""Of five values each (three values stay unused): J = 0.7 is found with probability 0.99, 0.8 with 0.9999."""
GRAM_BORDER = 500
"""Two texts are compared by 3-grams when one of them is shorter, else by 5-grams: an edit breaks as many grams as a
gram is long, and common 3-grams make long texts alike."""
GRAM_OVERLAP = 715
"""500 / 0.7: up to here a text may be the near twin of one below the border, and is signed in both ways."""
TEXT, QUESTION = 0, 2
"""Views of a row: all of its text, or what it asks. Odd numbers are the same in grams for documents (view | 1)."""

KINDS: tuple[str, ...] = get_args(Kind)

Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]

LAYOUT: dict[str, tuple[str, str]] = {
    "exact": ("uint64", "N 2"),  # digest of everything that is said, finely folded: equal rows are exact twins
    "opening": ("uint64", "N"),  # digest of the question that a row opens with; 0: asks nothing
    "prompt": ("uint64", "N"),  # digest of all that comes before the answer; 0: asks nothing
    "answer": ("uint64", "N"),  # digest of the answer or label; 0: answers nothing
    "kind": ("uint8", "N"),  # of sample; twins of two kinds are kept together, and both of them
    "quality": ("float32", "N"),  # tags' score, less one for each flag: the best twin is kept
    "length": ("int32", "N"),  # characters of the sample
    "label": ("int32", "N"),  # index into label_names; -1: none
    "label_names": ("str", "L"),
    "tie_row": ("int32", "T"),  # rows (within the shard) and
    "tie_key": ("uint64", "T"),  # digests of what ties them: group, document, own id, ids of parents
    "units": ("uint16", "U"),  # folded text in UTF-16 units, the question's first
    "start": ("int64", "N+1"),  # bounds of the rows in units
    "asked": ("int32", "N"),  # how many of a row's units are its question, the first ones
    "said": ("int32", "N"),  # how many are its answer, the last ones
    "entry_row": ("int32", "M"),  # rows (within the shard) that have a signature,
    "entry_view": ("uint8", "M"),  # of which view,
    "bands": ("uint32", "M 25"),  # its band keys
    "sketch": ("uint64", "M 2"),  # and one bit of each of its values
}
"""Name: dtype and shape. N rows, M signatures (none of an empty text, two near the border of gram sizes)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`threshold` on all of a row's text: from here on two rows are near twins. `tie` on questions alone: from here on
    two rows are merely kept on one side of the split."""

    threshold: float = 0.7
    tie: float = 0.8


KEEP, EXACT, NEAR = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Conflict:
    """One question, several answers: `rows` of kept rows, one for each different answer, smallest first."""

    rows: tuple[int, ...]
    is_near: bool = False
    """The texts are nearly the same, not to the letter, and the answers are not."""


@dataclass(frozen=True, slots=True)
class Decision:
    """See the package's docstring."""

    verdict: npt.NDArray[np.uint8]
    twin: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]
    cluster: npt.NDArray[np.int64]
    conflicts: list[Conflict] = field(default_factory=list)
    largest: list[tuple[int, int]] = field(default_factory=list)
    """(row that is kept, number of its twins), the twenty largest."""
    counts: dict[str, int] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)


def num_rows(shards: Sequence[Columns]) -> int:
    return sum(len(shard["answer"]) for shard in shards)
