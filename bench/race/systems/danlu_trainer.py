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
from danlu.pipeline.device import choose_device
from danlu.pipeline.plan_training import plan_training
from danlu.planning.plan import Limits, Plan, choose
from danlu.recipe import Recipe
from danlu.training.blocks.policy import Policy
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
    choose_device(job.device)  # as `danlu train` begins
    limit_memory(job)
    dataset = write_dataset(folder / "dataset", tokens, job.shape.vocab_size)
    model = build_model(job, folder)
    attached = LoRA(rank=RANK, alpha=ALPHA, seed=SEED).attach(model)
    draw(attached.parameters().items(), job.shape.num_layers)
    recipe = recipe_of(job, model.folder, longest=int(tokens.lengths.max()))
    plan = plan_of(job, recipe, dataset, model)
    section = recipe.training.model_copy(update={"micro_tokens": plan.work.micro_tokens})
    trainer = Trainer(model, attached, SFT(), dataset, section=section, folder=folder / "checkpoints", progress=notes)
    planned = follow(plan, trainer)
    recorder.loaded(
        trainable=sum(weight.numel() for weight in trainer.parameters.values()),
        order=check_order(trainer, tokens, job.total_steps),
        danlu=danlu.__version__,
        plan=planned,
    )
    for step in trainer.steps():
        if not recorder.step(step.loss, step.num_tokens, step.num_supervised_tokens):
            break
    recorder.facts["said"] = notes.said
    if job.device == "cuda":  # each waits for the device and gives memory back: a plan without room for gaps
        recorder.facts["allocator_retries"] = torch.cuda.memory_stats()["num_alloc_retries"]


def limit_memory(job: Job) -> None:
    """The case's limit is enforced on danlu; what peers take is told beside it."""
    if job.memory_gib and job.device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, job.memory_gib / whole))


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


def recipe_of(job: Job, base: Path, longest: int) -> Recipe:
    """What a user would write; only the rate's course is flattened so that every system has the same."""
    training: dict[str, Any] = {
        "max_steps": job.total_steps + 1,  # nothing is saved inside the race
        "lr": RATE, "schedule": "constant", "warmup_ratio": 0.0, "weight_decay": 0.0, "clip": 0.0, "patience": 0,
        "context": max(16, longest), "batch_tokens": job.step_tokens, "seed": SEED, "save_every": 10**9,
        "micro_tokens": job.setting.micro_tokens or (None if job.memory_gib else job.step_tokens),
    }  # fmt: skip
    quantize = "none" if job.setting.base == "bf16" else job.setting.base
    return Recipe.from_tree(
        {
            "model": {"base": str(base), "quantize": quantize},
            "adapter": {"kind": "lora", "rank": RANK, "alpha": ALPHA},
            "data": {"sources": ["race.jsonl"]},
            "training": training,
        }
    )


def plan_of(job: Job, recipe: Recipe, dataset: Dataset, model: Decoder) -> Plan:
    """As `danlu train` plans a stage; under a memory limit, as it would on a device with so much free."""
    given = recipe.training.micro_tokens
    plan = plan_training(recipe, 0, dataset, model.config, device=job.device, micro_tokens=given)
    assert plan is not None and plan.limits is not None and plan.card is not None, "the race's shapes can be planned"
    if job.memory_gib is None:
        return plan
    limits = Limits.of(plan.card, free_bytes=int(job.memory_gib * 2**30), host_bytes=plan.limits.host_bytes)
    return choose(plan.work, plan.card, limits, may_choose_tokens=given is None)


def follow(plan: Plan, trainer: Trainer) -> dict[str, Any]:
    """Lay the plan on the trainer, and what it promised, to stand beside what is measured."""
    if trainer.quick is not None:
        trainer.quick.use([Policy.parse(name) for name in plan.policies])
    policies = list(plan.policies)
    return {
        "policies": {name: policies.count(name) for name in dict.fromkeys(policies)},
        "micro_tokens": plan.work.micro_tokens,
        "predicted_gib": round(plan.total_bytes / 2**30, 3),
        "predicted_step_ms": round(1000 * plan.time.total_s, 1) if plan.time else None,
        "is_quick": trainer.quick is not None,
    }


def check_order(trainer: Trainer, tokens: TokenFile, num_steps: int) -> str:
    """Whether danlu's steps hold the very documents that the token file names."""
    planned = itertools.islice(trainer.plan.steps_after(0), num_steps)
    for step, wanted in zip(planned, tokens.steps, strict=False):
        found = sorted(int(item) for piece in step.pieces for item in piece)
        if found != sorted(wanted.tolist()):
            return f"differs from step {step.number} on"
    return "same"
