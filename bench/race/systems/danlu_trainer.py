"""danlu: its own Trainer, SFT, LoRA and Dataset, as `danlu train` puts them together. Only the weights are drawn by the
race, and the dataset is written from the race's token file."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.adapters.lora import LoRA
from danlu.core.progress import Silent
from danlu.data.card import Card
from danlu.data.dataset import Dataset
from danlu.data.tokens import Item, Tokens
from danlu.model.decoder import Decoder
from danlu.model.families import own_family
from danlu.model.quantized import make_room
from danlu.model.weights import place
from danlu.recipe.training import TrainingSection
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer
from race.recorder import Recorder
from race.settings import ALPHA, RANK, RATE, Job
from race.tokens import IGNORED, SEED, TokenFile
from race.weights import draw, draw_one


class Notes(Silent):
    """What danlu says while it starts is kept with the results."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, sentence: str) -> None:
        self.said.append(sentence)


def run(job: Job, recorder: Recorder) -> None:
    tokens, folder, notes = job.tokens(), Path(job.folder), Notes()
    dataset = write_dataset(folder / "dataset", tokens, job.shape.vocab_size)
    model = build_model(job, folder)
    attached = LoRA(rank=RANK, alpha=ALPHA, seed=SEED).attach(model)
    draw(attached.parameters().items(), job.shape.num_layers)
    section = section_of(job, longest=int(tokens.lengths.max()))
    trainer = Trainer(model, attached, SFT(), dataset, section=section, folder=folder / "checkpoints", progress=notes)
    recorder.loaded(
        trainable=sum(weight.numel() for weight in trainer.parameters.values()),
        order=check_order(trainer, tokens, job.total_steps),
        danlu=danlu.__version__,
    )
    for step in trainer.steps():
        if not recorder.step(step.loss, step.num_tokens, step.num_supervised_tokens):
            break
    recorder.facts["said"] = notes.said


def write_dataset(folder: Path, tokens: TokenFile, vocab_size: int) -> Dataset:
    def items() -> Iterator[Item]:
        for index in range(len(tokens.lengths)):
            ids, labels = tokens.document(index)
            yield Item((Tokens(ids.astype("int32"), (labels != IGNORED).astype("uint8")),), f"race:{index}")

    return Dataset.write(folder, {"train": items()}, Card(name="race", vocab_size=vocab_size))


def build_model(job: Job, folder: Path) -> Decoder:
    """As `load_model` builds it, but each weight is drawn on the device: drawn on the CPU a 7B takes minutes."""
    config = job.shape.hf_config()
    family = own_family(config)
    assert family is not None, "the race's shapes are of danlu's own families"
    base = folder / "base"
    base.mkdir(parents=True, exist_ok=True)
    (base / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = Decoder(family.spec(config), base, config)
    sizes = {name: weight.shape for name, weight in model.named_parameters()}
    if job.setting.base != "bf16":
        make_room(model, job.setting.base, torch.bfloat16)  # type: ignore[arg-type]
    device = torch.device(job.device)
    for name, size in sizes.items():
        fresh = torch.empty(size, dtype=torch.bfloat16, device=device)
        place(model, name, draw_one(name, fresh, job.shape.num_layers), dtype=torch.bfloat16, device=device)
    return model.eval()


def section_of(job: Job, longest: int) -> TrainingSection:
    values: dict[str, Any] = {
        "max_steps": job.total_steps + 1,  # nothing is saved inside the race
        "lr": RATE, "schedule": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0, "clip": 0.0, "patience": 0,
        "context": max(16, longest), "batch_tokens": job.step_tokens, "micro_tokens": job.setting.micro_tokens,
        "seed": SEED, "save_every": 10**9,
    }  # fmt: skip
    return TrainingSection(**values, **limit_memory(job))


def limit_memory(job: Job) -> dict[str, Any]:
    """A memory limit is told to danlu where it takes one, and enforced on the process for every system alike."""
    known = TrainingSection.model_fields
    name = next((name for name in ("memory_gib", "memory_limit_gib", "memory") if name in known), None)
    return {name: job.memory_gib} if name and job.memory_gib else {}


def check_order(trainer: Trainer, tokens: TokenFile, num_steps: int) -> str:
    """Whether danlu's steps hold the very documents that the token file names."""
    planned = itertools.islice(trainer.plan.steps_after(0), num_steps)
    for step, wanted in zip(planned, tokens.steps, strict=False):
        found = sorted(int(item) for piece in step.pieces for item in piece)
        if found != sorted(wanted.tolist()):
            return f"differs from step {step.number} on"
    return "same"
