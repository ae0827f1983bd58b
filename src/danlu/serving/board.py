"""The board: one immutable snapshot of what can be asked and where it is answered. The server process makes it, workers
read it, and a request keeps the one it began with; so an alias flips between two requests, never within one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ready", "draining", "down"]


@dataclass(frozen=True, slots=True)
class Lens:
    """An adapter version on a pool's base (or the base itself). `name` is immutable: content, not position."""

    name: str
    pool: str
    is_base: bool = False
    label: str = ""
    """`law:3`, where it is a version of the registry."""
    context: int = 0
    """Tokens of prompt and answer together; 0: not known."""


@dataclass(frozen=True, slots=True)
class Replica:
    """`address` is `http://127.0.0.1:port`, `unix:/path` or an upstream's URL; `secret` goes out as a bearer token."""

    name: str
    pool: str
    driver: str
    address: str
    secret: str
    state: State
    lenses: tuple[tuple[str, str], ...]
    """(lens, what the engine calls it) of those loaded here."""


@dataclass(frozen=True, slots=True)
class Model:
    """What clients name: lenses with weights that sum to 1 (one lens, but for a canary split)."""

    name: str
    lenses: tuple[tuple[str, float], ...]
    created: int


@dataclass(frozen=True, slots=True)
class Board:
    number: int
    models: tuple[Model, ...]
    lenses: tuple[Lens, ...]
    replicas: tuple[Replica, ...]
