"""What a CUDA card can compute, by its compute capability: number formats, attention kernels, fp8. A table and rules
over it, without torch and without a GPU, so that a plan for another card reads the same facts.

Sources: CUDA C++ Programming Guide, "Compute Capabilities"; torch's `_scaled_mm` (fp8 by tensor from Ada, by row from
Hopper; rows fail on sm_120); FlashAttention-2 (Ampere on); Triton's supported hardware (Ampere on); torch's wheels for
CUDA 12.8 and later, which leave Volta out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Fp8 = Literal["row", "tensor"]
AttentionKind = Literal["flash", "memory-efficient", "padded"]

FIRST_TORCH_WITH_ROWS = (2, 5)


@dataclass(frozen=True, slots=True)
class Capability:
    """`dtype` is the format to train in where the recipe says auto; fp16 wants its loss scaled. `fp8` is the finest
    scaling that products take, None where there are none. `remarks` are keys of messages that are said once."""

    generation: str
    dtype: Literal["bfloat16", "float16", "float32"]
    attention: AttentionKind
    has_kernels: bool
    """Triton compiles for it: danlu's fused kernels and torch.compile run."""
    fp8: Fp8 | None
    remarks: tuple[str, ...]

    @property
    def has_bf16(self) -> bool:
        return self.dtype == "bfloat16"


_GENERATIONS = {
    (0, 0): "pre-Pascal", (6, 0): "Pascal", (7, 0): "Volta", (7, 5): "Turing", (8, 0): "Ampere", (8, 9): "Ada",
    (9, 0): "Hopper", (10, 0): "Blackwell", (11, 0): "Thor", (12, 0): "Blackwell RTX",
}  # fmt: skip
"""From which capability on a card is called so."""


def capability_of(major: int, minor: int, torch_version: str) -> Capability:
    """What a card of capability `major.minor` can do under this torch (`2.11.0+cu130`)."""
    card = (major, minor)
    generation = _GENERATIONS[max(first for first in _GENERATIONS if first <= card)]
    remarks = []
    if card < (7, 0):
        return Capability(generation, "float32", "padded", False, None, ("device.too_old",))
    if card < (8, 0):
        remarks = ["device.no_bf16", "device.no_flash", "device.no_kernels"]
        return Capability(generation, "float16", "memory-efficient", False, None, tuple(remarks))
    return Capability(generation, "bfloat16", "flash", True, _fp8(card, torch_version), ())


def _fp8(card: tuple[int, int], torch_version: str) -> Fp8 | None:
    if card < (8, 9):
        return None
    has_rows = card in ((9, 0), (10, 0), (10, 3)) and _numbers(torch_version) >= FIRST_TORCH_WITH_ROWS
    return "row" if has_rows else "tensor"


def is_in_build(major: int, minor: int, architectures: Sequence[str]) -> bool:
    """Does a torch built for these (`torch.cuda.get_arch_list()`: sm_80, sm_90a, compute_120 …) run on the card?
    Machine code runs on later minors of its own major, intermediate code (`compute_`) on everything later."""
    for name in architectures:
        kind, _, digits = name.partition("_")
        found = re.match(r"(\d+)(\d)(\w?)$", digits)
        if found is None:
            continue
        built = (int(found[1]), int(found[2]))
        is_portable = kind == "compute" and not found[3]
        if (built[0] == major and built[1] <= minor) or (is_portable and built <= (major, minor)):
            return True
    return False


def _numbers(version: str) -> tuple[int, ...]:
    """2.11.0+cu130 as (2, 11)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:2])
