"""Lending device memory to the host: what a block keeps waits in pinned memory until its backward comes.

A storage is copied out on a stream of its own while the next block computes, then emptied in place; every tensor and
every small graph that looks at it stays valid, and is refilled before it is read again. Blocks come back in reverse
order, so fetching one already starts the one before it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

GRAIN_BYTES = 2 * 1024 * 1024


class Host:
    """One per model and device. On a CPU there is nowhere to lend to: nothing is copied."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._free: dict[int, list[Tensor]] = defaultdict(list)
        self._out: list[Loan] = []
        self._leaving: list[Loan] = []

    def lend(self, tensors: Sequence[Tensor]) -> Loan:
        """Copy these tensors' storages out, and empty them once that is done. They come back by `Loan.fetch`."""
        loan = Loan(self)
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
            for tensor in {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}.values():
                loan.add(tensor, self._stream)
            loan.left.record(self._stream)
            self._leaving.append(loan)
            if len(self._leaving) > 1:
                self._see_off(self._leaving.pop(0))
        self._out.append(loan)
        return loan

    def _see_off(self, loan: Loan) -> None:
        """Empty what has been copied. The allocator hands emptied memory out again at once, in the order of launches,
        so kernels launched from now on wait for the copy: a device that computes faster than its link waits here
        instead of running full."""
        loan.left.wait(torch.cuda.current_stream(self.device))
        loan.empty()

    def forget(self) -> None:
        """All loans are over: the step is, or its forward was cut short and no backward will ask."""
        if self._stream is not None and self._out:
            self._stream.synchronize()
        for loan in self._out:
            loan.end()
        self._out, self._leaving = [], []

    def take(self, num_bytes: int) -> Tensor:
        """A pinned buffer of at least so many bytes."""
        size = -(-num_bytes // GRAIN_BYTES) * GRAIN_BYTES
        return self._free[size].pop() if self._free[size] else torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def give_back(self, buffer: Tensor) -> None:
        self._free[len(buffer)].append(buffer)

    def keep(self, loan: Loan) -> None:
        """It is wanted again before its memory was: do not empty it."""
        self._leaving = [other for other in self._leaving if other is not loan]

    def before(self, loan: Loan) -> Loan | None:
        """The loan that will be wanted next; this one is over."""
        if loan not in self._out:
            return None
        at = self._out.index(loan)
        del self._out[at:]  # later ones belong to a forward whose backward never came
        return self._out[at - 1] if at else None


class Loan:
    """Storages that are away."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._away: list[tuple[torch.UntypedStorage, int, Tensor]] = []
        self._is_coming = False
        self._is_empty = False
        if host.device.type == "cuda":
            self.left = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def add(self, tensor: Tensor, stream: torch.cuda.Stream) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        buffer = self._host.take(size)
        with torch.cuda.stream(stream):
            buffer[:size].copy_(_bytes(storage, size, tensor.device), non_blocking=True)
        self._away.append((storage, size, buffer))

    def empty(self) -> None:
        self._is_empty = True
        for storage, _, _ in self._away:
            storage.resize_(0)

    def start(self) -> None:
        """Begin to copy back, beside what computes now. What has not been emptied yet never left."""
        stream = self._host._stream
        if stream is None or self._is_coming:
            return
        self._is_coming = True
        if not self._is_empty:
            self._host.keep(self)
            return
        for storage, size, _ in self._away:
            storage.resize_(size)
        stream.wait_stream(torch.cuda.current_stream(self._host.device))
        with torch.cuda.stream(stream):
            for storage, size, buffer in self._away:
                _bytes(storage, size, self._host.device).copy_(buffer[:size], non_blocking=True)

    def end(self) -> None:
        """The buffers are free for others."""
        for _, _, buffer in self._away:
            self._host.give_back(buffer)
        self._away = []

    def fetch(self) -> None:
        """Everything is back for kernels launched from now on; the loan before this one begins to come."""
        self.start()
        if self._host._stream is not None:
            torch.cuda.current_stream(self._host.device).wait_stream(self._host._stream)
        self.end()
        if before := self._host.before(self):
            before.start()


def _bytes(storage: torch.UntypedStorage, size: int, device: torch.device) -> Tensor:
    """The storage as a row of bytes, without a copy."""
    return torch.empty(0, dtype=torch.uint8, device=device).set_(storage, 0, (size,))  # type: ignore[call-overload,no-any-return]
