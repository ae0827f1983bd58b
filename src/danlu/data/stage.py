"""The contract of a row stage: some samples in, one outcome for each, no memory of other rows.

A stage is pure: the same sample has the same outcome anywhere, in any order, in any process. That is what lets the
conveyor cut the data into shards, run them side by side, and keep what a shard became for the next run. What needs to
see all rows (duplicates, the split) is no row stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from danlu.data.sample import Sample

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
