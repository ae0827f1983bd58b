"""Small real things for trainings with rewards: a chat model of two layers, questions with answers, metrics that judge."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.adapters.prefix import PrefixTuning
from danlu.data.dataset import Dataset
from danlu.data.encode import Encoder
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Message, Origin
from danlu.data.samples_file import as_json
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.data.tokens import Item
from danlu.model.build import load_model
from danlu.model.model import Model
from danlu.pipeline.rewards import Rewards
from danlu.recipe.method import GRPOSection
from danlu.training.methods.grpo import GRPO
from danlu.training.ranks import ALONE
from danlu.training.trainer import Trainer
from tiny_chat import write_tokenizer
from training_kit import QWEN2, section

ADAPTERS = {"lora": LoRA(rank=2), "dropped": LoRA(rank=2, dropout=0.2), "full": Full(), "prefix": PrefixTuning(4)}
WORDS = "差旅补贴每天八十元 年假五天 请部门经理审批 travel allowance eighty yuan a day the manager".split()
REWARDS = {"format": 1.0, "char_f1": 0.5}
"""Half of what a model says that knows nothing is short enough: it is rewarded for something."""


def chat_model(folder: Path, *, seed: int = 1, dtype: torch.dtype = torch.float32) -> Model:
    """Random weights, with logits as flat as a model's that is not sure."""
    if not (folder / "tokenizer.json").is_file():
        write_tokenizer(folder)
        size = Tokenizer.load(folder).vocab_size
        (folder / "config.json").write_text(json.dumps({**QWEN2, "vocab_size": size, "initializer_range": 0.05}))
    return load_model(folder, dtype=dtype, init="random", seed=seed)


def encoder_of(model: Model) -> Encoder:
    tokenizer = Tokenizer.load(model.folder)
    return Encoder(tokenizer, Template.load(model.folder, tokenizer), 128, train_on="last")


def questions(num: int, *, first: int = 0) -> list[Conversation]:
    found = []
    for i in range(first, first + num):
        word, other = WORDS[i % len(WORDS)], WORDS[(3 * i + 1) % len(WORDS)]
        turns = (Message("user", f"{i} {word}?"), Message("assistant", f"{other} {word}"))
        found.append(Conversation(turns, Origin("qa.jsonl", i + 1), tags={"rules": {"max_chars": 9}}))
    return found


def asked_items(encoder: Encoder, samples: list[Conversation]) -> list[Item]:
    """As `pipeline/desk.py` makes them."""
    return [replace(item, asked=as_json(sample)) for sample in samples for item in encoder.items([sample], Ledger())]


def write_dataset(folder: Path, model: Model, num: int = 12, num_validation: int = 4) -> Dataset:
    encoder = encoder_of(model)
    parts = {"train": questions(num), "validation": questions(num_validation, first=num)}
    return Dataset.write(folder, {name: asked_items(encoder, some) for name, some in parts.items()})


def make_trainer(
    folder: Path, adapter: str = "lora", *, beta: float = 0.0, temperature: float = 1.0, ranks=ALONE, progress=None,
    **knobs,
) -> Trainer:  # fmt: skip
    """A training in this folder; it goes on from what lies there."""
    model = chat_model(folder / f"model{ranks.index or ''}")
    if not (folder / "data").is_dir():
        write_dataset(folder / "data", model)
    dataset = Dataset.open(folder / "data")
    attached = ADAPTERS[adapter].attach(model)
    chapter = GRPOSection(rewards=REWARDS, group=4, max_new_tokens=8, beta=beta, temperature=temperature)
    ask = Rewards(model, attached, encoder_of(model), dataset, chapter, seed=7)
    method = GRPO(ask, REWARDS, group=4, max_new_tokens=8, beta=beta, temperature=temperature)
    usual = {
        "max_steps": 5,
        "eval_every": 0.5,
        "patience": 0,
        "save_every": 2,
        "batch_tokens": 700,
        "micro_tokens": 300,
    }
    return Trainer(
        model, attached, method, dataset, section=section(**{**usual, **knobs}), folder=folder / "checkpoints",
        ranks=ranks, progress=progress,
    )  # fmt: skip
