"""Export `gguf-lora`: the adapter for llama.cpp, to be put on a GGUF file of its own base, whatever type that has.

Its proof needs such a base file: one is written beside it for as long as the proof lasts, in the type of the base's own
files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Literal

from danlu.adapters.peft_format import read_pairs
from danlu.exports.export import Proof, Subject
from danlu.exports.gguf.files import about_of, file_stem
from danlu.exports.gguf.lora import write_lora
from danlu.exports.gguf.write import write_model
from danlu.exports.merging import prove_speech
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import (
    check_adapter,
    living,
    living_pairs,
    load_base_again,
    lora_of,
    proof_dtype,
    stored_dtype,
)
from danlu.exports.rounding import rounding_of
from danlu.exports.speech import write_speech
from danlu.model.quantized import num_params


class GGUFLoRAExport:
    kind: Literal["gguf-lora"] = "gguf-lora"

    def size_bytes(self, subject: Subject) -> int:
        """With the base that the proof writes."""
        model = subject.engine.model
        pairs = 4 * sum(weight.numel() for weight in lora_of(subject).parameters().values())
        return pairs + num_params(model) * stored_dtype(model).itemsize + 2**25

    def write(self, subject: Subject, folder: Path) -> None:
        lora_of(subject)  # refused before anything is written
        model = subject.engine.model
        with living_pairs(subject) as folder_of_pairs:
            assert folder_of_pairs is not None, "there is an adapter"
            pairs = read_pairs(folder_of_pairs, model)
        write_lora(pairs, model, folder / f"{file_stem(subject.facts.name)}-lora-f32.gguf", about=about_of(subject))
        write_speech(subject.contract, model.folder, folder)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        checks = prove_speech(subject, folder)
        trained = living(subject)
        with living_pairs(subject) as pairs:
            assert pairs is not None, "there is an adapter"
            checks += check_adapter(subject, pairs, trained)
        kept = rounding_of(stored_dtype(subject.engine.model))
        with tempfile.TemporaryDirectory(dir=folder, prefix=".base-") as name:  # goes with the folder if we are killed
            base = Path(name) / "base.gguf"
            model = load_base_again(subject, stored_dtype(subject.engine.model), "cpu")
            assert kept != "q8_0", "a checkpoint's own dtype"
            write_model(
                model, base, contract=subject.contract, source=model.folder, about=about_of(subject), quantize=kept
            )
            del model
            promise = Promise(("llamacpp",), matrices=kept, is_merged=False, beside=base)
            found, noise = prove_readers(subject, folder, promise)
        facts = {"dtype": str(proof_dtype(subject.engine.model))[6:], "beside": f"base as {kept}"}
        return Proof(checks + found, noise.worst(trained.floor), facts)
