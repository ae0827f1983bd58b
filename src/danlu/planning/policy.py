"""Which layers keep what for the backward pass, and where: the names that the engine's blocks know, and a mix of them.

`all` keeps a block's input, q|k|v, attention's output, the stream after attention, gate|up. `light` is without gate|up,
which one product brings back. `input` keeps the block's input alone. `-host` copies what is kept to pinned host memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kept = Literal["all", "light", "input"]
Policy = Literal["all", "light", "input", "all-host", "light-host", "input-host"]
ORDER: tuple[Policy, ...] = ("input-host", "light-host", "all-host", "input", "light", "all")
"""First layers first. The backward pass starts at the last layer: what is kept there lies longest beside the loss, but
is gone when an earlier, leaner layer needs room to recompute; and a copy from the host has all the time until then."""


@dataclass(frozen=True, slots=True)
class Mix:
    """How many layers have each policy, in the order of `ORDER`."""

    counts: tuple[int, ...]

    @classmethod
    def of(cls, policy: Policy, num_layers: int) -> Mix:
        return cls(tuple(num_layers if name == policy else 0 for name in ORDER))

    def __getitem__(self, policy: Policy) -> int:
        return self.counts[ORDER.index(policy)]

    @property
    def groups(self) -> tuple[tuple[Policy, int], ...]:
        """(policy, layers) from the first layer on, without those that no layer has."""
        return tuple((name, count) for name, count in zip(ORDER, self.counts, strict=True) if count)

    @property
    def layers(self) -> tuple[Policy, ...]:
        """One policy per layer, from the first on."""
        return tuple(name for name, count in self.groups for _ in range(count))

    def move(self, start: Policy, end: Policy, num_layers: int) -> Mix:
        """The same with so many layers of one policy given another."""
        assert 0 <= num_layers <= self[start], f"{num_layers} of {self[start]} layers"
        change = {start: -num_layers, end: num_layers}
        return Mix(tuple(n + change.get(name, 0) for name, n in zip(ORDER, self.counts, strict=True)))

    def to_json(self) -> dict[str, int]:
        return dict(reversed(self.groups))


def kept(policy: Policy) -> Kept:
    name: Kept = policy.removesuffix("-host")  # type: ignore[assignment]
    return name


def is_host(policy: Policy) -> bool:
    return policy.endswith("-host")
