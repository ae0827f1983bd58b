"""The contract of a row stage: some samples in, one outcome for each, no memory of other rows.

A stage is pure: the same sample has the same outcome anywhere, in any order, in any process. That is what lets the
conveyor cut the data into shards, run them side by side, and keep what a shard became for the next run. What needs to
see all rows (duplicates, the split) is no row stage.

Most stages leave most rows alone. A `PieceStage` says only what it did, and is handed the texts of all rows at once, so
that it can ask once over all of them; `touched` asks any stage in that way:

    texts = Texts(samples)                              # data/joined.py; once for all stages
    for stage in stages:
        for row, (sample, fates) in touched(stage, texts).items():
            texts.put(row, sample)                      # None: dropped, and not there for the stages behind
            ...                                         # tell the fates
    texts.samples                                       # what all rows came to

Rows that are not told of are as they were: the very same objects. Tags that the caller sets itself (flags) it puts in
too. `PrivacyStage.look(texts)` is the like for privacy, with what clean rows are tagged with said once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from danlu.data.sample import Sample

if TYPE_CHECKING:
    from danlu.data.joined import Texts

Action = Literal["drop", "change", "flag"]


@dataclass(frozen=True, slots=True)
class Fate:
    """What a stage did to one row. The conveyor folds fates into the ledger: a drop is a rejection.

    `flag` keeps the row and names it in the report (and in `tags["flags"]`). `values` are JSON and fill the text of
    `reason`, a catalogue key of the room `ledger`; they hold no text of the row that privacy would mask.
    """

    action: Action
    reason: str
    values: dict[str, Any] = field(default_factory=dict)


Outcome: TypeAlias = tuple[Sample | None, tuple[Fate, ...]]
"""The sample as it is now and what was done to it; None only together with a drop."""


class RowStage(Protocol):
    """Picklable: it is built once and sent to worker processes. Loads what it needs there, on its first call."""

    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]:
        """JSON: a version and every parameter that can change an outcome. Cache keys and manifests hold it."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        """One outcome per sample, in the order given."""
        ...


@runtime_checkable
class PieceStage(RowStage, Protocol):
    """A row stage that can be asked about many rows at once. `stage(samples)` gives the same outcomes, row by row."""

    def touch(self, texts: Texts) -> Mapping[int, Outcome]:
        """The outcomes of the rows to which the stage does anything, by number, in order. Changes nothing in `texts`;
        rows that are None there are passed over."""
        ...


def spread(told: Mapping[int, Outcome], samples: Sequence[Sample]) -> list[Outcome]:
    """One outcome per sample, of those that a stage told of."""
    return [told.get(row) or (sample, ()) for row, sample in enumerate(samples)]


def touched(stage: RowStage, texts: Texts) -> Mapping[int, Outcome]:
    """What a stage does to these rows, whether or not it knows of pieces."""
    if isinstance(stage, PieceStage):
        return stage.touch(texts)
    alive = [(row, sample) for row, sample in enumerate(texts.samples) if sample is not None]
    outcomes = stage([sample for _, sample in alive])
    assert len(alive) == len(outcomes), f"{stage.name} gave {len(outcomes)} outcomes for {len(alive)} samples"
    return {
        row: outcome
        for (row, sample), outcome in zip(alive, outcomes, strict=True)
        if outcome[1] or outcome[0] is not sample
    }
