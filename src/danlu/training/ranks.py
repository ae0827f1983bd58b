"""Who computes what where several processes train one model: each is a *rank*, and all of them hold all weights.

A step is planned as ever and its pieces are shared out; gradients of what trains are added up once a step, and every
rank then makes the same update. `Alone`, the usual case, shares with nobody and costs nothing; `together.py` is the
other one. The loop asks its ranks and never how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from danlu.core.interrupts import noticing_interrupts

Items = npt.NDArray[np.int64]
Thing = TypeVar("Thing")
Number = TypeVar("Number", int, float)


class Alone:
    """One rank: nothing is shared, nothing is waited for."""

    index, size = 0, 1

    @property
    def is_first(self) -> bool:
        """Who writes, and who is listened to."""
        return self.index == 0

    def share(self, pieces: Sequence[Items], lengths: npt.NDArray[np.int64]) -> list[tuple[int, Items]]:
        """This rank's of a step's pieces, each with its place in the step."""
        return list(enumerate(pieces))

    def add(self, numbers: Mapping[str, Number]) -> dict[str, Number]:
        """Sums over all ranks, of whatever each of them has."""
        return dict(numbers)

    def add_gradients(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Every rank's gradients become the sum of all."""

    def hold_equal(
        self, number: int, parameters: Mapping[str, nn.Parameter], *, is_due: bool, training: str = ""
    ) -> None:
        """TrainingError where ranks have come to different weights, steps or trainings; looked at where `is_due`, and
        every so often."""

    def from_first(self, thing: Thing) -> Thing:
        """What the first rank says, whatever the others bring."""
        return thing

    def wait(self) -> None:
        """Until all have come here."""

    def in_turn(self) -> AbstractContextManager[None]:
        """The first rank does it alone, then the others, who find on disk what it wrote."""
        return nullcontext()

    def noticing_interrupts(self) -> AbstractContextManager[Callable[[], None]]:
        """What is given raises KeyboardInterrupt where one was asked for (`core/interrupts.py`)."""
        return noticing_interrupts()


ALONE = Alone()


def deal(pieces: Sequence[Items], lengths: npt.NDArray[np.int64], num_ranks: int) -> list[list[tuple[int, Items]]]:
    """A step's pieces for each rank, with their places in the step, so that no rank waits long for another. Pieces are
    halved, the largest first, until each rank can have as many as any other; where items are too few some have none.
    It follows from its arguments alone: all ranks deal alike."""
    whole = list(pieces)
    while len(whole) % num_ranks:
        largest = max(range(len(whole)), key=lambda at: (len(whole[at]) > 1) * int(lengths[whole[at]].sum()))
        if len(whole[largest]) == 1:
            break
        whole[largest : largest + 1] = _halves(whole[largest], lengths)
    hands: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    sizes = [int(lengths[piece].sum()) for piece in whole]
    for at in sorted(range(len(whole)), key=lambda at: -sizes[at]):
        rank = min(range(num_ranks), key=lambda rank: (loads[rank], len(hands[rank])))
        hands[rank].append(at)
        loads[rank] += sizes[at]
    return [[(at, whole[at]) for at in sorted(hand)] for hand in hands]


def _halves(piece: Items, lengths: npt.NDArray[np.int64]) -> list[Items]:
    """Two of about equal tokens, neither empty; items stay in their order."""
    ends = np.cumsum(lengths[piece])
    middle = int(np.argmin(np.abs(ends[:-1] - ends[-1] / 2))) + 1
    return [piece[:middle], piece[middle:]]
