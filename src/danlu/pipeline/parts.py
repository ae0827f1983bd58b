"""Rows of all pieces and the part each belongs to: what encoding, reports and provenance stream from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.files import sha256_json
from danlu.data.certificate import TEST, TRAIN, UNUSED, VALIDATION
from danlu.data.flow.account import DROPPED, STAYS, Verdicts
from danlu.data.flow.piece import KINDS, LEVELS, AnyPiece, Row, joined, streamed
from danlu.data.sample import Sample

REPLAY = 3
"""General rows that are trained on beside the domain's own: no part of the split, and in no count of it."""
PLACES = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "replay": REPLAY}
"""Names of parts and their numbers in `Parts.part`; UNUSED is a row that was left out."""


@dataclass(slots=True)
class Parts:
    """`pieces` hold all rows in order: of the sources, made by a teacher, of `data.validation`, varied, replayed.
    `part` and `verdicts` have one element per row. Samples are never held together: every stream opens one piece at a
    time."""

    pieces: list[AnyPiece]
    part: npt.NDArray[np.uint8]
    verdicts: Verdicts
    certificate: dict[str, Any]
    _columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def column(self, name: str) -> npt.NDArray[Any]:
        if name not in self._columns:
            self._columns[name] = joined(self.pieces, name)
        return self._columns[name]

    def count(self, name: str) -> int:
        return int((self.part == PLACES[name]).sum())

    def rows(self, name: str, kinds: Sequence[str] | frozenset[str] | None = None) -> Iterator[tuple[int, Row]]:
        """(number, row) of one part, of these kinds of samples alone."""
        wanted = self.part == PLACES[name]
        if kinds is not None:
            wanted &= np.isin(self.column("row_kind"), [KINDS.index(kind) for kind in kinds])
        return streamed(self.pieces, wanted)

    def samples(self, name: str, kinds: Sequence[str] | frozenset[str] | None = None) -> Iterator[Sample]:
        for _, row in self.rows(name, kinds):
            assert row.sample is not None, "a row of a part has a sample"
            yield row.sample

    def level(self) -> str:
        """The highest level of what is trained on or watched; "" where nothing was graded."""
        taken = np.isin(self.part, (TRAIN, VALIDATION, REPLAY))
        ranks = self.column("row_level")[taken]
        return LEVELS[int(ranks.max())] if len(ranks) else ""

    def certify(self, **told: Any) -> None:
        """More facts into the certificate: what came in beside the split."""
        facts = {name: value for name, value in self.certificate.items() if name != "digest"} | told
        self.certificate = facts | {"digest": sha256_json(facts)}

    def add(self, pieces: Sequence[AnyPiece], part: int) -> None:
        """More rows, all of them for one part, but for those that a stage dropped."""
        alive = np.asarray(joined(pieces, "alive"), bool)
        nothing = np.zeros(len(alive), np.uint8)
        first = len(self.part)
        self.pieces += pieces
        self.part = np.concatenate([self.part, np.where(alive, part, UNUSED).astype(np.uint8)])
        self.verdicts = Verdicts(
            np.concatenate([self.verdicts.left_out, np.where(alive, STAYS, DROPPED).astype(np.uint8)]),
            np.concatenate([self.verdicts.flagged, nothing]),
            np.concatenate([self.verdicts.twin, np.arange(first, first + len(alive))]),
            np.concatenate([self.verdicts.similarity, np.ones(len(alive), np.float32)]),
        )
        self._columns.clear()


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one part, opened anew whenever somebody goes through them."""

    parts: Parts
    name: str

    def __iter__(self) -> Iterator[Sample]:
        return self.parts.samples(self.name)
