"""Export `merged`: a Hugging Face folder that needs nothing beside it; transformers loads it unchanged.

A low-rank adapter is folded into the base's own files, read anew and checked against the digest it was trained on:
added in fp32, rounded once to the files' dtype. The living model stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from danlu.adapters.peft_format import read_pairs
from danlu.exports.deltas import check_copied, check_deltas
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import merged_model
from danlu.exports.parity import Check
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import check_adapter, living, living_pairs, load_base_again, proof_dtype, stored_dtype
from danlu.exports.rounding import rounding_of
from danlu.exports.speech import check_reloaded_prompts, check_speech, check_tokenizer, write_speech
from danlu.model.build import DTYPES, save_model
from danlu.model.quantized import num_params


class MergedExport:
    kind: Literal["merged"] = "merged"

    def __init__(self, dtype: str = "auto") -> None:
        """`dtype` of the files; "auto" is that of the base's."""
        self.dtype = dtype

    def size_bytes(self, subject: Subject) -> int:
        model = subject.engine.model
        return num_params(model) * self.stored(subject).itemsize + 2**24

    def stored(self, subject: Subject) -> torch.dtype:
        return stored_dtype(subject.engine.model) if self.dtype == "auto" else DTYPES[self.dtype]

    def write(self, subject: Subject, folder: Path) -> None:
        save_model(merged_model(subject, where="exports: merged"), folder, self.stored(subject))
        write_speech(subject.contract, subject.engine.model.folder, folder)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        prompts = [list(record.prompt_ids) for record in subject.records]
        checks = [
            check_speech(subject.contract, folder),
            check_tokenizer(subject.engine.model.folder, folder),
            check_reloaded_prompts(prompts, subject.probes, folder, subject.contract),
        ]
        trained = living(subject)
        with living_pairs(subject) as pairs:
            if pairs is None:
                checks.append(check_copied(subject.engine.model, folder))
            else:
                checks += check_adapter(subject, pairs, trained)
                checks.append(_check_weights(subject, pairs, folder))
        stored = self.stored(subject)
        kept = rounding_of(stored)
        found, noise = prove_readers(subject, folder, Promise(("danlu", "transformers"), matrices=kept, vectors=kept))
        facts = {
            "dtype": str(proof_dtype(subject.engine.model))[6:],
            "files_dtype": str(stored)[6:],
        }
        return Proof(checks + found, noise.worst(trained.floor), facts)


def _check_weights(subject: Subject, adapter_folder: Path, merged_folder: Path) -> Check:
    model = subject.engine.model
    onto = None
    if subject.through != "none":
        onto = dict(load_base_again(subject, torch.float32, "cpu").named_parameters())
    return check_deltas(model, model.folder, merged_folder, read_pairs(adapter_folder, model), onto=onto)
