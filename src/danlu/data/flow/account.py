"""Fates folded into the ledger: every row that was read is told once, as used or as rejected with one reason.

What was decided over all rows comes in as arrays (`Verdicts`); what stages did stands with the rows. Entries stream:
nothing here grows with the number of rows but the ledger's own lists, which are bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.data.flow.marks import Mark
from danlu.data.flow.piece import KINDS, AnyPiece, Places, joined, num_rows
from danlu.data.ledger import Entry, Ledger
from danlu.data.twins import EXACT, NEAR, Decision

MOST_LISTED = 20_000
"""Rejects and changes that ledger.json lists one by one; rejects.jsonl holds all."""
STAYS, DROPPED, DUPLICATE, NEAR_DUPLICATE, UNWANTED, LIKE_HELD_OUT = 0, 1, 2, 3, 4, 5
"""Why a row was left out: by a stage, as a duplicate or near-duplicate, because no training stage learns from its kind,
or because it came in beside the split (a variant, replay) and is like a row that is held out, its `twin`."""


@dataclass(slots=True)
class Verdicts:
    """What whole-data steps decided, one element per row: `left_out` one of the names above, `flagged` the same for
    rows that are only named, `twin` the row kept (or held out) instead, `similarity` to it."""

    left_out: npt.NDArray[np.uint8]
    flagged: npt.NDArray[np.uint8]
    twin: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float32]

    wanted: str = ""
    """Kinds of samples that training learns from, for the reason of an unwanted row."""

    @property
    def stays(self) -> npt.NDArray[np.bool_]:
        stays: npt.NDArray[np.bool_] = self.left_out == STAYS
        return stays

    def refuse_unwanted(self, pieces: Sequence[AnyPiece], accepted: Collection[str]) -> dict[str, int]:
        """Rows of kinds that nobody accepts are left out from now on; how many by kind."""
        self.wanted = ", ".join(sorted(accepted))
        kinds = joined(pieces, "row_kind")
        unwanted = self.stays & ~np.isin(kinds, [KINDS.index(kind) for kind in accepted])
        self.left_out[unwanted] = UNWANTED
        return {kind: num for code, kind in enumerate(KINDS) if (num := int((kinds[unwanted] == code).sum()))}

    @classmethod
    def of(cls, alive: npt.NDArray[np.bool_], decision: Decision, *, exact: str, near: str) -> Verdicts:
        """`exact` and `near`: what the recipe does with such twins: drop, flag or keep."""
        found = np.zeros(len(alive), np.uint8)
        found[decision.verdict == EXACT] = DUPLICATE
        found[decision.verdict == NEAR] = NEAR_DUPLICATE
        left_out, flagged = np.zeros_like(found), np.zeros_like(found)
        for kind, wish in ((DUPLICATE, exact), (NEAR_DUPLICATE, near)):
            into = {"drop": left_out, "flag": flagged}.get(wish)
            if into is not None:
                into[found == kind] = kind
        left_out[~alive] = DROPPED
        return cls(left_out, flagged, decision.twin, decision.similarity)


def fold(
    pieces: Sequence[AnyPiece], verdicts: Verdicts, ledger: Ledger, among: Collection[int] | None = None
) -> Iterator[Entry]:
    """Every rejected row, in the order of the sources; the ledger is filled on the way.

    `ledger` comes with `num_read` of the reading and all rows of the pieces counted as used. `among`: numbers of the
    pieces that this ledger accounts for, all by default.
    """
    places = Places.of(pieces)
    assert len(verdicts.left_out) == num_rows(pieces), "a verdict for each row"
    first = 0
    for at, piece in enumerate(pieces):
        if among is None or at in among:
            for entry in piece.refused:
                ledger.list_reject(entry)
                yield entry
            yield from _folded(piece, first, verdicts, places, ledger)
        first += len(piece)


def _folded(piece: AnyPiece, first: int, verdicts: Verdicts, places: Places, ledger: Ledger) -> Iterator[Entry]:
    """Fates of one piece's rows, the first of which is number `first` of all. Rows without any are not looked at, and
    what stages did is read of those alone to which they did something."""
    touched = np.asarray(piece.columns["touched"])
    own = slice(first, first + len(piece))
    rows = np.flatnonzero(touched | (verdicts.left_out[own] > 0) | (verdicts.flagged[own] > 0))
    marked = rows[touched[rows]]
    marks_of = dict(zip(marked.tolist(), piece.marks(marked), strict=True))
    columns = [piece.columns["row_seat"], piece.columns["row_kind"]]
    told = [np.asarray(column)[rows].tolist() for column in columns]
    decided = [column[rows + first].tolist() for column in (verdicts.left_out, verdicts.flagged)]
    stands = zip(places.file[rows + first].tolist(), places.line[rows + first].tolist(), strict=True)
    for number, (file, line), seat, kind, left_out, flagged in zip(rows.tolist(), stands, *told, *decided, strict=True):
        marks, name = marks_of.get(number, ()), places.files[file]
        if left_out == STAYS:
            _count_flags(marks, flagged, ledger)
            if changes := [mark.fate for mark in marks if mark.fate.action == "change"]:
                ledger.list_changes([Entry(name, line, fate.reason, fate.values, row=seat) for fate in changes])
            continue
        reason, values = _refusal(first + number, KINDS[kind], marks, verdicts, places)
        ledger.num_used -= 1
        rejected = Entry(name, line, reason, values, row=seat)
        ledger.list_reject(rejected)
        yield rejected


def _refusal(
    row: int, kind: str, marks: Sequence[Mark], verdicts: Verdicts, places: Places
) -> tuple[str, dict[str, Any]]:
    verdict = int(verdicts.left_out[row])
    if verdict == DROPPED:
        fate = next(mark.fate for mark in reversed(marks) if mark.fate.action == "drop")
        return fate.reason, fate.values
    if verdict == UNWANTED:
        return "no_stage_wants_it", {"kind": kind, "wanted": verdicts.wanted}
    first = places.name(int(verdicts.twin[row]))
    if verdict == DUPLICATE:
        return "duplicate", {"first": first}
    reason = "like_held_out" if verdict == LIKE_HELD_OUT else "near_duplicate"
    return reason, {"first": first, "similarity": round(float(verdicts.similarity[row]), 3)}


def _count_flags(marks: Sequence[Mark], flagged: int, ledger: Ledger) -> None:
    """Of a row that stays; each reason once."""
    for reason in {mark.fate.reason for mark in marks if mark.fate.action == "flag"}:
        ledger.flags[reason] += 1
    if flagged:
        ledger.flags["duplicate" if flagged == DUPLICATE else "near_duplicate"] += 1
