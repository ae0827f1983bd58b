"""Driver `sglang`: SGLang's server, in an environment of its own, behind our keeper. It needs a GPU.

It has no unix socket: it listens on the loopback, and its key, which here guards every door but health and metrics,
stands in a settings file that only this user reads, not in an argument list.

Not run here. Held to the source of 0.5.23 instead, file by file: the settings go through its own parser
(server_args.py, utils/server_args_config_parser.py: every one is taken, `lora-paths` only as an argument); routes and
bodies of /v1/chat/completions, /tokenize, /load_lora_adapter, /unload_lora_adapter, /health (entrypoints/
http_server.py, openai/protocol.py, serving_tokenize.py, managers/io_struct.py); who may enter (utils/auth.py); usage in
every event of a stream (openai/utils.py); names of metrics (observability/metrics_collector.py). Whether it computes
what was trained, the door's questions find out.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import EngineError
from danlu.core.messages import say
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About
from danlu.serving.drivers.driver import Can, Command, EngineSpec, bare, ids_of, name_in_body
from danlu.serving.drivers.peft_settings import beyond_plain
from danlu.serving.drivers.requests import demand, free_port, fresh_secret, is_good
from danlu.serving.drivers.tool_parsers import tool_parser

SETTINGS = "sglang.yaml"
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
LOAD_S = 300.0
_ADAPTER = "lora:"


class SGLangDriver:
    name = "sglang"
    can = Can(
        loads_adapters=True, tools=True, forced_calls=True, json_schema=True, logprobs=True, prompt_ids=True,
        reads_control=True,
    )  # fmt: skip

    about = About(
        takes=("vllm-lora", "adapter", "vllm", "merged"), devices=("cuda",), place={"cuda": 20}, has_environment=True,
        proofs={"transformers_logits": "transformers", "peft_logits": "PEFT"},
        figures={
            "cache": ("sglang:token_usage",), "running": ("sglang:num_running_reqs",),
            "queue": ("sglang:num_queue_reqs",),
        },
    )  # fmt: skip

    def is_here(self, python: str) -> bool:
        root = Path(python).parent.parent
        return bool(python) and any(root.glob("lib/python3*/site-packages/sglang"))

    def missing(self) -> str:
        return say("drivers.con_program", program=self.name)

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        return beyond_plain(folder)

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return [say("drivers.pro_sglang")], []

    def command(self, spec: EngineSpec, folder: Path) -> Command:
        assert spec.folder is not None, "SGLang has a folder to load"
        secret, port = fresh_secret(), free_port()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / SETTINGS
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            yaml.safe_dump(settings_of(spec, port=port) | {"api-key": secret}, file, allow_unicode=True)
        argv = [sys.executable, "-m", "danlu.serving.drivers.keeper", "-"]
        argv += [spec.python or "python", "-m", "sglang.launch_server", "--config", str(path)]
        if spec.adapters:
            argv += ["--lora-paths", *(f"{lens}={place.resolve()}" for lens, place in spec.adapters.items())]
        return Command(argv, ENVIRONMENT, f"http://127.0.0.1:{port}", secret)

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        raise EngineError("drivers.own_address", driver=self.name)

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        return {"": spec.name} | {lens: f"{_ADAPTER}{lens}" for lens in spec.adapters}

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        if engine_name.startswith(_ADAPTER):
            return name_in_body(body, "base") | {"lora_path": engine_name.removeprefix(_ADAPTER)}
        return name_in_body(body, engine_name)

    async def is_ready(self, address: str, secret: str) -> bool:
        return await is_good(address, bare(address, "/health"), secret)

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        asked = {"lora_name": name, "lora_path": str(folder.resolve())}
        told = await demand(address, bare(address, "/load_lora_adapter"), secret, asked, timeout_s=LOAD_S)
        if isinstance(told, dict) and told.get("success") is False:
            raise EngineError("drivers.refused", where=address, status=200, said=str(told.get("error_message"))[:300])
        return f"{_ADAPTER}{name}"

    async def drop(self, address: str, secret: str, engine_name: str) -> None:
        asked = {"lora_name": engine_name.removeprefix(_ADAPTER)}
        await demand(address, bare(address, "/unload_lora_adapter"), secret, asked)

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        """Rendered as it renders a chat request; adapters have no tokenizer of their own there."""
        kept = {key: body[key] for key in ("messages", "tools", "chat_template_kwargs") if key in body}
        asked = kept | {"model": "base"}
        return ids_of(await demand(address, bare(address, "/tokenize"), secret, asked), address)


def settings_of(spec: EngineSpec, *, port: int) -> dict[str, Any]:
    """Its server arguments, as `--config` reads them."""
    place = spec.speech or spec.folder
    assert place is not None, "there is a folder"
    template = place / "chat_template.jinja"
    wished: dict[str, Any] = {
        "model-path": str(spec.folder), "served-model-name": spec.name, "host": "127.0.0.1", "port": port,
        "load-format": "safetensors", "tokenizer-path": str(spec.speech) if spec.speech else None,
        "chat-template": str(template) if template.is_file() else None, "context-length": spec.context or None,
        "max-running-requests": spec.num_slots or None, "dtype": spec.dtype if spec.dtype != "auto" else None,
        "enable-metrics": True, "log-level-http": "warning",
        "tool-call-parser": tool_parser(SGLangDriver.name, place) or None,
    }  # fmt: skip
    if spec.max_adapters:
        # targets are told: adapters that come later may have others than those of the start
        wished |= {
            "enable-lora": True, "max-lora-rank": spec.max_rank, "lora-target-modules": ["all"],
            "max-loras-per-batch": spec.max_adapters,
        }  # fmt: skip
    return {key: value for key, value in wished.items() if value is not None}
