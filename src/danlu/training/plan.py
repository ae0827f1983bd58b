"""Which items make which optimizer step, in which pieces. It depends on (seed, epoch) only, so a step's number says
everything about its data, and a resumed run needs no cursor beside it.

`data.pack` fills steps up to `batch_tokens`, and cuts each into pieces of at most `micro_tokens`: how much a device can
compute at once decides in how many pieces a step is computed, never what it holds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from danlu.core.errors import TrainingError
from danlu.data.pack import cut, pack
from danlu.training.batches import Items


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """`number` from 1; `epoch` in passes over the data once it is done; `pieces` the items of each micro-batch."""

    number: int
    epoch: float
    pieces: list[Items]


class Plan:
    """All steps of a training. `max_steps`, where given, decides alone; otherwise `epochs`, which need not be whole."""

    def __init__(
        self, lengths: npt.NDArray[np.int64], *, epochs: float, max_steps: int | None, batch_tokens: int,
        micro_tokens: int, seed: int,
    ) -> None:  # fmt: skip
        if not len(lengths):
            raise TrainingError("training.no_items", part="train")
        self._lengths, self._seed, self._micro_tokens = lengths, seed, micro_tokens
        self._step_tokens = max(batch_tokens, int(lengths.max()))
        self.steps_per_epoch = self._num_steps(0)
        """Of the first epoch; later ones may differ by a step, for each is packed anew."""
        self.num_steps = max_steps or self._count(epochs)

    def steps_after(self, number: int) -> Iterator[PlannedStep]:
        """Steps `number` + 1 … `num_steps`."""
        first = 0
        for epoch in itertools.count():
            num_steps = self._num_steps(epoch)
            for index in range(max(0, number - first), num_steps):
                if first + index >= self.num_steps:
                    return
                pieces = [self._steps(epoch)[index]]
                if not self.is_whole:
                    pieces = cut(pieces[0], self._lengths, self._micro_tokens)
                yield PlannedStep(first + index + 1, epoch + (index + 1) / num_steps, pieces)
            first += num_steps
            if first >= self.num_steps:
                return

    @property
    def is_whole(self) -> bool:
        """Whether every step is computed in one piece."""
        return self._micro_tokens >= self._step_tokens

    def _count(self, epochs: float) -> int:
        whole = sum(self._num_steps(epoch) for epoch in range(int(epochs)))
        rest = epochs - int(epochs)
        return max(1, whole + (math.ceil(rest * self._num_steps(int(epochs))) if rest else 0))

    def _num_steps(self, epoch: int) -> int:
        return len(self._steps(epoch))

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives as long as its trainer
    def _steps(self, epoch: int) -> list[Items]:
        return in_order(self._lengths, self._step_tokens, self._seed, epoch)


def in_order(lengths: npt.NDArray[np.int64], num_tokens: int, seed: int, epoch: int) -> list[Items]:
    """One pass over a part, so many tokens at a time."""
    return [np.asarray(items, dtype=np.int64) for items in pack(lengths, num_tokens, seed, epoch)]
