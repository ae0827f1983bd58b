"""Tiny real things to train with: a two-layer Qwen2, and datasets of random or learnable tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from danlu.data.dataset import Dataset
from danlu.data.tokens import Item, Tokens
from danlu.model.build import load_model
from danlu.model.model import Model
from danlu.ops.attention import Bounds
from danlu.recipe.training import TrainingSection

VOCAB = 96
QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "initializer_range": 0.1,
}
PHI3 = {
    **QWEN2,
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "tie_word_embeddings": False,
    "original_max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_model(folder: Path, config: dict = QWEN2, *, dtype=torch.float32, seed: int = 1) -> Model:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return load_model(folder, dtype=dtype, init="random", seed=seed)


def logits_of(model: Model, *documents: torch.Tensor) -> torch.Tensor:
    """logits_TV of documents that lie end to end."""
    bounds = Bounds.of([len(document) for document in documents])
    return model.logits(model.hidden(torch.cat(documents), bounds.positions(), bounds))


def tokens(random: np.random.Generator, length: int, num_prompt: int = 0) -> Tokens:
    """Random ids; the first `num_prompt` are context."""
    weights = np.ones(length, dtype=np.uint8)
    weights[:num_prompt] = 0
    return Tokens(random.integers(3, VOCAB, length).astype(np.int32), weights)


def sft_items(num: int, *, seed: int = 0, longest: int = 24) -> list[Item]:
    random = np.random.default_rng(seed)
    lengths = random.integers(6, longest, num)
    return [Item((tokens(random, n, int(random.integers(1, 5))),), f"qa.jsonl:{i + 1}") for i, n in enumerate(lengths)]


def rule_items(num: int, *, seed: int = 0) -> list[Item]:
    """Something to learn that carries over to unseen rows: the answer counts upwards from the question."""
    random = np.random.default_rng(seed)
    items = []
    for i in range(num):
        start = int(random.integers(3, VOCAB - 8))
        ids = np.array([1, start, 2, *range(start + 1, start + 6)], dtype=np.int32)
        items.append(Item((Tokens(ids, np.array([0, 0, 0, 1, 1, 1, 1, 1], dtype=np.uint8)),), f"rule.jsonl:{i + 1}"))
    return items


def pair_items(num: int, *, seed: int = 0) -> list[Item]:
    """Preferences that can be learnt: the chosen answer is made of low ids, the rejected one of high ids."""
    random = np.random.default_rng(seed)
    items = []
    for i in range(num):
        prompt = random.integers(3, VOCAB, 4)
        pair = []
        for low, high in ((3, VOCAB // 2), (VOCAB // 2, VOCAB)):
            ids = np.concatenate([prompt, random.integers(low, high, int(random.integers(3, 9)))]).astype(np.int32)
            pair.append(Tokens(ids, (np.arange(len(ids)) >= 4).astype(np.uint8)))
        items.append(Item(tuple(pair), f"pairs.jsonl:{i + 1}"))
    return items


def dataset(folder: Path, train: list[Item], validation: list[Item] | None = None) -> Dataset:
    parts = {"train": train} | ({"validation": validation} if validation is not None else {})
    return Dataset.write(folder, parts)


def section(**knobs) -> TrainingSection:
    usual = {"lr": 1e-2, "epochs": 1, "batch_tokens": 128, "micro_tokens": 64, "context": 64, "save_every": 1000}
    return TrainingSection(**{**usual, **knobs})
