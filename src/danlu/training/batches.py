# ruff: noqa: N815 - shape suffixes
"""From items of a Dataset to batches on a device. Which items go together says `plan.py`.

Shapes: T tokens of the flat row, S supervised tokens, N documents.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu.data.tokens import Tokens
from danlu.ops.attention import Bounds

Items = npt.NDArray[np.int64]
Thing = TypeVar("Thing")
PAD_DOCUMENT = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents end to end in one flat row, and which of their tokens are to be predicted from where."""

    part: str
    items: Items
    """Which items of the part, in the order of their documents."""
    ids_T: Tensor
    positions_T: Tensor
    bounds: Bounds
    rows_S: Tensor
    """Where in the flat row the predicting hidden states stand: one before each supervised token."""
    targets_S: Tensor
    num_targets_N: Tensor
    num_documents: int
    """Real ones, which come first; padding to a fixed shape stands behind them as documents that nobody learns from."""
    num_tokens: int
    """Of the real documents."""
    piece: int = 0
    """Which of its step's pieces it is, or was cut from."""

    @property
    def num_targets(self) -> int:
        return len(self.targets_S)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; copies from pinned memory do not wait."""
        return self._with([tensor.to(device, non_blocking=True) for tensor in self._tensors()])

    def pin(self) -> Batch:
        """The same batch in memory that a GPU can read by itself."""
        return self._with([tensor.pin_memory() for tensor in self._tensors()])

    def _tensors(self) -> list[Tensor]:
        return [self.ids_T, self.positions_T, self.rows_S, self.targets_S, self.num_targets_N]

    def _with(self, tensors: list[Tensor]) -> Batch:
        ids_T, positions_T, rows_S, targets_S, num_targets_N = tensors
        return replace(
            self, ids_T=ids_T, positions_T=positions_T, rows_S=rows_S, targets_S=targets_S, num_targets_N=num_targets_N
        )


def make_batch(part: str, items: Items, documents: list[Tokens], pad_to: int = 0) -> Batch:
    """Lay documents end to end; the shift by one between a token and what predicts it happens here. `pad_to` fills the
    row to a fixed number of tokens, for compiled code."""
    lengths = [len(document) for document in documents]
    assert all(lengths), "a document has at least one token"
    ids_T = np.concatenate([document.ids for document in documents]).astype(np.int64)
    is_target_T = np.concatenate([document.weights for document in documents]).astype(bool)
    starts = np.cumsum([0, *lengths[:-1]])
    is_target_T[starts] = False  # nothing stands before a document's first token
    num_targets_N = np.add.reduceat(is_target_T, starts, dtype=np.int64)
    targets = np.flatnonzero(is_target_T)
    targets_S = ids_T[targets]
    padding = _padding(pad_to - len(ids_T))
    bounds = Bounds.of(lengths + padding)
    return Batch(
        part=part,
        items=items,
        ids_T=torch.from_numpy(np.pad(ids_T, (0, sum(padding)))),
        positions_T=bounds.positions(),
        bounds=bounds,
        rows_S=torch.from_numpy(targets - 1),
        targets_S=torch.from_numpy(targets_S),
        num_targets_N=torch.from_numpy(num_targets_N),
        num_documents=len(documents),
        num_tokens=len(ids_T),
    )


def _padding(num_tokens: int) -> list[int]:
    """Lengths of documents that fill so many tokens; short ones, for attention grows with the square."""
    num_tokens = max(0, num_tokens)
    return [PAD_DOCUMENT] * (num_tokens // PAD_DOCUMENT) + [num_tokens % PAD_DOCUMENT] * (num_tokens % PAD_DOCUMENT > 0)


class Documents(Protocol):
    """What a batch is read from: a dataset's part, or documents in memory."""

    @property
    def lengths(self) -> Items: ...

    def __getitem__(self, index: int) -> list[Tokens]: ...


def read_batch(name: str, part: Documents, items: Items, pad_to: int = 0, *, by_length: bool = False) -> Batch:
    """The batch of these items of a part. `by_length` lays the longest first: documents of equal length then lie side
    by side, and attention computes them as a dense batch. Documents see only themselves and a loss is a sum over
    tokens, so the order in a row changes nothing but the last bits."""
    if by_length:
        items = longest_first(items, part.lengths)
    return make_batch(name, items, [document for item in items for document in part[int(item)]], pad_to)


def longest_first(items: Items, lengths: npt.NDArray[np.int64]) -> Items:
    """The same items, equal lengths in their old order; the two documents of a pair stay together."""
    return items[np.argsort(-lengths[items], kind="stable")]


def ahead(things: Iterable[Thing], depth: int = 2) -> Generator[Thing]:
    """The same things in the same order, made `depth` ahead in a background thread. Closing the iterator ends it."""
    ready: queue.Queue[tuple[str, Thing | BaseException | None]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(what: str, thing: Thing | BaseException | None) -> bool:
        while not is_closed.is_set():
            try:
                ready.put((what, thing), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for thing in things:
                if not put("thing", thing):
                    return
            put("end", None)
        except BaseException as error:  # raised again where the thing was wanted
            put("error", error)

    threading.Thread(target=make, name="danlu-batches", daemon=True).start()
    try:
        while True:
            what, thing = ready.get()
            if what == "end":
                return
            if what == "error":
                assert isinstance(thing, BaseException), "an error travels as an exception"
                raise thing
            yield thing  # type: ignore[misc]
    finally:
        is_closed.set()
