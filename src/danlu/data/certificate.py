"""The certificate of a split: recounted from the parts, not from the groups that made them.

Plain JSON. All `*_across` are to be 0; `max_similarity` is the nearest that a held-out row comes to a training row;
`answers_in_train` tells how many held-out answers stand for more than half in the training text. Version 3 counts only
grams that stand in one training row; before, those across two rows counted too, and hung on the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from danlu.core.files import sha256_json
from danlu.data.twins.columns import Columns, Decision, Settings
from danlu.data.twins.groups import in_order
from danlu.data.twins.likeness import Texts
from danlu.data.twins.overlap import Across, across, answers_in

VERSION = 3
TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 255
_NAMES = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
_HALF = 0.5
_NUM_NAMED = 20

Parts = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.int64]


class Crossing(NamedTuple):
    """Rows held out that share a band with training rows, by text and by question: what crosses the border."""

    texts: Across
    questions: Across

    def too_close(self, decision: Decision) -> tuple[Rows, Rows]:
        """(held out, train) of the pairs that should be on one side."""
        is_near = (self.texts.ratio >= decision.settings.threshold) & ~self.texts.is_form
        is_asked = (self.questions.ratio >= decision.settings.tie) & ~self.questions.is_form
        return (
            np.concatenate([self.texts.held_out[is_near], self.questions.held_out[is_asked]]),
            np.concatenate([self.texts.train[is_near], self.questions.train[is_asked]]),
        )


def crossing(shards: Sequence[Columns], part: Parts, settings: Settings) -> Crossing:
    """Sought through the bands and verified, without a look at what the parts were made of."""
    texts = Texts(shards)
    held_out, train = (part == VALIDATION) | (part == TEST), part == TRAIN
    asked = across(shards, texts, held_out, train, settings.tie, question=True)
    return Crossing(across(shards, texts, held_out, train, settings.threshold), asked)


def certify(
    shards: Sequence[Columns],
    decision: Decision,
    part: Parts,
    found: Crossing,
    group: npt.NDArray[np.int64],
    label_names: Sequence[str],
    label: npt.NDArray[np.int64],
    facts: Mapping[str, Any],
    name_of: Callable[[int], str],
) -> dict[str, Any]:
    """`found` is the parts' `crossing`; `group` and `label` are each row's; `facts` what the caller adds; `name_of` a
    row is where it was read."""
    texts = Texts(shards)
    used = part != UNUSED
    held_out, train = (part == VALIDATION) | (part == TEST), part == TRAIN
    exact = _column(shards, "exact").reshape(-1, 2)
    sizes = np.bincount(group[used])
    sizes = sizes[sizes > 0]
    told = {
        "version": VERSION,
        "threshold": decision.settings.threshold,
        "tie": decision.settings.tie,
        "samples": int(used.sum()),
        "groups": len(sizes),
        "largest_group": int(sizes.max()) if len(sizes) else 0,
        "parts": {name: _part(part == code, group, exact, label_names, label) for name, code in _NAMES.items()},
        "twins_across": _across(_texts_key(shards, exact), part),
        "near_twins_across": len(found.too_close(decision)[0]),
        "forms_across": int(found.texts.is_form.sum() + found.questions.is_form.sum()),
        "questions_across": _across(_column(shards, "opening"), part),
        "documents_across": _across(*_ties(shards, part)),
        "max_similarity": _nearest(found, int(held_out.sum()), name_of),
        "answers_in_train": _answers(shards, texts, held_out, train, name_of),
        "crowded_grams": decision.counts.get("crowded", 0),
    }
    certificate = {**facts, **told}
    return certificate | {"digest": sha256_json(certificate)}


def _part(
    is_in: npt.NDArray[np.bool_],
    group: npt.NDArray[np.int64],
    exact: npt.NDArray[np.uint64],
    label_names: Sequence[str],
    label: npt.NDArray[np.int64],
) -> dict[str, Any]:
    codes, counts = np.unique(label[is_in], return_counts=True)
    labels = {label_names[code]: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True) if code}
    own = exact[is_in]
    ordered = own[in_order(own[:, 0])]
    is_tied = (ordered[1:, 0] == ordered[:-1, 0]) & (ordered[1:, 1] != ordered[:-1, 1])
    own = own[np.lexsort((own[:, 1], own[:, 0]))] if is_tied.any() else ordered
    digest = hashlib.sha256(own.astype("<u8").tobytes()).hexdigest()
    return {"samples": len(own), "groups": _num_different(group[is_in]), "labels": labels, "digest": digest}


def _num_different(group: npt.NDArray[np.int64]) -> int:
    """Of groups named by the number of a row."""
    return int(np.count_nonzero(np.bincount(group))) if len(group) else 0


def _column(shards: Sequence[Columns], name: str) -> npt.NDArray[np.uint64]:
    return np.concatenate([np.zeros(0, np.uint64), *(np.asarray(shard[name]).ravel() for shard in shards)])


def _texts_key(shards: Sequence[Columns], exact: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A key of each row's folded text: equal texts have equal bands and lengths; of marks alone, the row's digest."""
    keys = exact[:, 0].copy()
    first = 0
    for shard in shards:
        is_text = np.asarray(shard["entry_view"]) < 2
        row = np.asarray(shard["entry_row"])[is_text]
        mixed = np.diff(shard["start"])[row].astype(np.uint64)
        for band in np.ascontiguousarray(np.asarray(shard["bands"])[is_text].T):
            mixed ^= band
            mixed *= np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
        keys[row.astype(np.int64) + first] = mixed  # of two ways of signing the same one, the later, for all alike
        first += len(shard["answer"])
    return keys


def _across(keys: npt.NDArray[np.uint64], part: Parts) -> int:
    """How many keys are found in more than one part; 0 is no key."""
    wanted = (keys != 0) & (part != UNUSED)
    keys, part = keys[wanted], part[wanted]
    order = in_order(keys)
    keys, part = keys[order], part[order]
    differs = (keys[1:] == keys[:-1]) & (part[1:] != part[:-1])  # somewhere among equal keys, if they are in two parts
    return len(np.unique(keys[1:][differs]))


def _ties(shards: Sequence[Columns], part: Parts) -> tuple[npt.NDArray[np.uint64], Parts]:
    rows, first = [np.zeros(0, np.int64)], 0
    for shard in shards:
        rows.append(np.asarray(shard["tie_row"]).astype(np.int64) + first)
        first += len(shard["answer"])
    return _column(shards, "tie_key"), part[np.concatenate(rows)]


def _nearest(found: Crossing, num_held_out: int, name_of: Callable[[int], str]) -> dict[str, Any]:
    """The most alike pair of all that share a band: at 0.5 one in two is found, at 0.7 all but one in a hundred."""
    both = Across(
        np.concatenate([found.texts.held_out, found.questions.held_out]),
        np.concatenate([found.texts.train, found.questions.train]),
        np.concatenate([found.texts.ratio, found.questions.ratio]),
        np.concatenate([found.texts.is_form, found.questions.is_form]),
    )
    ratio = np.where(both.is_form, 0, both.ratio)
    told: dict[str, Any] = {"value": 0.0, "held_out": "", "train": "", "asked": num_held_out, "of": num_held_out}
    if len(ratio):
        at = int(ratio.argmax())
        told |= {
            "value": round(float(ratio[at]), 4),
            "held_out": name_of(int(both.held_out[at])),
            "train": name_of(int(both.train[at])),
        }
    return told


def _answers(
    shards: Sequence[Columns],
    texts: Texts,
    held_out: npt.NDArray[np.bool_],
    train: npt.NDArray[np.bool_],
    name_of: Callable[[int], str],
) -> dict[str, Any]:
    rows, share = answers_in(shards, texts, held_out, train)
    over = np.flatnonzero(share > _HALF)
    return {
        "asked": len(rows),
        "over_half": len(over),
        "highest": round(float(share.max()), 4) if len(share) else 0.0,
        "named": [name_of(int(rows[at])) for at in over[:_NUM_NAMED]],
    }
