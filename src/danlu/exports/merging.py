"""The whole trained model in memory, from the base's own files and the living update; nothing that lives is changed."""

from __future__ import annotations

import torch

from danlu.adapters.lora import LoRA
from danlu.exports.export import Subject
from danlu.exports.reload import living_pairs, load_base_again
from danlu.model.model import Model
from danlu.model.quantized import refuse_quantized


def merged_model(subject: Subject, *, where: str) -> Model:
    """Base and update added in fp32 on the CPU; after full fine-tuning the living model itself."""
    living_model = subject.engine.model
    refuse_quantized(living_model, where)  # its answers are not those of what is written
    with living_pairs(subject) as pairs:
        if pairs is None:
            return living_model
        model = load_base_again(subject, torch.float32, "cpu")
        LoRA.load(pairs, model).merge()
        return model
