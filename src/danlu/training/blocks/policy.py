"""What a block keeps from its forward for its backward, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kept = Literal["all", "light", "input"]
Where = Literal["device", "host", "split"]


@dataclass(frozen=True, slots=True)
class Policy:
    """`all`: the block's input, queries, keys and values, attention's output, the stream after it, gate and up; what is
    pointwise is computed again. `light`: the same without gate and up, whose product is computed again. `input`: the
    input alone; all products but the last are computed again. `host` keeps it in the machine's memory instead of the
    device's, copied while the next blocks compute; `split` keeps gate and up on the device and the rest in the host's,
    for they are two thirds of the bytes, and the link is slow."""

    kept: Kept = "all"
    where: Where = "device"

    @property
    def name(self) -> str:
        return self.kept if self.where == "device" else f"{self.kept}-{self.where}"

    @classmethod
    def parse(cls, name: str) -> Policy:
        """The inverse of `name`."""
        kept, _, where = name.partition("-")
        assert kept in ("all", "light", "input") and where in ("", "host", "split"), f"no such policy: {name}"
        return cls(kept, where or "device")  # type: ignore[arg-type]


LADDER = tuple(
    (Policy.parse(fast), Policy.parse(lean))
    for fast, lean in (
        ("all", "light"), ("all-split", "light-host"), ("all-host", "light-host"), ("light", "input"),
        ("input", "input-host"), ("light-host", "input-host"),
    )
)  # fmt: skip
"""What a layer steps down to when memory ends, in the order in which it is tried."""
