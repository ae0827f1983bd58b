"""From a dataset to the batches of each step, as the device takes them: laid out, pinned, in their forms, made ahead.

What is read depends on the plan alone. How it is cut may change once memory has ended: `halve` computes fewer items at
once from then on, and the sum over a step stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from danlu.core.messages import listed
from danlu.data.dataset import Dataset
from danlu.data.pack import cut
from danlu.data.tokens import Tokens
from danlu.training.batches import Batch, Items, read_batch
from danlu.training.forms import Filled, Form, fill
from danlu.training.plan import Plan, PlannedStep, in_order
from danlu.training.ranks import ALONE, Alone


@dataclass(frozen=True, slots=True)
class Loaded:
    """This rank's batches of a step, on the CPU; `filled` beside them where graphs are recorded, or empty."""

    planned: PlannedStep
    batches: list[Batch]
    filled: list[Filled]


OWN = "rollout"
"""The part that a step's own documents are."""


class Held:
    """Documents in memory, read as a dataset's part is. `items` are the rows of the train part that they answer."""

    def __init__(self, documents: Sequence[Tokens], items: Items) -> None:
        self._documents, self.items = documents, items
        self.lengths = np.array([len(document) for document in documents], dtype=np.int64)

    def __getitem__(self, index: int) -> list[Tokens]:
        return [self._documents[index]]


class Feed:
    """`pad_to` fills every row to so many tokens, for compiled code; 0 leaves it as it is. Forms are made while
    `has_forms` is set."""

    def __init__(
        self, dataset: Dataset, plan: Plan, device: torch.device, *, micro_tokens: int, pad_to: int,
        ranks: Alone = ALONE,
    ) -> None:  # fmt: skip
        self._dataset, self._plan, self._device = dataset, plan, device
        self._micro_tokens, self._pad_to, self._ranks = micro_tokens, pad_to, ranks
        self.has_forms = False
        self.most_items = 0
        """Items computed at once since memory ended; 0 as planned."""
        self._own = Held([], np.zeros(0, np.int64))

    def steps_after(self, number: int) -> Iterator[Loaded]:
        for planned in self._plan.steps_after(number):
            mine = self._ranks.share(planned.pieces, self._dataset.part("train").lengths)
            batches = [self._read("train", few, piece) for piece, items in mine for few in self._few(items)]
            filled = [self._fill(batch) for batch in batches] if self.has_forms else []
            # Where forms are replayed the batches themselves are read only if recording fails.
            yield Loaded(planned, batches if filled else self._pinned(batches), filled)

    def of_documents(self, planned: PlannedStep, documents: Sequence[Tokens], items: Items) -> Loaded:
        """A step of documents that lie in no dataset, in as many pieces as they need; `items` are the rows that they
        answer. They are held until the next ones come."""
        self._own = Held(documents, items)
        pieces = cut(np.arange(len(documents)), self._own.lengths, self._micro_tokens)
        batches = [self._read(OWN, few, piece) for piece, some in enumerate(pieces) for few in self._few(some)]
        return Loaded(planned, self._pinned(batches), [])

    def one_pass(self, name: str, *, is_shared: bool = False) -> Iterator[Batch]:
        """Every item of a part once, on the device; `is_shared`: this rank's of them."""
        lengths = self._dataset.part(name).lengths
        pieces = in_order(lengths, self._micro_tokens, seed=0, epoch=0)
        for piece, items in (self._ranks if is_shared else ALONE).share(pieces, lengths):
            yield self._read(name, items, piece).to(self._device)

    def halve(self, batches: list[Batch]) -> list[Batch] | None:
        """The same items in smaller pieces, and all later ones too; None where each piece is one item already."""
        halves = [(batch.piece, half) for batch in batches for half in np.array_split(batch.items, 2) if len(half)]
        if len(halves) == len(batches):
            return None
        most = max(len(half) for _, half in halves)
        self.most_items, self.has_forms = min(self.most_items or most, most), False
        return self._pinned([self._read(batches[0].part, half, piece) for piece, half in halves])

    def cut(self, batches: list[Batch]) -> list[Batch]:
        """The same batches, or smaller ones where these were read before memory ended."""
        if all(len(self._few(batch.items)) == 1 for batch in batches):
            return batches
        return self._pinned(
            [self._read(batch.part, few, batch.piece) for batch in batches for few in self._few(batch.items)]
        )

    def origins_of(self, batches: Sequence[Batch]) -> str:
        """Where what these hold was read, or what it answers."""
        return self.origins([self._own.items[one.items] if one.part == OWN else one.items for one in batches])

    def origins(self, pieces: Sequence[Items], most: int = 8) -> str:
        """Where the rows of these pieces were read."""
        rows = self._dataset.part("train").rows
        items = [int(item) for piece in pieces for item in piece]
        rest = f" (+{len(items) - most})" if len(items) > most else ""
        return listed(rows[item]["origin"] or f"train[{item}]" for item in items[:most]) + rest

    def _few(self, items: Items) -> list[Items]:
        """A piece as planned, or in as many as memory was found to want."""
        return np.array_split(items, -(-len(items) // self.most_items)) if self.most_items else [items]

    def _read(self, name: str, items: Items, piece: int) -> Batch:
        """On a GPU equal documents lie side by side, where attention computes them as a dense batch."""
        by_length = self._device.type == "cuda"
        part = self._own if name == OWN else self._dataset.part(name)
        batch = read_batch(name, part, items, self._pad_to, by_length=by_length)
        return replace(batch, piece=piece)

    def _fill(self, batch: Batch) -> Filled:
        filled = fill(batch, Form.of(batch, self._micro_tokens))
        return filled.pin() if self._device.type == "cuda" else filled

    def _pinned(self, batches: list[Batch]) -> list[Batch]:
        """A GPU reads them by itself."""
        return [batch.pin() for batch in batches] if self._device.type == "cuda" else batches
