"""The contract of a driver: how one kind of engine process is started, when it is ready, how an adapter is named,
loaded and dropped in it, and how its rendering of a conversation is seen. Drivers speak HTTP; they load no model.

Addresses are `unix:/path` or `http(s)://…`; `endpoint` makes a URL of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from danlu.core.errors import EngineError
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About


@dataclass(frozen=True, slots=True)
class Can:
    """What an engine of this kind does. A gateway refuses what its pool cannot, in words, before asking."""

    loads_adapters: bool
    """At run time, in a running process. Otherwise a new adapter is a new process."""
    embeddings: bool = False
    adapter_embeddings: bool = False
    """Also by an adapter."""
    dimensions: bool = False
    """It makes embeddings as long as a client asks."""
    tools: bool = False
    forced_calls: bool = False
    """`tool_choice` of `required`, or of a function, makes sure of a call."""
    json_schema: bool = False
    logprobs: bool = False
    prompt_ids: bool = False
    """Whether it shows the token ids of a rendered conversation."""
    reads_control: bool = False
    """It takes control tokens in anybody's words (`<|im_end|>`) for real ones; `ChatFormat` breaks them up before."""
    stops: bool = False
    """`POST /cancel {"id"}` ends an answer by its id, and says, once it has left its seat, what was computed for it."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What a replica shall serve: files of this machine, chosen by the server, never by a client."""

    folder: Path | None
    """Base or merged model, or a GGUF file; None for an upstream."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Lens to the adapter's folder (or its GGUF file), loaded at the start."""
    name: str = "base"
    """What the base is called in the engine; at an upstream the model's name there."""
    speech: Path | None = None
    """Where tokenizer, template and generation settings lie, when not in `folder`: the artefact's own."""
    url: str = ""
    key_file: Path | None = None
    """An upstream's key, in a file that only its owner reads."""
    python: str = ""
    """The interpreter of the engine's own environment (vLLM, SGLang); empty: this one."""
    context: int = 0
    num_slots: int = 0
    """Requests that are answered at once; 0 leaves it to the engine."""
    num_threads: int = 0
    """0 leaves it to the driver."""
    max_rank: int = 16
    """Of adapters that may be loaded later."""
    max_adapters: int = 8
    dtype: str = "auto"
    quantize: str = "none"
    """In what the base lay that adapters were trained on; only a driver that `quantizes_bases` is told of any."""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """`secret` reaches the child by its standard input, never by argv; end of file there means: the parent is gone.
    `env` is added to the little of ours that children are given."""

    argv: Sequence[str]
    env: Mapping[str, str]
    address: str
    secret: str
    spare: Sequence[str] = ()
    """How to start a process that has loaded what every engine of this kind loads and becomes this one when it is told
    (`engines/spare.py`); empty where that is not worth its memory."""


class Driver(Protocol):
    name: str
    can: Can
    about: About

    # ---- for the choice

    def is_here(self, python: str) -> bool:
        """Whether what it needs is installed: here, or in the environment of this interpreter (`serving.program`)."""
        ...

    def missing(self) -> str:
        """What is not, and how one gets it; in words."""
        ...

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        """Why this artefact, of a kind that it takes, is not served by it all the same; in words."""
        ...

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        """What speaks for it on such a machine, and what against it without shutting it out; in words."""
        ...

    # ---- for the engine

    def command(self, spec: EngineSpec, folder: Path) -> Command | None:
        """How to start one; sockets and settings go into `folder`. None where there is nothing to start (upstream)."""
        ...

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        """(address, secret) of what is not started here; EngineError for drivers that start their own."""
        ...

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        """Lens to what the engine calls it, of those loaded at the start; the base's key is empty."""
        ...

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        """The request with the adapter named as this engine wants it (`model`, or llama.cpp's `lora`)."""
        ...

    async def is_ready(self, address: str, secret: str) -> bool: ...

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        """Load an adapter; what the engine calls it. EngineError with the engine's words when it refuses."""
        ...

    async def drop(self, address: str, secret: str, engine_name: str) -> None: ...

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        """The engine's own rendering of a chat request as token ids; None where it shows none."""
        ...


def endpoint(address: str, path: str) -> str:
    """The URL of `/chat/completions` and its like: below `/v1`, or right below the path that an upstream's address has
    (`https://host/api/paas/v4`). Of a unix socket's address the host is `engine`."""
    root = "http://engine" if address.startswith("unix:") else address.rstrip("/")
    return f"{root}{path}" if urlsplit(root).path else f"{root}/v1{path}"


def bare(address: str, path: str) -> str:
    """The URL of what lies beside `/v1`: an engine's own doors."""
    return ("http://engine" if address.startswith("unix:") else address.rstrip("/")) + path


def ids_of(reply: Any, where: str) -> list[int]:
    """`{"tokens": [ids]}`, as vLLM, SGLang, llama.cpp and our own engine say it."""
    tokens = reply.get("tokens") if isinstance(reply, dict) else None
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise EngineError("drivers.no_ids", where=where, said=str(reply)[:200])
    return tokens


def name_in_body(body: dict[str, Any], engine_name: str) -> dict[str, Any]:
    """For engines that tell usage in every event of a stream when asked: so an answer that is broken off is counted."""
    if not body.get("stream"):
        return body | {"model": engine_name}
    told = body.get("stream_options") or {}
    return body | {"model": engine_name, "stream_options": told | {"continuous_usage_stats": True}}
