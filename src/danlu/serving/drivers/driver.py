"""The contract of a driver: how one kind of engine process is started, when it is ready, how an adapter is named,
loaded and dropped in it, and how its rendering of a conversation is seen. Drivers speak HTTP; they load no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Can:
    """What an engine of this kind does. A gateway refuses what its pool cannot, in words, before asking."""

    loads_adapters: bool
    """At run time, in a running process. Otherwise a new adapter is a new process."""
    embeddings: bool = False
    tools: bool = False
    json_schema: bool = False
    logprobs: bool = False
    prompt_ids: bool = False
    """Whether it shows the token ids of a rendered conversation."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a replica shall serve: files of this machine, chosen by the server, never by a client."""

    folder: Path | None
    """Base or merged model, or a GGUF file's folder; None for an upstream."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    url: str = ""
    context: int = 0
    num_slots: int = 16
    """Requests that are answered at once."""
    num_threads: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """`secret` reaches the child by its standard input, never by argv; end of file there means: the parent is gone."""

    argv: Sequence[str]
    env: Mapping[str, str]
    address: str
    secret: str


class Driver(Protocol):
    name: str
    can: Can

    def command(self, spec: EngineSpec, folder: Path) -> Command | None:
        """How to start one; sockets and logs go into `folder`. None where there is nothing to start (upstream)."""
        ...

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        """The request with the adapter named as this engine wants it (`model`, or llama.cpp's `lora`)."""
        ...

    async def is_ready(self, address: str, secret: str) -> bool: ...

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        """Load an adapter; what the engine calls it."""
        ...

    async def drop(self, address: str, secret: str, engine_name: str) -> None: ...

    async def prompt_ids(
        self, address: str, secret: str, messages: Sequence[Mapping[str, Any]], engine_name: str
    ) -> list[int] | None:
        """The engine's own rendering as token ids; None where it shows none."""
        ...
