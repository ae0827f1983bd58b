"""Driver `native`: danlu's own engine, the one that models were trained and proven with. Many streams at once, adapters
loaded and dropped while it runs, several of them in one batch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from danlu.core.errors import EngineError
from danlu.core.messages import say
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About
from danlu.serving.drivers.driver import Can, Command, EngineSpec, bare, ids_of, name_in_body
from danlu.serving.drivers.requests import demand, fresh_secret, is_good, socket_in

ROOM = " " * 1024
"""An argument of a spare: in its place `ps` shows those of the engine that it becomes (`engines/own_name.py`)."""
SPARE_BYTES = 4 * 2**30
"""Models below this are loaded in less than two or three times what the libraries take: there a spare pays."""


class NativeDriver:
    name = "native"
    can = Can(
        loads_adapters=True, embeddings=True, adapter_embeddings=True, tools=True, forced_calls=True,
        json_schema=True, logprobs=True, prompt_ids=True, stops=True,
    )  # fmt: skip

    about = About(
        takes=("adapter", "vllm-lora", "merged", "vllm"), place={"cpu": 20, "cuda": 30},
        quantizes_bases=True,
        proofs={"danlu_logits": "danlu", "merged_logits": "danlu", "adapter_logits": "danlu"},
        figures={
            "cache": ("danlu_engine_cache_ratio",), "running": ("danlu_engine_running",),
            "queue": ("danlu_engine_waiting",),
        },
    )  # fmt: skip

    def is_here(self, python: str) -> bool:
        return importlib.util.find_spec("torch") is not None

    def missing(self) -> str:
        return say("drivers.con_package", package="torch", extra="train")

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        stored = str(manifest.parity.get("files_dtype", ""))
        is_packed = manifest.kind == "vllm" and stored in ("fp8", "int8")
        return [say("drivers.con_compressed", stored=stored)] if is_packed else []

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return [say("drivers.pro_native")], [say("drivers.con_native_gpu")] if device == "cuda" else []

    def command(self, spec: EngineSpec, folder: Path) -> Command:
        assert spec.folder is not None, "an engine of ours has a folder to load"
        socket = socket_in(folder)
        argv = [spec.python or sys.executable, "-m", "danlu.engines.server", str(spec.folder), "--socket", str(socket)]
        argv += ["--name", spec.name]
        for lens, place in spec.adapters.items():
            argv += ["--adapter", f"{lens}={place}"]
        wished = {
            "--speech": spec.speech, "--context": spec.context, "--slots": spec.num_slots,
            "--threads": spec.num_threads, "--device": spec.device,
            "--dtype": spec.dtype if spec.dtype != "auto" else "",
            "--quantize": spec.quantize if spec.quantize != "none" else "",
        }  # fmt: skip
        for flag, value in wished.items():
            argv += [flag, str(value)] if value else []
        spare = [argv[0], "-m", "danlu.engines.spare", ROOM] if _size_bytes(spec.folder) < SPARE_BYTES else []
        return Command(argv, {}, f"unix:{socket}", fresh_secret(), spare)

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        raise EngineError("drivers.own_address", driver=self.name)

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        return {"": spec.name} | {lens: lens for lens in spec.adapters}

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        return name_in_body(body, engine_name)

    async def is_ready(self, address: str, secret: str) -> bool:
        return await is_good(address, bare(address, "/ready"), secret)

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        place = str(folder.resolve())
        await demand(address, bare(address, "/adapters"), secret, {"name": name, "folder": place}, timeout_s=300.0)
        return name

    async def drop(self, address: str, secret: str, engine_name: str) -> None:
        await demand(
            address, bare(address, f"/adapters/{quote(engine_name, safe='')}"), secret, method="DELETE", timeout_s=60.0
        )

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        asked = dict(body) | {"model": engine_name}
        return ids_of(await demand(address, bare(address, "/tokenize"), secret, asked), address)


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
