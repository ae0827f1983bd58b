"""A training that can run in a process of its own, to be killed there. The folder holds the dataset and the model's
config; checkpoints go into its `checkpoints`."""

import time
from pathlib import Path

import torch

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.adapters.prefix import PrefixTuning
from danlu.data.dataset import Dataset
from danlu.training.methods.dpo import DPO
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.ranks import ALONE
from danlu.training.trainer import Trainer
from training_kit import section, tiny_model

ADAPTERS = {
    "lora": LoRA(rank=2, dropout=0.2),
    "lora, whole": LoRA(rank=2),
    "full": Full(),
    "full, last": Full(layers=1),
    "dora": LoRA(rank=2, dora=True),
    "prefix": PrefixTuning(num_tokens=3),
}
METHODS = {"sft": SFT, "dpo": DPO, "pretrain": Pretrain}
KNOBS = {"epochs": 3, "eval_every": 0.4, "patience": 0, "save_every": 2, "warmup_ratio": 0.1, "schedule": "cosine"}


def make_trainer(
    folder: Path, adapter: str, method: str, progress=None, dtype=torch.float32, ranks=ALONE, **knobs
) -> Trainer:
    model = tiny_model(folder / f"model{ranks.index or ''}", dtype=dtype)
    attached = ADAPTERS[adapter].attach(model)
    return Trainer(
        model, attached, METHODS[method](), Dataset.open(folder / "data"),
        section=section(**{**KNOBS, **knobs}), folder=folder / "checkpoints", progress=progress,
        ranks=ranks,
    )  # fmt: skip


def train(folder: Path, adapter: str, method: str) -> None:
    """To the end, slowly enough to be killed on the way."""
    torch.set_num_threads(1)
    for _ in make_trainer(folder, adapter, method).steps():
        time.sleep(0.02)
