"""Which layers keep what for the backward pass, and where: the names that the engine's blocks know, and a mix of them.

`all` keeps a block's input, q|k|v, attention's output, the stream after attention, gate|up. `light` is without gate|up,
which one product brings back. `input` keeps the block's input alone. `-host` copies what is kept to pinned host memory;
`all-split` keeps gate|up on the device and copies the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kept = Literal["all", "light", "input"]
Policy = Literal["all", "light", "input", "all-split", "all-host", "light-host", "input-host"]
ORDER: tuple[Policy, ...] = ("input-host", "light-host", "all-host", "input", "light", "all-split", "all")
"""First layers first. The backward pass starts at the last layer: what is kept there lies longest beside the loss, but
is gone when an earlier, leaner layer needs room to recompute; and a copy from the host has all the time until then."""
LEANEST: frozenset[Policy] = frozenset({"input-host", "light-host", "input"})
"""Nothing is left to give up on the device that would be worth its time."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Which layers have which policy: (policy, layers) from the first layer on."""

    groups: tuple[tuple[Policy, int], ...]

    @classmethod
    def of(cls, policy: Policy, num_layers: int) -> Mix:
        return cls(((policy, num_layers),))

    @classmethod
    def counted(cls, counts: dict[Policy, int]) -> Mix:
        """So many layers of each, in the order of `ORDER`."""
        return cls(tuple((name, counts[name]) for name in ORDER if counts.get(name)))

    def __getitem__(self, policy: Policy) -> int:
        return sum(count for name, count in self.groups if name == policy)

    @property
    def layers(self) -> tuple[Policy, ...]:
        """One policy per layer, from the first on."""
        return tuple(name for name, count in self.groups for _ in range(count))

    def move(self, start: Policy, end: Policy, num_layers: int) -> Mix:
        """The same, ordered, with so many layers of one policy given another."""
        assert 0 <= num_layers <= self[start], f"{num_layers} of {self[start]} layers"
        change = {start: -num_layers, end: num_layers}
        return Mix.counted({name: self[name] + change.get(name, 0) for name in ORDER})

    @property
    def is_leanest(self) -> bool:
        return all(name in LEANEST for name, _ in self.groups)

    def to_json(self) -> dict[str, int]:
        return {name: self[name] for name in reversed(ORDER) if self[name]}


def kept(policy: Policy) -> Kept:
    name: Kept = policy.partition("-")[0]  # type: ignore[assignment]
    return name


def is_host(policy: Policy) -> bool:
    """Something of it goes to the host."""
    return "-" in policy


def is_split(policy: Policy) -> bool:
    """gate|up stays on the device."""
    return policy == "all-split"
