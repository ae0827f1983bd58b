"""Driver `vllm`: vLLM's server, in an environment of its own, behind our keeper.

It listens on a unix socket in a private folder: its key guards `/v1` and little else (`/invocations`, `/tokenize` and
`/adapters` are open), so nobody but this user may reach any of it. The key reaches it by its environment, through the
keeper's standard input, and stands in no argument list. Adapters are loaded by the endpoint, never lazily: a bad one
that is found out while answering takes the whole engine with it (vllm#10546).

Without a GPU (0.32) a request for the base that shares a batch with adapters is answered by the last of these
(vllm#48421): a pool with adapters must not offer its base there. `choosing.py` makes none that does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.messages import say
from danlu.recipe.exports import VLLM_RANKS
from danlu.run.artifact import Manifest
from danlu.serving.drivers.about import About
from danlu.serving.drivers.driver import Can, Command, EngineSpec, bare, ids_of, name_in_body
from danlu.serving.drivers.peft_settings import beyond_plain
from danlu.serving.drivers.requests import demand, fresh_secret, is_good, socket_in
from danlu.serving.drivers.tool_parsers import tool_parser

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "DO_NOT_TRACK": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}  # fmt: skip
CPU_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
"""The second in GiB."""
LOAD_S = 300.0


class VLLMDriver:
    name = "vllm"
    can = Can(
        loads_adapters=True, tools=True, forced_calls=True, json_schema=True, logprobs=True, prompt_ids=True,
        reads_control=True,
    )  # fmt: skip

    about = About(
        takes=("vllm-lora", "adapter", "vllm", "merged"), place={"cpu": 30, "cuda": 10}, has_environment=True,
        proofs={"vllm_logits": "vLLM", "transformers_logits": "transformers", "peft_logits": "PEFT"},
        figures={
            "cache": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            "running": ("vllm:num_requests_running",), "queue": ("vllm:num_requests_waiting",),
        },
    )  # fmt: skip

    def is_here(self, python: str) -> bool:
        return bool(python) and Path(_program(python)).is_file()

    def missing(self) -> str:
        return say("drivers.con_program", program=self.name)

    def against(self, folder: Path, manifest: Manifest) -> list[str]:
        return beyond_plain(folder)

    def reasons(self, device: str, *, has_adapters: bool) -> tuple[list[str], list[str]]:
        return [say("drivers.pro_vllm")], [say("drivers.con_vllm_cpu")] if device == "cpu" else []

    def command(self, spec: EngineSpec, folder: Path) -> Command:
        assert spec.folder is not None, "vLLM has a folder to load"
        socket = socket_in(folder)
        is_cpu = spec.device == "cpu"
        argv = [sys.executable, "-m", "danlu.serving.drivers.keeper", "VLLM_API_KEY"]
        argv += [
            _program(spec.python),
            "serve",
            str(spec.folder),
            "--uds",
            str(socket),
            "--served-model-name",
            spec.name,
        ]
        argv += ["--disable-uvicorn-access-log", "--disable-fastapi-docs", "--load-format", "safetensors"]
        wished = {
            "--dtype": spec.dtype if spec.dtype != "auto" else "", "--max-model-len": spec.context,
            "--max-num-seqs": spec.num_slots,
        }  # fmt: skip
        for flag, value in wished.items():
            argv += [flag, str(value)] if value else []
        argv += _speech(spec)
        if spec.max_adapters:
            argv += ["--enable-lora", "--max-lora-rank", str(allowed_rank(spec.max_rank))]
            argv += ["--max-loras", str(spec.max_adapters), "--max-cpu-loras", str(2 * spec.max_adapters)]
        if spec.adapters:
            argv += ["--lora-modules", *(f"{lens}={place.resolve()}" for lens, place in spec.adapters.items())]
        parser = tool_parser(self.name, spec.speech or spec.folder)
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", parser] if parser else []
        argv += ["--enforce-eager"] if is_cpu else []
        environment = ENVIRONMENT | (CPU_ENVIRONMENT if is_cpu else {})
        return Command(argv, environment, f"unix:{socket}", fresh_secret())

    def where(self, spec: EngineSpec) -> tuple[str, str]:
        raise EngineError("drivers.own_address", driver=self.name)

    def engine_names(self, spec: EngineSpec) -> dict[str, str]:
        return {"": spec.name} | {lens: lens for lens in spec.adapters}

    def address_body(self, body: dict[str, Any], engine_name: str) -> dict[str, Any]:
        return name_in_body(body, engine_name)

    async def is_ready(self, address: str, secret: str) -> bool:
        return await is_good(address, bare(address, "/health"), secret)

    async def load(self, address: str, secret: str, name: str, folder: Path) -> str:
        asked = {"lora_name": name, "lora_path": str(folder.resolve())}
        await demand(address, bare(address, "/v1/load_lora_adapter"), secret, asked, timeout_s=LOAD_S)
        return name

    async def drop(self, address: str, secret: str, engine_name: str) -> None:
        await demand(address, bare(address, "/v1/unload_lora_adapter"), secret, {"lora_name": engine_name})

    async def prompt_ids(
        self, address: str, secret: str, body: Mapping[str, Any], engine_name: str
    ) -> list[int] | None:
        kept = {key: body[key] for key in ("messages", "tools", "chat_template_kwargs") if key in body}
        asked = kept | {"model": engine_name, "add_generation_prompt": True}
        return ids_of(await demand(address, bare(address, "/tokenize"), secret, asked), address)


def allowed_rank(rank: int) -> int:
    """The least `--max-lora-rank` that takes it."""
    fitting = [each for each in VLLM_RANKS if each >= rank]
    if not fitting:
        raise EngineError("drivers.rank", given=rank, most=VLLM_RANKS[-1])
    return fitting[0]


def _program(python: str) -> str:
    """`vllm` beside the interpreter that was named, or on the path."""
    return str(Path(python).parent / "vllm") if python else "vllm"


def _speech(spec: EngineSpec) -> list[str]:
    """The artefact's own words, where the weights come from the base's folder."""
    place = spec.speech or spec.folder
    assert place is not None, "there is a folder"
    argv = ["--generation-config", str(place)]
    if spec.speech is not None:
        argv += ["--tokenizer", str(spec.speech)]
    template = place / "chat_template.jinja"
    return [*argv, *(["--chat-template", str(template)] if template.is_file() else [])]
