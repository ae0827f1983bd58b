"""What a pool shall be, and what it serves: plain facts that everybody around pools speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from danlu.run.artifact import Manifest
from danlu.serving.board import Lens
from danlu.serving.drivers.about import ADAPTERS
from danlu.serving.drivers.driver import EngineSpec


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What a pool shall be; equal names are the same pool. "" and 0 are: not known, no bound."""

    name: str
    driver: str
    spec: EngineSpec
    """Without adapters: they come one by one. `max_adapters` is how many stay loaded."""
    takes: tuple[str, ...] = ()
    """Kinds of adapter artefacts that the driver loads."""
    base_digest: str = ""
    template_digest: str = ""
    max_rank: int = 0
    num_replicas: int = 1


def quantize_of(manifest: Manifest) -> str:
    """In what the base lay that an adapter was trained on; the files of a whole model are what they are."""
    return str(manifest.base.get("quantize") or "none") if manifest.kind in ADAPTERS else "none"


class Loadable(Protocol):
    """A lens with its files: `lenses.OpenedLens`."""

    @property
    def lens(self) -> Lens: ...

    @property
    def folder(self) -> Path | None: ...

    @property
    def manifest(self) -> Manifest | None: ...
