"""Export `merged`: a Hugging Face folder that needs nothing beside it; transformers loads it unchanged.

A low-rank adapter is folded into the base's own files, read anew and checked against the digest it was trained on:
added in fp32, rounded once to the files' dtype. The living model stays as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from danlu.adapters.lora import LoRA
from danlu.adapters.peft_format import read_pairs
from danlu.exports.deltas import check_copied, check_deltas
from danlu.exports.export import Proof, Subject
from danlu.exports.parity import Check
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import check_adapter, living, living_pairs, load_base_again, proof_dtype, stored_dtype
from danlu.exports.rounding import rounding_of
from danlu.exports.speech import check_reloaded_prompts, check_speech, check_tokenizer, write_speech
from danlu.model.build import save_model
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
        with living_pairs(subject) as pairs:
            if pairs is None:
                save_model(living_model, folder, dtype)
            else:
                model = load_base_again(subject, torch.float32, "cpu")
                LoRA.load(pairs, model).merge()
                save_model(model, folder, dtype)
        write_speech(subject.contract, living_model.folder, folder)

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
        kept = rounding_of(stored_dtype(subject.engine.model))
        found, noise = prove_readers(subject, folder, Promise(("danlu", "transformers"), matrices=kept, vectors=kept))
        facts = {
            "dtype": str(proof_dtype(subject.engine.model))[6:],
            "files_dtype": str(stored_dtype(subject.engine.model))[6:],
        }
        return Proof(checks + found, noise.worst(trained.floor), facts)


def _check_weights(subject: Subject, adapter_folder: Path, merged_folder: Path) -> Check:
    model = subject.engine.model
    return check_deltas(model, model.folder, merged_folder, read_pairs(adapter_folder, model))
