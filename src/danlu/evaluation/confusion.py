"""Which class was taken for which, and the scores that follow: accuracy, F1 per class, macro and micro, MCC.

An answer that names no known class is a parse failure: its own column, never a class. It is a miss for its true class
and a false alarm for none. Macro F1 runs over the classes that occur, as reference or as answer.
Sources: van Rijsbergen 1979; Gorodkin 2004 (MCC of several classes; 0 where it is not defined).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from danlu.evaluation.stats import Tally
from danlu.evaluation.stats.groups import Floats

SCORES = ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc")
NONE = ""
"""What stands for a class where an answer names none."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """`table` [C, C + 1]: rows are true classes, columns named ones, the last column parse failures."""

    classes: tuple[str, ...]
    table: Floats

    @classmethod
    def of(cls, references: Sequence[str], answers: Sequence[str | None]) -> Confusion:
        """Counts of pairs, at least one; None or "" is a parse failure."""
        assert len(references) > 0, "at least one pair"
        classes = classes_of(references, answers)
        return cls(classes, rows_of(references, answers, classes).sum(axis=0).reshape(len(classes), -1))

    @property
    def num_parse_failures(self) -> int:
        return int(self.table[:, -1].sum())

    def score(self, name: str) -> float:
        """One of SCORES."""
        return float(score_tables(self.table[None], name)[0])

    def to_json(self) -> dict[str, Any]:
        """Counts as {reference: {named: count}}, "" where nothing was named, with all scores."""
        names = (*self.classes, NONE)
        counts = {
            true: {named: int(count) for named, count in zip(names, row, strict=True) if count}
            for true, row in zip(self.classes, self.table, strict=True)
            if row.any()
        }
        return {
            "confusion": counts,
            "num_parse_failures": self.num_parse_failures,
            "per_class": self.per_class(),
        } | {name: self.score(name) for name in SCORES}

    def per_class(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of references of each class."""
        hits, wanted, named = _margins(self.table[None])
        return {
            name: {
                "precision": float(_ratio(hits, named)[0, place]), "recall": float(_ratio(hits, wanted)[0, place]),
                "f1": float(_ratio(2 * hits, wanted + named)[0, place]), "count": int(wanted[0, place]),
            }
            for place, name in enumerate(self.classes)
        }  # fmt: skip


def classes_of(references: Sequence[str], *answers: Sequence[str | None]) -> tuple[str, ...]:
    """All classes that occur, in order of their names."""
    return tuple(sorted({*references} | {name for given in answers for name in given if name}))


def rows_of(references: Sequence[str], answers: Sequence[str | None], classes: Sequence[str]) -> Floats:
    """A one for each item's place in the table, flattened: [N, C * (C + 1)]."""
    assert len(references) == len(answers), "an answer per reference"
    place = {name: number for number, name in enumerate(classes)}
    width = len(classes) + 1
    rows = np.zeros((len(references), len(classes) * width))
    for row, true, named in zip(rows, references, answers, strict=True):
        row[place[true] * width + (place[named] if named else width - 1)] = 1
    return rows


def tally_of(references: Sequence[str], answers: Sequence[str | None], classes: Sequence[str], score: str) -> Tally:
    """A score as sums per item, for intervals and paired tests."""
    return Tally(rows_of(references, answers, classes), functools.partial(_score_rows, num=len(classes), name=score))


def score_tables(tables: Floats, name: str) -> Floats:
    """A score of each table [R, C, C + 1]."""
    assert name in SCORES, f"no score {name}"
    hits, wanted, named = _margins(tables)
    if name == "accuracy":
        return _ratio(hits.sum(axis=1), wanted.sum(axis=1))
    if name == "micro_f1":
        return _ratio(2 * hits.sum(axis=1), (wanted + named).sum(axis=1))
    if name == "mcc":
        return _mcc(tables, hits, wanted, named)
    f1 = _ratio(2 * hits, wanted + named)
    if name == "weighted_f1":
        return _ratio((f1 * wanted).sum(axis=1), wanted.sum(axis=1))
    return _ratio(f1.sum(axis=1), ((wanted + named) > 0).sum(axis=1))


def _score_rows(sums_RK: Floats, *, num: int, name: str) -> Floats:
    return score_tables(sums_RK.reshape(-1, num, num + 1), name)


def _margins(tables: Floats) -> tuple[Floats, Floats, Floats]:
    """Hits, references and namings of each class: [R, C] each."""
    classes = tables[:, :, :-1]
    return np.diagonal(classes, axis1=1, axis2=2), tables.sum(axis=2), classes.sum(axis=1)


def _mcc(tables: Floats, hits: Floats, wanted: Floats, named: Floats) -> Floats:
    """Correlation of truth and answer; no answer is one more class that is never true."""
    total, failures = tables.sum(axis=(1, 2)), tables[:, :, -1].sum(axis=1)
    covariance = hits.sum(axis=1) * total - (wanted * named).sum(axis=1)
    spread_named = total**2 - (named**2).sum(axis=1) - failures**2
    spread_true = total**2 - (wanted**2).sum(axis=1)
    return _ratio(covariance, np.sqrt(np.maximum(spread_named, 0) * np.maximum(spread_true, 0)))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros(np.shape(below)), where=np.asarray(below) > 0)
