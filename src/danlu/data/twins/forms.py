"""Forms: rows that share a template and differ in what was filled in are no twins, however much of them is template.

A crowd of pairs is a form when nearly all that most of its rows have in common stands in every one of them, and every
row has something of its own: what is filled in stands in one place. Copies that were edited here and there differ in
all places, so hardly anything stands in all of them. Pairs of a form are compared again without the template.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from danlu.data.twins.folding import Places
from danlu.data.twins.groups import Ties
from danlu.data.twins.likeness import Texts
from danlu.data.twins.minhash import gram_keys

_CROWD = 50
"""Rows from which a crowd of pairs may be a form."""
_SAMPLE = 64
_IN_ALL = 0.8
_OWN = 0.05


def of_forms(
    texts: Texts, first: Places, second: Places, *, gram: int, part: str, threshold: float
) -> npt.NDArray[np.bool_]:
    """Which of these pairs of rows are alike by their template only."""
    is_form = np.zeros(len(first), bool)
    if len(first) < _CROWD - 1:
        return is_form
    ties = Ties(len(texts.start))
    ties.join(first, second)
    crowd = ties.first[first]
    rows = np.unique(np.concatenate([first, second]))
    leaders, sizes = np.unique(ties.first[rows], return_counts=True)
    for leader in leaders[sizes >= _CROWD].tolist():
        members = rows[ties.first[rows] == leader]
        template = _template(texts, members[:: max(1, len(members) // _SAMPLE)][:_SAMPLE], gram, part)
        if template is None:
            continue
        pairs = np.flatnonzero(crowd == leader)
        own = dict(zip(members.tolist(), (_own(keys, template) for keys in _keys_of(texts, members, gram, part)),
                       strict=True))  # fmt: skip
        for pair in pairs.tolist():
            one, other = own[int(first[pair])], own[int(second[pair])]
            is_form[pair] = len(one & other) < threshold * len(one | other)
    return is_form


def _template(texts: Texts, sample: Places, gram: int, part: str) -> npt.NDArray[np.uint64] | None:
    """The grams that the rows of a form share; None where the rows are no form."""
    keys = _keys_of(texts, sample, gram, part)
    distinct, count = np.unique(np.concatenate(keys), return_counts=True)
    common = distinct[count >= len(sample) / 2]
    num_in_all = int((count == len(sample)).sum())
    if not len(common) or num_in_all < _IN_ALL * len(common):
        return None
    own = [1 - np.isin(own_keys, common).mean() for own_keys in keys]
    return common if np.median(own) >= _OWN else None


def _keys_of(texts: Texts, rows: Places, gram: int, part: str) -> list[npt.NDArray[np.uint64]]:
    return [np.unique(gram_keys(np.pad(units, (0, max(0, gram - len(units)))), gram))
            for units in texts.slices(rows, *texts.spans(rows, part))]  # fmt: skip


def _own(keys: npt.NDArray[np.uint64], template: npt.NDArray[np.uint64]) -> set[int]:
    at = np.minimum(np.searchsorted(template, keys), len(template) - 1)
    return set(keys[template[at] != keys].tolist())
