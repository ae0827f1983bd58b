"""The board: one immutable snapshot of what can be asked and where it is answered. The server process makes it, workers
read it, and a request keeps the one it began with; so an alias is switched between two requests, never within one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from danlu.serving.chat_format import ChatFormat

State = Literal["ready", "draining", "down", "failed"]
PLAIN = ChatFormat()


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
    takes_tools: bool = True
    """False: the engine would not find a call in its answers."""
    chat_format: ChatFormat = PLAIN
    """What is said around each conversation, as in training."""


@dataclass(frozen=True, slots=True)
class Replica:
    """`address` is `http://127.0.0.1:port`, `unix:/path` or an upstream's URL; `secret` goes out as a bearer token.
    `draining` gets nothing new while its last answers end; `down` is being started, or asked until it answers; `failed`
    does not come back before somebody looks at it."""

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
    """`number` grows by one with each board of a server process."""

    number: int
    models: tuple[Model, ...]
    lenses: tuple[Lens, ...]
    replicas: tuple[Replica, ...]

    def to_bytes(self) -> bytes:
        """One line of JSON. It holds the engines' secrets: it goes through the line and nowhere else."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Board:
        return cls(
            number=value["number"],
            models=tuple(Model(one["name"], _pairs(one["lenses"]), one["created"]) for one in value["models"]),
            lenses=tuple(Lens(**(one | {"chat_format": _chat_format(one["chat_format"])})) for one in value["lenses"]),
            replicas=tuple(Replica(**(one | {"lenses": _pairs(one["lenses"])})) for one in value["replicas"]),
        )


EMPTY = Board(0, (), (), ())
"""Before the first one came."""


def _chat_format(value: Mapping[str, Any]) -> ChatFormat:
    plain: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return ChatFormat(**plain)


def _pairs(value: list[list[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in value)
