"""Unsloth: its FastLanguageModel in a plain loop, as fast as it can be driven (its trainer is a little slower).

It insists on a checkpoint: one with a single tensor, whose other weights are drawn afterwards; NF4 wants the whole."""

from __future__ import annotations

import os

os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
os.environ.setdefault("UNSLOTH_WARN_UNINITIALIZED", "0")

import unsloth  # noqa: I001 - it wants to be imported before transformers
from typing import Any

import torch
from torch import Tensor
from unsloth import FastLanguageModel

from race.recorder import Recorder
from race.settings import ALPHA, RANK, Job
from race.loop import Micro, train
from race.shapes import TARGETS
from race.weights import draw, write_checkpoint


def run(job: Job, recorder: Recorder) -> None:
    model = build(job)

    def forward(piece: Micro) -> Tensor:
        more: dict[str, Any] = {}
        if piece.positions is not None:
            more = {"position_ids": piece.positions, "packed_seq_lengths": piece.lengths}
        loss: Tensor = model(input_ids=piece.ids, labels=piece.labels, **more).loss
        return loss

    recorder.facts["unsloth"] = unsloth.__version__
    train(model, job, recorder, forward)


def build(job: Job) -> Any:
    is_nf4 = job.setting.base == "nf4"
    kind = "full" if is_nf4 else "bare"
    folder = job.shared / f"checkpoint-{job.shape_name}-{job.num_layers or 0}-{kind}"
    write_checkpoint(folder, job.shape, job.device, is_full=is_nf4)
    torch.cuda.empty_cache()
    checkpointing = {"off": False, "on": True, "unsloth": "unsloth"}[job.setting.checkpointing]
    longest = job.step_tokens if job.setting.layout != "padded" else 2048
    model, _ = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=longest, dtype=torch.bfloat16, load_in_4bit=is_nf4, device_map={"": 0},
        use_gradient_checkpointing=checkpointing, local_files_only=True,
    )  # fmt: skip
    layers = job.shape.num_layers
    if not is_nf4:
        draw(model.named_parameters(), layers)
    model = FastLanguageModel.get_peft_model(
        model, r=RANK, lora_alpha=ALPHA, lora_dropout=0, bias="none", target_modules=list(TARGETS),
        use_gradient_checkpointing=checkpointing, random_state=3407, max_seq_length=longest,
    )  # fmt: skip
    draw(((name, weight) for name, weight in model.named_parameters() if "lora_" in name), layers)
    FastLanguageModel.for_training(model, use_gradient_checkpointing=checkpointing)
    return model
