"""Export `merged`: a Hugging Face folder that needs nothing beside it; transformers loads it unchanged.

A low-rank adapter is folded into the base's own files, read anew and checked against the digest it was trained on:
added in fp32, rounded once to the files' dtype. The living model stays as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from danlu.adapters.lora import AttachedLoRA, LoRA
from danlu.adapters.peft_format import read_pairs
from danlu.engines.native import NativeEngine
from danlu.exports.deltas import check_copied, check_deltas
from danlu.exports.export import Proof, Subject
from danlu.exports.oracle import Transformers
from danlu.exports.parity import Check, Difference, check_answers, check_logits, margin_of, measure_floor
from danlu.exports.reload import (
    COMPUTE_FACTOR,
    ROUNDING_FACTOR,
    Reference,
    check_adapter,
    check_by_others,
    living,
    load_base_again,
    not_run,
    proof_dtype,
    stored_dtype,
    unmerged,
    witnessed,
)  # fmt: skip
from danlu.exports.speech import check_reloaded_prompts, check_speech, check_tokenizer, write_speech
from danlu.model.build import load_model, save_model
from danlu.model.quantized import num_params, refuse_quantized


class MergedExport:
    kind: Literal["merged"] = "merged"

    def size_bytes(self, subject: Subject) -> int:
        model = subject.engine.model
        return num_params(model) * stored_dtype(model).itemsize + 2**24

    def write(self, subject: Subject, folder: Path) -> None:
        living_model = subject.engine.model
        refuse_quantized(living_model, "exports: merged")  # its answers are not those of what is written
        dtype = stored_dtype(living_model)
        if isinstance(subject.engine.adapter, AttachedLoRA):
            with saved_adapter(subject) as adapter_folder:
                model = load_base_again(subject, torch.float32, "cpu")
                LoRA.load(adapter_folder, model).merge()
                save_model(model, folder, dtype)
        else:
            save_model(living_model, folder, dtype)
        write_speech(subject.contract, living_model.folder, folder)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        prompts = [list(record.prompt_ids) for record in subject.records]
        checks = [
            check_speech(subject.contract, folder),
            check_tokenizer(subject.engine.model.folder, folder),
            check_reloaded_prompts(prompts, subject.probes, folder, subject.contract),
        ]
        trained = living(subject)
        reference, weights = trained, list[Tensor](subject.engine.model.parameters())
        if isinstance(subject.engine.adapter, AttachedLoRA):
            with saved_adapter(subject) as adapter_folder:
                checks += check_adapter(subject, adapter_folder, trained)
                checks.append(_check_weights(subject, adapter_folder, folder))
                reference = unmerged(subject, adapter_folder)
            weights = _targets(reference.engine)
        else:
            checks.append(check_copied(subject.engine.model, folder))
        rounding = measure_floor(reference.records, reference.engine, weights, stored_dtype(subject.engine.model))
        rounding, factor = _wider(rounding, reference.floor)
        merged = reload_merged(subject, folder)
        margin = margin_of(rounding)
        checks.append(check_logits("merged_logits", reference.records, merged, rounding, factor))
        checks.append(check_answers("merged_answers", reference.records, merged, margin, subject.max_new_tokens))
        if checks[-2].numbers["max_abs"] < float("inf"):
            checks += _check_transformers(subject, folder, witnessed(merged, subject))
        else:  # a model whose output is not a number is no reference for anyone
            checks += not_run("transformers", checks[-1].note)
        facts = {"dtype": str(merged.model.dtype)[6:], "files_dtype": str(stored_dtype(subject.engine.model))[6:]}
        return Proof(checks, rounding.worst(trained.floor), facts)


def reload_merged(subject: Subject, folder: Path) -> NativeEngine:
    model = subject.engine.model
    again = load_model(folder, dtype=proof_dtype(model), device=model.device)
    return NativeEngine(again, subject.engine.encoder, name="merged")


@contextmanager
def saved_adapter(subject: Subject) -> Iterator[Path]:
    """The adapter as a PEFT folder for as long as the block lasts."""
    assert subject.engine.adapter is not None, "there is an adapter to save"
    subject.engine.adapter.check()
    with tempfile.TemporaryDirectory(prefix="danlu-adapter-") as name:
        folder = Path(name) / "adapter"
        subject.engine.adapter.save(folder)
        yield folder


def _check_weights(subject: Subject, adapter_folder: Path, merged_folder: Path) -> Check:
    model = subject.engine.model
    return check_deltas(model, model.folder, merged_folder, read_pairs(adapter_folder, model))


def _targets(engine: NativeEngine) -> list[Tensor]:
    """The base's weights that merging rounds."""
    assert isinstance(engine.adapter, AttachedLoRA), "only merging rounds"
    return [layer.weight for layer in engine.adapter.layers.values()]


def _wider(rounding: Difference, arithmetic: Difference) -> tuple[Difference, float]:
    """Rounding's floor and strict factor, unless the files are as fine as the arithmetic: then that is the noise."""
    if rounding.mean_abs * ROUNDING_FACTOR >= arithmetic.mean_abs * COMPUTE_FACTOR:
        return rounding, ROUNDING_FACTOR
    return rounding.worst(arithmetic), COMPUTE_FACTOR


def _check_transformers(subject: Subject, folder: Path, ours: Reference) -> list[Check]:
    dtype, device = ours.engine.model.dtype, ours.engine.model.device
    return check_by_others(
        "transformers", ("transformers",), subject, ours, lambda: Transformers(folder, dtype=dtype, device=device)
    )
