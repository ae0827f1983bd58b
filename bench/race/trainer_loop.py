"""The two systems that bring transformers' Trainer: fed with the race's steps and watched, otherwise as they come.

Only three things of theirs are replaced: which documents make a batch (a batch sampler over the token file's steps),
where the loss of a step is noted, and that nothing is logged or saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from race.recorder import Recorder
from race.settings import RATE, Job
from race.tokens import IGNORED, TokenFile, chunks


def arguments(job: Job) -> dict[str, Any]:
    """What both trainers are told."""
    tokens = job.tokens()
    return {
        "output_dir": job.folder + "/trainer", "max_steps": job.total_steps, "learning_rate": RATE,
        "lr_scheduler_type": "constant", "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 0.0,
        "optim": "adamw_torch_fused", "bf16": job.setting.base == "bf16", "logging_strategy": "no",
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": 3407, "use_cpu": job.device == "cpu",
        "per_device_train_batch_size": len(pieces_of(tokens, 0, job)[0]),
        "gradient_accumulation_steps": len(pieces_of(tokens, 0, job)),
        "gradient_checkpointing": job.setting.checkpointing == "on", "dataloader_num_workers": 0,
    }  # fmt: skip


def pieces_of(tokens: TokenFile, step: int, job: Job) -> list[Any]:
    """A step's documents in micro-batches. `pieces` sorts them by length into so many: the accumulation of a Trainer is
    one number for all steps."""
    documents, pieces = tokens.steps[step], job.setting.extras.get("pieces")
    if pieces:
        return np.array_split(documents[np.argsort(-tokens.lengths[documents], kind="stable")], pieces)
    return chunks(documents, tokens.lengths, job.setting.micro_tokens or job.step_tokens)


def rows_of(tokens: TokenFile) -> list[dict[str, Any]]:
    """Every document as a row of a data set that is tokenised already."""
    found = (tokens.document(index) for index in range(len(tokens.lengths)))
    return [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": labels.tolist()}
        for ids, labels in found
    ]


class Steps:
    """Batches of row numbers, in the token file's order."""

    def __init__(self, job: Job) -> None:
        tokens = job.tokens()
        self._batches = [piece.tolist() for step in range(job.total_steps) for piece in pieces_of(tokens, step, job)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


class Watch(TrainerCallback):
    """Tells the recorder of each update."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.losses: list[torch.Tensor] = []
        self.num_tokens = self.num_supervised = 0

    def saw(self, inputs: dict[str, Any]) -> None:
        labels = inputs["labels"]
        mask = inputs.get("attention_mask")
        self.num_tokens += int(mask.sum()) if mask is not None and mask.dim() == 2 else inputs["input_ids"].numel()
        self.num_supervised += int((labels[..., 1:] != IGNORED).sum())

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        goes_on = self.recorder.step(torch.stack(self.losses).sum(), self.num_tokens, self.num_supervised)
        self.losses, self.num_tokens, self.num_supervised = [], 0, 0
        control.should_training_stop = control.should_training_stop or not goes_on


def watched(base: type, job: Job, watch: Watch) -> type:
    """The trainer's class with the race's batches; what it does with them is its own."""

    class Watched(base):  # type: ignore[misc]
        def get_train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(self.train_dataset, batch_sampler=Steps(job), collate_fn=self.data_collator)

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
            watch.saw(inputs)
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
            watch.losses.append(loss.detach())
            return loss

    return Watched
