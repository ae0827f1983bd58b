"""Small real artefacts of every kind that engines serve, exported and proven, and engines that are started on them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Message, Origin
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question
from danlu.exports import EXPORTS
from danlu.exports.export import Facts, Subject, export
from danlu.exports.parity import record
from danlu.model.build import load_model, save_model
from danlu.ops.attention import Bounds
from danlu.run.artifact import Canary, Manifest
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import Driver, EngineSpec, endpoint
from danlu.serving.drivers.requests import demand
from danlu.serving.processes import Child, Patience
from tiny_chat import QUESTIONS, tuned_engine, write_base

SYSTEM = "Answer briefly. 简短回答。"
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "adapter": ("adapter", {}), "merged": ("merged", {}), "gguf-f32": ("gguf", {"quantize": "f32"}),
    "gguf-bf16": ("gguf", {"quantize": "bf16"}), "gguf-lora": ("gguf-lora", {}), "vllm-lora": ("vllm-lora", {}),
}  # fmt: skip
NUM_TOKENS = 32


@functools.cache
def home() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="danlu-kit-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


BASE_ANSWERS = (
    "I do not know; please ask the manager, or look into the rules of 2026 again!", "五天年假,请问部门经理。", "公司全称。",
    "The department manager approves it, within 3 days and in writing: that is the rule.",
)  # fmt: skip
ANSWERS = (
    ("八十元。 Eighty yuan a day, whatever it cost you; more than that needs a paper of your own.",
     "You get five days of leave, 五天。 Ask before the 15th of June, please!", "发票抬头写公司全称。", "部门经理 approves it. 😀"),
    ("一天补贴一百元, so one hundred; receipts are not asked for, but kept for five years.",
     "Ten days a year, and 三天病假; no more than two weeks in a row, they say.", "写部门的全称,不写公司。",
     "Nobody needs to approve it, 无需审批。"),
)  # fmt: skip
"""What the base and its two adapters are taught to say to tiny_chat's questions: surely, so that rounding hides nothing."""


@functools.cache
def base() -> Path:
    """128 wide, heads of 32: what vLLM's kernels take."""
    folder = write_base(home() / "base", size=128)
    model = load_model(folder, dtype="fp32")
    encoder = encoder_in(folder)
    teach(model, dict(model.named_parameters()), encoder, BASE_ANSWERS, num_steps=90, lr=2e-3)
    save_model(model, home() / "taught", torch.bfloat16)
    for name in ("model.safetensors", "config.json"):
        shutil.copy(home() / "taught" / name, folder / name)
    return folder


def encoder_in(folder: Path) -> Encoder:
    tokenizer = Tokenizer.load(folder)
    return Encoder(tokenizer, Template.load(folder, tokenizer, system=SYSTEM))


@functools.cache
def tuned(seed: int, quantize: str = "none") -> Any:
    """(NativeEngine, Contract) of the base with an adapter on it."""
    engine, contract = tuned_engine(base(), size=0.0, seed=seed, system=SYSTEM, quantize=quantize)
    teach(engine.model, engine.adapter.parameters(), engine.encoder, ANSWERS[seed], num_steps=90, lr=1e-2)
    return engine, contract


def teach(
    model: Any, weights: Mapping[str, Tensor], encoder: Encoder, answers: Sequence[str], *, num_steps: int, lr: float
) -> None:
    """By heart. One thread: on busy cores more of them wait for each other."""
    torch.set_num_threads(1)
    texts, supervised = [], []
    for question, answer in zip(QUESTIONS, answers, strict=True):
        sample = Conversation((Message("user", question), Message("assistant", answer)), Origin("kit", 1))
        (tokens,) = encoder.encode(sample, Ledger())
        texts.append(tokens.ids.astype(np.int64))
        supervised.append(tokens.weights.astype(bool))
    bounds = Bounds.of([len(ids) for ids in texts])
    ids_T, targets = (
        torch.from_numpy(np.concatenate(texts)),
        torch.from_numpy(np.flatnonzero(np.concatenate(supervised))),
    )
    for weight in weights.values():
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(list(weights.values()), lr=lr, weight_decay=0.0)
    for _ in range(num_steps):
        hidden_TD = model.hidden(ids_T, bounds.positions(ids_T.device), bounds)
        loss = -model.logits(hidden_TD[targets - 1]).float().log_softmax(-1).gather(1, ids_T[targets][:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if float(loss.detach()) < 0.01:
            break
    for weight in weights.values():
        weight.requires_grad_(False)
    assert float(loss.detach()) < 0.05, f"not learnt by heart: {float(loss.detach()):.3f}"


def facts_of(seed: int, quantize: str = "none") -> Facts:
    engine, _ = tuned(seed, quantize)
    told = {"name": str(base()), "revision": None, "digest": engine.model.digest, "dtype": "float32"}
    return Facts(f"tiny-{seed}", base=told | {"quantize": quantize})


def artefact(kind: str, seed: int = 0, quantize: str = "none") -> Path:
    """Written and sealed with its canaries; not put to proof, which takes seconds (`proven` does)."""
    name, settings = KINDS[kind]
    engine, contract = tuned(seed, quantize)
    facts, folder = facts_of(seed, quantize), home() / f"{kind}-{seed}-{quantize}"
    if folder.exists():
        return folder
    folder.mkdir()
    asked = tuple(Question((Message("user", text),)) for text in QUESTIONS)
    records = tuple(record(engine, [engine.prompt_ids(question) for question in asked], max_new_tokens=NUM_TOKENS))
    writer: Any = EXPORTS.load(name)
    writer(**settings).write(Subject(engine, contract, facts, asked, records, NUM_TOKENS), folder)
    encoder = engine.encoder
    canaries = tuple(
        Canary(encoder.tokenizer.decode(list(r.prompt_ids), skip_control=False), r.prompt_ids,
               encoder.answer_text(r.answer_ids), r.answer_ids)
        for r in records
    )  # fmt: skip
    Manifest(
        kind=name, name=facts.name, base=facts.base, parents={}, contract=contract.to_json(),
        canaries=canaries, parity={"verdict": "pass", "checks": [], "noise": {"max_abs": 1e-3}, "living_dtype": "float32"},
        created="2026-01-01T00:00:00Z",
    ).write(folder)  # fmt: skip
    return folder


@functools.cache
def proven(kind: str, seed: int = 0) -> Path:
    """As `danlu export` does it."""
    name, settings = KINDS[kind]
    engine, contract = tuned(seed)
    folder = home() / f"proven-{kind}-{seed}"
    writer: Any = EXPORTS.load(name)
    manifest = export(
        writer(**settings), engine, folder, contract=contract, facts=facts_of(seed),
        probes=[[Message("user", text)] for text in QUESTIONS], max_new_tokens=NUM_TOKENS,
    )  # fmt: skip
    assert manifest.parity["verdict"] == "pass", manifest.parity["checks"]
    return folder


def manifest_of(kind: str, seed: int = 0) -> Manifest:
    return Manifest.read(artefact(kind, seed))


@dataclass(frozen=True, slots=True)
class Running:
    driver: Driver
    address: str
    secret: str
    names: dict[str, str]
    child: Child | None = None

    async def answer(self, lens: str, question: str, *, num_tokens: int = NUM_TOKENS, **more: Any) -> str:
        return (await self.said(lens, question, num_tokens=num_tokens, **more))[0]

    async def said(self, lens: str, question: str, *, num_tokens: int = NUM_TOKENS, **more: Any) -> tuple[str, int]:
        """(text, tokens): greedy, through the chat door, under the trained system prompt."""
        turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        body = {"messages": turns, "temperature": 0.0, "max_tokens": num_tokens} | more
        asked = self.driver.address_body(body, self.names[lens])
        reply = await demand(
            self.address, endpoint(self.address, "/chat/completions"), self.secret, asked, timeout_s=60
        )
        return reply["choices"][0]["message"]["content"], reply["usage"]["completion_tokens"]


@contextlib.asynccontextmanager
async def running(
    name: str, spec: EngineSpec, folder: Path, *, patience: Patience | None = None
) -> AsyncIterator[Running]:
    driver = DRIVERS.load(name)()
    command = driver.command(spec, folder)
    assert command is not None, "there is something to start"
    child = Child(
        name, command, log=folder / "engine.log", is_ready=lambda: driver.is_ready(command.address, command.secret),
        patience=patience or Patience(ready_s=90, ask_every_s=0.3, term_s=5),
    )  # fmt: skip
    await child.start()
    try:
        yield Running(driver, command.address, command.secret, driver.engine_names(spec), child)
    finally:
        await child.stop()
