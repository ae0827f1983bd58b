"""What a server is to be, and what it is to become at a reload: everything it needs to know, once somebody has read the
recipe."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.run.artifact import Manifest
from danlu.serving.drivers.driver import Command
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.rollout import Offer


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything the server needs to know; whoever makes it has read the recipe. `home` holds what it keeps and its
    sockets, `runs` the registry and the audit log."""

    home: Path
    runs: Path
    offers: tuple[Offer, ...]
    pool_for: Callable[[Path, Manifest], PoolPlan]
    """Which pool an artefact belongs to: base, driver, how many replicas. Asked for each that is added later too."""
    worker: Callable[[str, int, Path], Command]
    """(name, descriptor of the listening socket, path of the line) → how to start a gateway worker."""
    listener: socket.socket
    num_workers: int = 1
    allow_unverified: bool = False
    drain_s: float = 30.0
    """How long answers under way may go on at the end, and hold up a lens that shall make room."""
    answer_s: float = 600.0
    """How long an engine that was replaced may finish its answers."""
    patience: Patience = field(default_factory=Patience)
    """With engines."""
    cert: Path | None = None
    """Its end is one of the figures."""
    on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None
    """Told of what happened, and its facts; must not wait. `opened` {models} · `changed` {deed, model, from, to, …} ·
    `refused` {deed, model, why} · `reloaded` {workers, draining, added?, changed?, removed?, kept?} ·
    `engine` {replica, state, last_end, problem?} · `worker` {name, state, last_end} · `warning` {lens, why}."""
    renew: Callable[[], Renewal] | None = None
    """The settings read again, at a reload; None where there is nothing to read. A DanluError where they cannot be
    used: then everything stays as it is. Runs in a thread: artefacts are hashed."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A setting that was changed in its file and cannot be changed in a running server."""

    knob: str
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a reload shall go by from now on, and what of it has to wait for the next start. The plan's listener is
    another one where the address is."""

    plan: Plan
    num_replicas: int
    kept: tuple[Kept, ...] = ()
