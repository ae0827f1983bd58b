"""Several ranks that train one model, by torch.distributed: data parallelism over the pieces of a step.

Two ways of speaking. Gradients go from device to device (NCCL; gloo on a CPU), in place, once a step. Words (counts,
sums of losses, whether somebody asked to stop) are small and lie on the host: they always go through gloo, so that no
one waits for a device to tell them. All ranks ask in the same order, for each does the same with the same numbers.

Sums are made in the order of ranks, and by the library's rings: they are the same on every rank, to the bit, and differ
from one rank's own sums in the last bits of fp32.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from danlu.core.errors import TrainingError
from danlu.training.flat import FlatAdamW
from danlu.training.ranks import Alone, Items, Number, Thing, deal

PATIENCE = timedelta(hours=6)
"""How long one waits for the others: the first writes checkpoints and records DPO's reference meanwhile. Who has died
is noticed by whoever started the ranks, not by this."""
LOOK_EVERY = 50
"""Steps between two looks at whether all ranks still hold the same weights."""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Together(Alone):
    """One of `size` ranks, in the process group that `join` opened."""

    def __init__(self) -> None:
        self.index, self.size = dist.get_rank(), dist.get_world_size()
        self._words = dist.new_group(backend="gloo", timeout=PATIENCE)

    def _told(self, thing: Any) -> list[Any]:
        """What each rank says, in their order."""
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, thing, group=self._words)
        return said

    def share(self, pieces: Sequence[Items], lengths: npt.NDArray[np.int64]) -> list[tuple[int, Items]]:
        return deal(pieces, lengths, self.size)[self.index]

    def add(self, numbers: Mapping[str, Number]) -> dict[str, Number]:
        sums: dict[str, Number] = {}
        for one in self._told(dict(numbers)):
            for name, value in one.items():
                sums[name] = sums[name] + value if name in sums else value
        return sums

    @torch.no_grad()
    def add_gradients(self, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        """Low-rank pairs have one flat buffer; of all weights each gradient goes by itself, in the dtype it has."""
        whole = [optimizer.flat.grad] if isinstance(optimizer, FlatAdamW) else self._wanted(parameters)
        under_way = [dist.all_reduce(gradient, async_op=True) for gradient in whole]
        for one in under_way:
            assert one is not None, "asynchronous calls can be waited for"
            one.wait()

    def _wanted(self, parameters: Mapping[str, nn.Parameter]) -> list[Tensor]:
        """The gradients that some rank has. A rank that had no piece, or none that reached a weight, brings zeros; a
        weight that nobody's piece reached stays without, as it would alone."""
        weights = list(parameters.values())
        is_there = torch.tensor([weight.grad is not None for weight in weights], dtype=torch.int32)
        dist.all_reduce(is_there, op=dist.ReduceOp.MAX, group=self._words)
        found = []
        for weight, is_wanted in zip(weights, is_there.tolist(), strict=True):
            if is_wanted:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
                found.append(weight.grad)
        return found

    def hold_equal(
        self, number: int, parameters: Mapping[str, nn.Parameter], *, is_due: bool, training: str = ""
    ) -> None:
        if not is_due and number % LOOK_EVERY:
            return
        said = self._told((training, number, checksums(parameters)))
        for rank, (other, step, sums) in enumerate(said):
            first, first_step, first_sums = said[0]
            if (other, step) != (first, first_step):
                raise TrainingError("ranks.other_training", rank=rank, number=step, first=first_step)
            if strays := [name for name, one, its in zip(parameters, first_sums, sums, strict=True) if one != its]:
                raise TrainingError("ranks.other_weights", rank=rank, number=number, count=len(strays), name=strays[0])

    def from_first(self, thing: Thing) -> Thing:
        said: Thing = self._told(thing if self.is_first else None)[0]
        return said

    def wait(self) -> None:
        dist.barrier(group=self._words)

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    @contextlib.contextmanager
    def noticing_interrupts(self) -> Iterator[Callable[[], None]]:
        """A Ctrl-C in the middle of a step would leave the others waiting: it is noted, and all stop before the same
        step. A second one ends this process where it is."""
        before, was_asked = signal.getsignal(signal.SIGINT), threading.Event()

        def take(number: int, frame: FrameType | None) -> None:
            if was_asked.is_set() and callable(before):
                before(number, frame)
            was_asked.set()

        def look() -> None:
            if any(self._told(was_asked.is_set())):
                raise KeyboardInterrupt

        is_ours = threading.current_thread() is threading.main_thread()
        if is_ours:
            signal.signal(signal.SIGINT, take)
        try:
            yield look
        finally:
            if is_ours:
                signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def join(device: str, *, rank: int, size: int, meet: Path | None = None) -> Iterator[Together]:
    """Be one of the ranks until the end of this. They meet by a file on this machine, or, without one, where torchrun
    says in the environment. One that fails does not wait for the others: whoever started them ends them."""
    is_cuda = torch.device(device).type == "cuda"
    dist.init_process_group(
        "nccl" if is_cuda else "gloo", timeout=PATIENCE, rank=rank, world_size=size,
        store=dist.FileStore(str(meet), size) if meet else None,  # type: ignore[attr-defined]
        device_id=torch.device("cuda", torch.cuda.current_device()) if is_cuda else None,
    )  # fmt: skip
    ranks = Together()
    yield ranks
    ranks.wait()
    dist.destroy_process_group()


def checksums(parameters: Mapping[str, nn.Parameter]) -> list[int]:
    """One number a parameter, of its very bits; integers add up to the same in any order."""
    sums = [
        weight.detach().contiguous().view(-1).view(_BITS[weight.element_size()]).sum(dtype=torch.int64)
        for weight in parameters.values()
    ]
    numbers: list[int] = torch.stack(sums).tolist()
    return numbers
