"""State that lies in the machine's memory and visits the device a chunk at a time.

A visit copies a chunk in on one stream, lets the caller change it on the current one and copies it back on a third.
Nobody waits on the CPU: it launches far ahead, so that the next chunks come in while the device still computes what it
was given before, as many as there are berths. The link carries both ways at once. Each number is computed by the same
kernels on the same device as without; where it lies between two steps changes no bit.

Shapes: N elements of a parameter; a state tensor has one entry for each of them, or one for a group of 256.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from danlu.ops.adamw_8bit import GROUP
from danlu.training.host_memory import ALIGNMENT_BYTES

CHUNK = 2**24
"""Elements of a parameter on board at once; whole groups of 8-bit moments."""
NUM_BERTHS = 3
"""One comes in, one is changed, one goes back."""


@dataclass(slots=True)
class Cargo:
    """What of one parameter's state lies ashore, by name, flat."""

    num_elements: int
    tensors: Mapping[str, Tensor]
    home: torch.cuda.Event | None = field(default=None, repr=False)
    """When all that left is back."""

    def part(self, name: str, span: slice) -> Tensor:
        """The entries for a span of elements."""
        return entries(self.tensors[name], span, self.num_elements)


def entries(tensor: Tensor, span: slice, num_elements: int) -> Tensor:
    """Of a state tensor those that belong to a span of its parameter's elements, whole groups but for the last."""
    if tensor.numel() == num_elements:
        return tensor[span]
    return tensor[span.start // GROUP : -(-span.stop // GROUP)]


class Ferry:
    """One per optimizer. `bytes_per_element` of all that one chunk brings."""

    def __init__(self, device: torch.device, bytes_per_element: float, chunk: int = CHUNK) -> None:
        assert chunk % GROUP == 0, "moments of a group share a scale"
        self.chunk = chunk
        self._device, self._is_cuda = device, device.type == "cuda"
        size = int(chunk * bytes_per_element) + 8 * ALIGNMENT_BYTES
        self._berths = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(NUM_BERTHS)]
        self._last: list[torch.cuda.Event | None] = [None] * NUM_BERTHS
        self._num_visits = 0
        if self._is_cuda:
            self._incoming, self._outgoing = (torch.cuda.Stream(device) for _ in range(2))  # type: ignore[no-untyped-call]
            self._incoming.wait_stream(torch.cuda.current_stream(device))  # whose memory the berths may have been
            for berth in self._berths:
                berth.record_stream(self._incoming)
                berth.record_stream(self._outgoing)

    def visits(self, cargo: Cargo) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """(which elements, their state on the device), chunk after chunk; what is changed there goes home."""
        home_before = cargo.home  # of the last visit: chunks of this one do not wait for each other
        for start in range(0, cargo.num_elements, self.chunk):
            span = slice(start, min(start + self.chunk, cargo.num_elements))
            berth = self._num_visits % NUM_BERTHS
            self._num_visits += 1
            homes = {name: cargo.part(name, span) for name in cargo.tensors}
            aboard = _views(self._berths[berth], homes)
            with self._stream_in(self._last[berth], home_before):
                for name, home in homes.items():
                    aboard[name].copy_(home, non_blocking=True)
            if self._is_cuda:
                torch.cuda.current_stream(self._device).wait_stream(self._incoming)
            yield span, aboard
            with self._stream_out():
                for name, home in homes.items():
                    home.copy_(aboard[name], non_blocking=True)
            cargo.home = self._last[berth] = self._departed()

    def _stream_in(self, *events: torch.cuda.Event | None) -> AbstractContextManager[object]:
        """Copies wait until the berth is empty and the cargo is ashore."""
        if not self._is_cuda:
            return contextlib.nullcontext()
        for event in events:
            if event is not None:
                self._incoming.wait_event(event)
        return torch.cuda.stream(self._incoming)

    def _stream_out(self) -> AbstractContextManager[object]:
        if not self._is_cuda:
            return contextlib.nullcontext()
        self._outgoing.wait_stream(torch.cuda.current_stream(self._device))
        return torch.cuda.stream(self._outgoing)

    def _departed(self) -> torch.cuda.Event | None:
        return self._outgoing.record_event() if self._is_cuda else None

    def wait(self) -> None:
        """Until everything is ashore: before anybody else reads it."""
        if self._is_cuda:
            self._incoming.synchronize()
            self._outgoing.synchronize()


def _views(berth: Tensor, homes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Room in a berth for each of these, in their dtypes."""
    views, taken = {}, 0
    for name, home in homes.items():
        views[name] = berth[taken : taken + home.nbytes].view(home.dtype)
        taken += -(-home.nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return views
