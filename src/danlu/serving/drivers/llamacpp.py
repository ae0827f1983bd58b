"""Driver `llamacpp`: a GGUF file in llama.cpp's own server (the wheel `xllamacpp`), in a process of its own.

Adapters are GGUF files fixed at the start; each request says which one by `lora`, written here and never by a client.
So a new adapter is a new process. Files are read by our own parser before llama.cpp sees them (CVE-2025-53630,
CVE-2026-27940: headers that overflow).

No embeddings: it can make them beside answers, but a text's mean is wrong as soon as two texts of unlike length are
computed at once (with several slots: the longer one's is that of its last tokens), and an adapter's are the base's.
A llama.cpp that was started to embed, with one slot, is an upstream like any other.

Calls that are asked for (`tool_choice`) are not made sure of (2026.10): `required` lets any text come before the call
and only keeps the answer from ending, so a model that would not call writes on to its limit; a function's name is taken
for `auto`. A grammar of ours is refused beside tools, and without tools its calls would be text, to find in streams.

Threads: llama.cpp's own default spins on busy cores; one thread serves small models best, larger ones get the cores.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import dump_json, write_bytes
from danlu.core.messages import say
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About
from danlu.serving.drivers.driver import Can, Command, EngineSpec, bare, ids_of
from danlu.serving.drivers.gguf_header import Header, check_gguf
from danlu.serving.drivers.requests import demand, fresh_secret, is_good, socket_in

SETTINGS = "llamacpp.json"
DEFAULT_SLOTS = 4
SMALL_BYTES = 512 * 2**20
_ADAPTER = "lora:"


class LlamaCppDriver:
    name = "llamacpp"
    can = Can(
        loads_adapters=False, tools=True, json_schema=True, logprobs=True, prompt_ids=True, reads_control=True
    )  # fmt: skip

    about = About(
        takes=("gguf", "ollama", "lmstudio", "gguf-lora"), place={"cpu": 10, "cuda": 40}, is_gguf=True,
        proofs={"llamacpp_logits": "llama.cpp"},
        figures={
            "cache": ("llamacpp:kv_cache_usage_ratio",), "running": ("llamacpp:requests_processing",),
            "queue": ("llamacpp:requests_deferred",),
        },
    )  # fmt: skip

    def is_here(self, python: str) -> bool:
        return importlib.util.find_spec("xllamacpp") is not None

    def missing(self) -> str:
        return say("drivers.con_package", package="xllamacpp", extra="export")

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        return []

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return [say("drivers.pro_llamacpp")], [say("drivers.con_fixed")] if has_adapters else []

    def command(self, spec: EngineSpec, folder: Path) -> Command:
        assert spec.folder is not None, "llama.cpp has a file to load"
        model = gguf_in(spec.folder)
        header = check_gguf(model)
        adapters = [gguf_in(place) for place in spec.adapters.values()]
        for adapter in adapters:
            _check_pair(header, check_gguf(adapter), adapter)
        socket = socket_in(folder)
        context = min(spec.context or header.context, header.context) if header.context else spec.context or 4096
        settings = {
            "model": str(model), "adapters": [str(path) for path in adapters], "socket": str(socket),
            "context": context, "slots": spec.num_slots or DEFAULT_SLOTS, "name": spec.name,
            "threads": spec.num_threads or threads_for(model.stat().st_size), "is_f32": header.is_f32,
            "gpu": spec.device not in ("", "cpu"),
        }  # fmt: skip
        write_bytes(folder / SETTINGS, dump_json(settings))
        argv = [spec.python or sys.executable, "-m", "danlu.serving.drivers.llamacpp_child", str(folder / SETTINGS)]
        return Command(argv, {}, f"unix:{socket}", fresh_secret())

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        raise EngineError("drivers.own_address", driver=self.name)

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        return {"": spec.name} | {lens: f"{_ADAPTER}{number}" for number, lens in enumerate(spec.adapters)}

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        if not engine_name.startswith(_ADAPTER):
            return body | {"model": engine_name, "lora": []}
        number = int(engine_name.removeprefix(_ADAPTER))
        return body | {"model": engine_name, "lora": [{"id": number, "scale": 1.0}]}

    async def is_ready(self, address: str, secret: str) -> bool:
        return await is_good(address, bare(address, "/health"), secret)

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        raise EngineError("drivers.fixed_adapters", given=name)

    async def drop(self, address: str, secret: str, engine_name: str) -> None:
        """Nothing to do: it goes with its process."""

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        told = await demand(address, bare(address, "/apply-template"), secret, dict(body))
        asked = {"content": str(told["prompt"]), "parse_special": True, "add_special": True}
        return ids_of(await demand(address, bare(address, "/tokenize"), secret, asked), address)


def gguf_in(place: Path) -> Path:
    """The file itself, or the one GGUF file of an artefact's folder."""
    if place.is_file():
        return place
    files = sorted(place.rglob("*.gguf"))
    if len(files) != 1:
        raise EngineError("drivers.no_gguf", where=str(place), num=len(files))
    return files[0]


def threads_for(size_bytes: int) -> int:
    return 1 if size_bytes < SMALL_BYTES else max(1, (os.cpu_count() or 2) - 1)


def _check_pair(model: Header, adapter: Header, where: Path) -> None:
    """llama.cpp checks little more than names; an adapter of another architecture is refused here."""
    if adapter.kind != "adapter" or adapter.architecture != model.architecture:
        given = f"{adapter.kind} {adapter.architecture}"
        raise EngineError("drivers.wrong_adapter", where=str(where), given=given, expected=model.architecture)
