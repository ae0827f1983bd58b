"""What a driver says of itself on its class: by it `engine: auto` chooses, and figures are read. So a driver of another
package is chosen, refused and explained like ours, with nothing written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PEFT_ADAPTERS = ("adapter", "vllm-lora")
GGUF_ADAPTERS = ("gguf-lora",)
ADAPTERS = PEFT_ADAPTERS + GGUF_ADAPTERS
"""Kinds of artefacts that are put on a base; every other is a whole model."""
Device = Literal["cpu", "cuda"]
LAST = 100


@dataclass(frozen=True, slots=True)
class About:
    takes: tuple[str, ...] = ()
    """Kinds of artefacts that it serves, the preferred first; none: it is never chosen, only named."""
    devices: tuple[Device, ...] = ("cpu", "cuda")
    """Where it runs at all."""
    place: Mapping[Device, int] = field(default_factory=dict)
    """By device: `auto` takes the lowest of those that can; absent: after all others."""
    has_environment: bool = False
    """It runs in an environment of its own, which `serving.program` names."""
    quantizes_bases: bool = False
    """It puts adapters on a base in few bits, quantised as training did (`EngineSpec.quantize`). Who does not would put
    them on the whole base, which is another one than was trained on and proven."""
    is_gguf: bool = False
    """Its files are GGUF: the base of its adapters is one too, and a file says itself in what it is computed."""
    proofs: Mapping[str, str] = field(default_factory=dict)
    """Checks of an artefact's proof whose reading is that of this engine, or nearest to it: check to who read."""
    figures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What its own `/metrics` calls `cache` (share in use), `running` and `queue` (requests); newer names first."""

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.takes if kind in ADAPTERS)
