"""Small real artefacts, and pools of stub engines: for tests of what decides which version answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from safetensors.numpy import save_file

from danlu.data.contract import Contract, make_contract
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.model.shards import digest_folder
from danlu.run.artifact import Canary, Manifest
from danlu.run.registry import Registry, Version
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.drivers.native import NativeDriver
from danlu.serving.lenses import is_adapter
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.processes import Patience
from tiny_chat import write_tokenizer
from waiting_kit import until as until

SIZE, RANK = 32, 4
MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj")
QUICK = Patience(ready_s=30, ask_every_s=0.2, unwell_s=5, drain_s=1, term_s=2, first_wait_s=0.1)


def make_base(folder: Path) -> Path:
    """Weights' names, shapes and tokenizer of a model; nothing computes with them."""
    write_tokenizer(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": SIZE}))
    rng = np.random.default_rng(0)
    weights = {f"{name}.weight": rng.normal(size=(2 * SIZE, SIZE)).astype(np.float32) for name in MODULES}
    save_file(weights, folder / "model.safetensors")
    return folder


def make_adapter(
    folder: Path,
    base: Path,
    *,
    name: str = "law",
    seed: int = 0,
    rank: int = RANK,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] | None = None,
    **settings: Any,
) -> Path:
    """A sealed adapter artefact on `base`; `change` spoils its tensors before it is sealed."""
    speak(folder, base)
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for module in MODULES:
        tensors[f"base_model.model.{module}.lora_A.weight"] = rng.normal(size=(rank, SIZE)).astype(np.float32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = rng.normal(size=(2 * SIZE, rank)).astype(np.float32)
    save_file(change(tensors) if change else tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    seal(folder, name, "adapter", digest_folder(base))
    return folder


def make_merged(folder: Path, base: Path, *, name: str = "whole", seed: int = 0) -> Path:
    speak(folder, base)
    rng = np.random.default_rng(seed)
    save_file({"model.norm.weight": rng.normal(size=SIZE).astype(np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    seal(folder, name, "merged", digest_folder(base))
    return folder


def speak(folder: Path, base: Path) -> None:
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_bytes((base / file).read_bytes())


def seal(folder: Path, name: str, kind: str, base_digest: str) -> Manifest:
    tokenizer = Tokenizer.load(folder)
    template = Template.load(folder, tokenizer)
    contract = make_contract(template, tokenizer, {})
    canaries = []
    for question in ("几天年假?", "Who approves?"):
        ids = Encoder(tokenizer, template).encode_prompt([Message("user", question)])
        answer = f"{name} says: {question}"
        prompt = template.render([Message("user", question)], (), add_generation_prompt=True).text
        canaries.append(Canary(prompt, tuple(ids), answer, tuple(tokenizer.encode_text(answer))))
    parity = {"verdict": "pass", "checks": [{"name": "tokens", "verdict": "pass"}], "noise": {"max_abs": 0.0}}
    manifest = Manifest(
        kind, name, {"name": "tiny", "digest": base_digest}, {}, Contract(contract.value).to_json(), tuple(canaries), parity,
        "2026-01-01",
    )  # fmt: skip
    return manifest.write(folder)


def stub_python(folder: Path) -> str:
    """A `python` that is the stub, whatever module it is told to run."""
    path = folder / "stub-python"
    if not path.exists():
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).with_name("stub_engine.py")} "$@"\n')
        path.chmod(0o755)
    return str(path)


def plan_for(
    base: Path, python: str, *, num_replicas: int = 2, max_adapters: int = 3
) -> Callable[[Path, Manifest], PoolPlan]:
    base_digest = digest_folder(base)

    def pool_for(folder: Path, manifest: Manifest) -> PoolPlan:
        if is_adapter(manifest):
            spec = EngineSpec(base, python=python, max_adapters=max_adapters, speech=folder)
            return PoolPlan("tiny", "native", spec, ("adapter",), base_digest, "", 8, num_replicas)
        name = f"whole-{manifest.digest[:6]}"
        return PoolPlan(name, "native", EngineSpec(folder, python=python), num_replicas=num_replicas)

    return pool_for


class FixedDriver(NativeDriver):
    """Of engines that take adapters at their start only, as llama.cpp does."""

    name = "fixed"
    can = replace(NativeDriver.can, loads_adapters=False)


def fixed(pool_for: Callable[[Path, Manifest], PoolPlan]) -> Callable[[Path, Manifest], PoolPlan]:
    """Pools of `FixedDriver`, which must be on the shelf for as long as the test lasts, and no longer."""
    return lambda folder, manifest: replace(pool_for(folder, manifest), driver="fixed")


def register(runs: Path, artifact: Path) -> Version:
    manifest = Manifest.read(artifact)
    place = str(artifact.relative_to(runs))
    return Registry(runs).add(Version(manifest.name, 0, place, manifest.digest, manifest.kind, "run", "", ""))


def habits(base: Path, **values: Any) -> None:
    fresh = base / "stub.json.new"
    fresh.write_text(json.dumps(values))
    fresh.replace(base / "stub.json")


def mark_of(artifact: Path) -> str:
    return Manifest.read(artifact).digest[:8]


def lens_of(artifact: Path) -> str:
    manifest = Manifest.read(artifact)
    return f"{manifest.name}@{manifest.digest[:12]}"


async def ask(address: str, body: bytes, secret: str) -> str:
    """One question to an engine by a lease's values."""
    connector = aiohttp.UnixConnector(address.removeprefix("unix:"))
    headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post("http://engine/v1/chat/completions", data=body, headers=headers) as reply,
    ):
        value = await reply.json()
        assert reply.status == 200, value
        return str(value["choices"][0]["message"]["content"])
