"""Columns are made of a row as it was read; the text in them is exchanged for the masked one before they are stored.

Digests and band keys stay those of the original, so rows that differ only in what was masked are not taken for equal.
What similarity is verified on (`units`) is the text that privacy left: no letter of the original lies in a store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.identity import content_of
from danlu.data.sample import Conversation, Label, Sample
from danlu.data.twins.signatures import group_tie, signatures

Columns = Mapping[str, npt.NDArray[Any]]
SPANS = ("asked", "said")
"""Columns that say which part of a row's text is what."""


def without_originals(
    columns: Columns, original: Sequence[Sample], masked: Sequence[Sample | None], among: Iterable[int] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """The columns with the text of `masked`; rows that were dropped have none. `among`: the only rows in which a text
    may differ, in order; all by default."""
    rows = list(range(len(original)) if among is None else among)
    pairs = [(original[row], masked[row]) for row in rows]
    columns = {**columns, **_labels(columns, masked, pairs), **_ties(columns, pairs)}
    changed = [row for row, (before, after) in zip(rows, pairs, strict=True) if after is None or _differ(before, after)]
    if not changed:
        return dict(columns)
    alive = [(row, sample) for row in changed if (sample := masked[row]) is not None]
    fresh = signatures([sample for _, sample in alive])
    units, fresh_start = fresh["units"], fresh["start"].tolist()
    places = {row: slice(*fresh_start[at : at + 2]) for at, (row, _) in enumerate(alive)}
    lengths = np.diff(columns["start"])
    lengths[changed] = 0
    lengths[[row for row, _ in alive]] = np.diff(fresh["start"])
    parts, at = [], 0
    for row in changed:  # whole stretches between them stay as they are
        begin, end = columns["start"][row : row + 2].tolist()
        parts += [columns["units"][at:begin], units[places[row]] if row in places else units[:0]]
        at = end
    spans = {name: columns[name].copy() for name in SPANS}
    for name, column in spans.items():
        column[changed] = 0
        column[[row for row, _ in alive]] = fresh[name]
    return {
        **columns,
        "units": np.concatenate([*parts, columns["units"][at:]]),
        "start": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **spans,
    }


Pairs = Sequence[tuple[Sample, Sample | None]]


def _labels(columns: Columns, masked: Sequence[Sample | None], pairs: Pairs) -> dict[str, npt.NDArray[Any]]:
    """Labels as they are now; which rows have equal ones stays as it was."""
    if not any(isinstance(before, Label) for before, _ in pairs):
        return {}
    names = columns["label_names"].tolist()
    now = dict.fromkeys(names, "")
    for code, sample in zip(columns["label"].tolist(), masked, strict=True):
        if code >= 0 and isinstance(sample, Label):
            now[names[code]] = sample.label
    if all(name == label for name, label in now.items()):
        return {}
    return {"label_names": np.array(list(now.values()), dtype=f"<U{max(map(len, now.values()), default=1) or 1}")}


def _ties(columns: Columns, pairs: Pairs) -> dict[str, npt.NDArray[Any]]:
    """Ties of groups that held a value are made of the group as it is now: a short value can be guessed from a tie."""
    keys = columns["tie_key"]
    moved = {
        before.group: after.group
        for before, after in pairs
        if before.group is not None and after is not None and after.group is not None and after.group != before.group
    }
    if not moved:
        return {}
    fresh = keys.copy()
    for before, now in moved.items():
        fresh[keys == group_tie(before)] = group_tie(now)
    return {"tie_key": fresh}


def _differ(before: Sample, after: Sample) -> bool:
    """Rows that privacy left alone share their turns with what they were: mostly there is nothing to compare."""
    if (
        isinstance(before, Conversation)
        and isinstance(after, Conversation)
        and before.messages is after.messages
        and before.tools is after.tools
    ):
        return False
    return content_of(before) != content_of(after)
