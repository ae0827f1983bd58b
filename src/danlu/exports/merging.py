"""The whole trained model, from the base's own files and the living update, in memory and as a Hugging Face folder, and
that folder's proof. Nothing that lives is changed."""

from __future__ import annotations

from pathlib import Path

import torch

from danlu.adapters.lora import LoRA
from danlu.adapters.peft_format import read_pairs
from danlu.exports.deltas import check_copied, check_deltas
from danlu.exports.export import Proof, Subject
from danlu.exports.parity import Check
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import check_adapter, living, living_pairs, load_base_again, proof_dtype
from danlu.exports.rounding import rounding_of
from danlu.exports.speech import check_reloaded_prompts, check_speech, check_tokenizer, write_speech
from danlu.model.build import save_model
from danlu.model.model import Model
from danlu.model.quantized import refuse_quantized

USUAL_CONTEXT = 4096
"""Room for a chat where a model was trained on shorter ones; all that it takes would fill a small machine's memory."""


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


def write_merged(subject: Subject, folder: Path, stored: torch.dtype) -> None:
    """A folder that needs nothing beside it."""
    save_model(merged_model(subject, where="exports: merged"), folder, stored)
    write_speech(subject.contract, subject.engine.model.folder, folder)


def prove_speech(subject: Subject, folder: Path) -> list[Check]:
    """Template, stop set, tokenizer and rendered prompts, read back from the folder."""
    prompts = [list(record.prompt_ids) for record in subject.records]
    return [
        check_speech(subject.contract, folder),
        check_tokenizer(subject.engine.model.folder, folder),
        check_reloaded_prompts(prompts, subject.probes, folder, subject.contract),
    ]


def prove_merged(
    subject: Subject, folder: Path, stored: torch.dtype, readers: tuple[str, ...], *, python: str | None = None
) -> Proof:
    checks = prove_speech(subject, folder)
    trained = living(subject)
    with living_pairs(subject) as pairs:
        if pairs is None:
            checks.append(check_copied(subject.engine.model, folder))
        else:
            checks += check_adapter(subject, pairs, trained)
            checks.append(_check_weights(subject, pairs, folder))
    kept = rounding_of(stored)
    found, noise = prove_readers(subject, folder, Promise(readers, matrices=kept, vectors=kept, python=python))
    facts = {"dtype": str(proof_dtype(subject.engine.model))[6:], "files_dtype": str(stored)[6:]}
    return Proof(checks + found, noise.worst(trained.floor), facts)


def context_of(subject: Subject) -> int:
    """Room for texts as long as those that were trained on, at most what the model was made for."""
    trained = int(subject.facts.card.get("training", {}).get("context", 0))
    return min(subject.engine.model.spec.context, max(USUAL_CONTEXT, trained))


def _check_weights(subject: Subject, adapter_folder: Path, merged_folder: Path) -> Check:
    model = subject.engine.model
    onto = None
    if subject.through != "none":
        onto = dict(load_base_again(subject, torch.float32, "cpu").named_parameters())
    return check_deltas(model, model.folder, merged_folder, read_pairs(adapter_folder, model), onto=onto)
