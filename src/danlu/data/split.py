"""Train, validation and test without leaks: whatever could give an answer away stays on one side.

Rows are tied into groups: clusters of twins (of text or question, near or exact, see `data/twins`), one document, one
stated group, a sample and those made from it. Whole groups are dealt out in an order that depends only on their
content and the seed, so rows added later leave earlier rows where they were, but for a few at the borders. The
certificate (`certificate.py`) recounts from the parts themselves that nothing is on two sides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.core.errors import DataError
from danlu.data.certificate import TEST, TRAIN, UNUSED, VALIDATION, certify, crossing
from danlu.data.sample import Sample
from danlu.data.twins import Columns, Decision, Settings, decide, fold, fold_finely, signatures
from danlu.data.twins import groups as tied

_MAX_DEALS = 5
THRESHOLD = 0.8
"""Jaccard similarity of character 3-grams from which texts are near-identical."""

__all__ = [
    "TEST",
    "THRESHOLD",
    "TRAIN",
    "UNUSED",
    "VALIDATION",
    "Dealt",
    "Split",
    "Ties",
    "fold",
    "fold_finely",
    "split",
    "split_columns",
]


@dataclass(frozen=True, slots=True)
class Split:
    """Every sample is in exactly one part, in the order given. `certificate` is plain JSON with a `digest`."""

    train: list[Sample]
    validation: list[Sample]
    test: list[Sample]
    certificate: dict[str, Any]


class Dealt(NamedTuple):
    """`part` is TRAIN, VALIDATION, TEST or UNUSED for each row."""

    part: npt.NDArray[np.uint8]
    certificate: dict[str, Any]


def split(
    samples: Iterable[Sample],
    test: float = 0.1,
    validation: float = 0.0,
    seed: int = 0,
    *,
    threshold: float = THRESHOLD,
    ids: Sequence[str] | None = None,
) -> Split:
    """`test` and `validation` are shares of the samples; `ids` theirs, where some name others as parents. DataError
    when nothing would be left to train on."""
    rows = list(samples)
    columns = signatures(rows, ids)
    decision = decide([columns], settings=Settings(threshold, threshold), link=bool(test or validation))
    part, certificate = split_columns(
        [columns], decision, test=test, validation=validation, seed=seed, name_of=lambda row: str(rows[row].origin)
    )
    chosen = [[rows[row] for row in np.flatnonzero(part == name)] for name in (TRAIN, VALIDATION, TEST)]
    return Split(chosen[0], chosen[1], chosen[2], certificate)


def split_columns(
    shards: Sequence[Columns],
    decision: Decision,
    *,
    kept: npt.NDArray[np.bool_] | None = None,
    test: float = 0.1,
    validation: float = 0.0,
    seed: int = 0,
    name_of: Callable[[int], str] = str,
) -> Dealt:
    """A part for each of the `kept` rows (all by default) and the certificate; `name_of` a row is where it was read.
    `test` and `validation` are shares of the kept rows. DataError when nothing would be left to train on."""
    if not (0 <= test < 1 and 0 <= validation < 1 and test + validation < 1):
        raise DataError("split.ratios", where="data.split", given=test + validation)
    num_rows = len(decision.verdict)
    is_in = np.ones(num_rows, bool) if kept is None else np.asarray(kept, bool)
    ties, labels, lots = _ties(shards, decision, num_rows), _Labels(shards), _lots(shards, seed)
    num_parts = 1 + (test > 0) + (validation > 0)
    for _ in range(_MAX_DEALS):
        groups = _Groups(ties.first, is_in, lots, labels)
        if is_in.any() and len(groups.size) < num_parts:
            raise DataError("split.too_few", where="data.split", given=len(groups.size), expected=num_parts)
        part = np.full(num_rows, UNUSED, np.uint8)
        part[groups.rows] = _deal(groups, test, validation)[groups.of]
        found = crossing(shards, part, decision.settings)
        held_out, train = found.too_close(decision)
        if not len(held_out):
            break
        ties.join(held_out, train)  # of a crowd that was not compared pair by pair: tied now, and dealt again
    facts = {"seed": seed, "ratios": {"test": test, "validation": validation}}
    certificate = certify(shards, decision, part, found, ties.first, labels.names, labels.of, facts, name_of)
    return Dealt(part, certificate)


def _ties(shards: Sequence[Columns], decision: Decision, num_rows: int) -> tied.Ties:
    """Clusters of twins, joined by what documents, groups, parents and ids tie."""
    ties = tied.Ties(num_rows)
    ties.join(np.arange(num_rows), decision.cluster)
    rows, keys, first = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)], 0
    for shard in shards:
        rows.append(np.asarray(shard["tie_row"]).astype(np.int64) + first)
        keys.append(np.asarray(shard["tie_key"]))
        first += len(shard["answer"])
    ties.join_equal(np.concatenate(keys), np.concatenate(rows))
    return ties


def _lots(shards: Sequence[Columns], seed: int) -> npt.NDArray[np.uint64]:
    """Each row's place in the draw: a hash of what it asks (of a document, of what it says) and the seed."""
    lots = [np.where(shard["prompt"] != 0, shard["prompt"], shard["exact"][:, 0]) for shard in shards]
    mixed = np.concatenate([np.zeros(0, np.uint64), *lots]).astype(np.uint64)
    mixed ^= np.uint64((seed * 0x9E3779B97F4A7C15 + 0x1F83D9ABFB41BD6B) % 2**64)
    for shift, odd in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ mixed >> np.uint64(shift)) * np.uint64(odd)
    return mixed ^ mixed >> np.uint64(31)


class _Labels:
    """Label names over all shards, sorted, "" first; `of` is each row's."""

    def __init__(self, shards: Sequence[Columns]) -> None:
        self.names = sorted({"", *(str(name) for shard in shards for name in shard["label_names"])})
        place = {name: number for number, name in enumerate(self.names)}
        parts = [np.zeros(0, np.int64)]
        for shard in shards:
            own = np.array([*(place[str(name)] for name in shard["label_names"]), 0], np.int64)
            parts.append(own[np.asarray(shard["label"])])  # -1, no label, is the last: ""
        self.of = np.concatenate(parts)


class _Groups:
    """Groups in the order of the draw: `size`, `stratum` (the label that most of a group have); `rows` taking part and
    the group that each is `of`."""

    def __init__(
        self,
        group: npt.NDArray[np.int64],
        is_in: npt.NDArray[np.bool_],
        lots: npt.NDArray[np.uint64],
        labels: _Labels,
    ) -> None:
        self.rows = np.flatnonzero(is_in)
        is_named = np.zeros(len(group), bool)  # groups are named by the smallest of their rows
        is_named[group[self.rows]] = True
        number = (np.cumsum(is_named) - 1)[group[self.rows]]
        num = int(is_named.sum())
        lot = np.full(num, np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(lot, number, lots[self.rows])  # the smallest: a member added rarely moves its group
        codes, count = np.unique(number * len(labels.names) + labels.of[self.rows], return_counts=True)
        owner, label = codes // len(labels.names), codes % len(labels.names)
        order = np.lexsort((label, -count, owner))
        stratum = np.zeros(num, np.int64)
        stratum[owner[order][::-1]] = label[order][::-1]  # the first of each owner is written last
        place = np.empty(num, np.int64)
        drawn = np.lexsort((np.arange(num), lot))
        place[drawn] = np.arange(num)
        self.of = place[number]
        self.size = np.bincount(number, minlength=num)[drawn]
        self.stratum = stratum[drawn]


def _deal(groups: _Groups, test: float, validation: float) -> npt.NDArray[np.uint8]:
    """A part for each group. Labels are dealt out one class after the other, so each part has its share of each."""
    part = np.full(len(groups.size), TRAIN, np.uint8)
    owed = {TEST: 0.0, VALIDATION: 0.0}
    for stratum in np.unique(groups.stratum).tolist():
        free = np.flatnonzero(groups.stratum == stratum)
        total = int(groups.size[free].sum())
        for name, ratio in ((TEST, test), (VALIDATION, validation)):
            owed[name] += ratio * total
        for name in (TEST, VALIDATION):
            taken = _taken(groups.size[free], round(owed[name]))
            owed[name] -= float(groups.size[free][taken].sum())
            part[free[taken]] = name
            free = free[~taken]
    return part


def _taken(size: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.bool_]:
    """In order, every group that still fits: one larger than what is owed is left for the next, so that test sets do
    not overshoot."""
    taken = np.zeros(len(size), bool)
    first = 0
    while room > 0 and first < len(size):
        fits = np.flatnonzero(size[first:] <= room)
        if not len(fits):
            break
        first += int(fits[0])
        total = np.cumsum(size[first:])
        num = int(np.searchsorted(total, room, "right"))
        taken[first : first + num] = True
        room -= int(total[num - 1])
        first += num
    return taken


class Ties:
    """Union-find over a few rows with keys of any kind."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def root(self, index: int) -> int:
        while self._parents[index] != index:
            self._parents[index] = self._parents[self._parents[index]]
            index = self._parents[index]
        return index

    def join(self, left: int, right: int) -> None:
        left, right = self.root(left), self.root(right)
        if left != right:
            self._parents[max(left, right)] = min(left, right)

    def join_equal(self, keys: Sequence[Hashable]) -> None:
        """Tie all that share a key; None is no key."""
        first: dict[Hashable, int] = {}
        for index, key in enumerate(keys):
            if key is not None:
                self.join(first.setdefault(key, index), index)

    def groups(self) -> list[list[int]]:
        members: dict[int, list[int]] = defaultdict(list)
        for index in range(len(self._parents)):
            members[self.root(index)].append(index)
        return list(members.values())
