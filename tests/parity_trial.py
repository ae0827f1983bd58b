"""The same words from every engine: greedy answers of a base and two adapters on it, as each engine gives them to a chat
request, beside what transformers and PEFT make of the same files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import engine_kit as kit
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports.gguf.write import About, write_model
from danlu.exports.oracle import Transformers
from danlu.model.build import load_model
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.engine_check import check_engine
from danlu.serving.processes import Patience

SEEDS = {"one@1": 0, "two@1": 1}
LENSES = ("", *SEEDS)
Answers = dict[tuple[str, str], tuple[str, int]]
"""(lens, question) to (text, tokens)."""


@dataclass
class Found:
    answers: Answers
    grades: dict[str, str] = field(default_factory=dict)
    canaries: dict[str, str] = field(default_factory=dict)


def oracle() -> Found:
    """transformers' own prompts and its `generate`, in fp32, and PEFT's adapters."""
    engine, _ = kit.tuned(0)
    answers: Answers = {}
    for lens in LENSES:
        adapter = kit.artefact("adapter", SEEDS[lens]) if lens else None
        reading = Transformers(kit.base(), dtype=torch.float32, device=torch.device("cpu"), adapter=adapter)
        for text in kit.QUESTIONS:
            turns = (Message("system", kit.SYSTEM), Message("user", text))
            (ids,) = reading.continue_ids([reading.prompt_ids(Question(turns))], kit.NUM_TOKENS)
            answers[lens, text] = (engine.encoder.answer_text(ids), len(ids))
        reading.close()
    return Found(answers)


def base_gguf(folder: Path, quantize: Any) -> Path:
    """The base as a file for llama.cpp; `bf16` is what its own files are in."""
    target = folder / f"base-{quantize}.gguf"
    if not target.is_file():
        _, contract = kit.tuned(0)
        model = load_model(kit.base(), dtype="auto")
        write_model(
            model, target, contract=contract, source=kit.base(), about=About("tiny", base="tiny"), quantize=quantize
        )
    return target


def spec_for(name: str, folder: Path, *, vllm: str = "") -> tuple[str, EngineSpec, Mapping[str, Path]]:
    """(driver, its order, adapters to load once it runs)."""
    adapters = {lens: kit.artefact("adapter", seed) for lens, seed in SEEDS.items()}
    if name.startswith("llamacpp"):
        loras = {lens: kit.artefact("gguf-lora", seed) for lens, seed in SEEDS.items()}
        file = base_gguf(folder, name.rpartition("-")[2])
        return "llamacpp", EngineSpec(file, adapters=loras, context=256, num_slots=4), {}
    spec = EngineSpec(kit.base(), speech=adapters["one@1"], context=256, num_threads=1, dtype="float32")
    if name == "vllm":
        spec = EngineSpec(
            kit.base(), speech=adapters["one@1"], context=256, num_slots=8, max_rank=8, max_adapters=2, dtype="float32",
            python=vllm, device="cpu",
        )  # fmt: skip
        return "vllm", spec, {lens: kit.artefact("vllm-lora", seed) for lens, seed in SEEDS.items()}
    return name, spec, adapters


async def through(name: str, folder: Path, *, vllm: str = "") -> Found:
    """Start the engine, load the adapters, pass the door with each, then ask all at once."""
    driver, spec, later = spec_for(name, folder, vllm=vllm)
    found = Found({})
    patience = Patience(ready_s=400 if driver == "vllm" else 90, ask_every_s=0.3, term_s=20)
    async with kit.running(driver, spec, folder / name, patience=patience) as engine:
        for lens, place in later.items():
            engine.names[lens] = await engine.driver.load(engine.address, engine.secret, lens, place)
        for lens, seed in SEEDS.items():
            kind = "gguf-lora" if driver == "llamacpp" else "adapter"
            grade = await check_engine(
                engine.driver, engine.address, engine.secret, kit.manifest_of(kind, seed), engine.names[lens],
                kit.artefact(kind, seed),
            )  # fmt: skip
            found.grades[lens] = grade.level
            found.canaries[lens] = f"{grade.canaries.num_equal}/{grade.canaries.num_asked}"
        # vLLM on a CPU gives a base in a batch with adapters the last adapter's answer (vllm#48421): asked apart
        groups = [LENSES] if driver != "vllm" else [LENSES[:1], LENSES[1:]]
        for lenses in groups:
            asked = [(lens, text) for text in kit.QUESTIONS for lens in lenses]
            answers = await asyncio.gather(*(engine.said(lens, text) for lens, text in asked))
            found.answers |= dict(zip(asked, answers, strict=True))
    return found


def apart(expected: Answers, given: Answers) -> list[str]:
    """What differs, for people."""
    return [
        f"{lens or 'base'} {text!r}: {expected[lens, text]!r} / {given[lens, text]!r}"
        for lens, text in expected
        if expected[lens, text][0] != given[lens, text][0]
    ]
