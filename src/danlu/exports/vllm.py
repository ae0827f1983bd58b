"""Export `vllm`: a whole model ready for vLLM and SGLang, with the settings that both start from.

Unquantised it is what `merged` is; `fp8` and `int8` are `compressed-tensors` checkpoints, eight bits a weight and
input, which need no calibration data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.exports.compressed.prove import prove_compressed
from danlu.exports.compressed.schemes import SCHEMES
from danlu.exports.compressed.write import write_compressed
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import context_of, merged_model, prove_merged, prove_speech, write_merged
from danlu.exports.reload import living, proof_dtype, stored_dtype
from danlu.exports.serving import write_serving
from danlu.exports.speech import write_speech
from danlu.exports.vllm_program import programs
from danlu.model.quantized import num_params


class VLLMExport:
    kind: Literal["vllm"] = "vllm"

    def __init__(self, quantize: str | None = None, python: str | None = None) -> None:
        self.quantize, self.python = quantize, python

    def size_bytes(self, subject: Subject) -> int:
        model = subject.engine.model
        itemsize = 1 if self.quantize else stored_dtype(model).itemsize
        return num_params(model) * itemsize + 2**26

    def write(self, subject: Subject, folder: Path) -> None:
        model = subject.engine.model
        if self.quantize is None:
            write_merged(subject, folder, stored_dtype(model))
        else:
            merged = merged_model(subject, where="exports: vllm")
            write_compressed(merged, folder, SCHEMES[self.quantize], stored_dtype(model))
            write_speech(subject.contract, model.folder, folder)
        context = context_of(subject)
        write_serving(folder, name=subject.facts.name, contract=subject.contract, context=context)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        if self.quantize is None:
            readers = ("danlu", "transformers", *programs(self.python))
            return prove_merged(subject, folder, stored_dtype(subject.engine.model), readers, python=self.python)
        checks = prove_speech(subject, folder)
        merged = merged_model(subject, where="exports: vllm")
        found, noise = prove_compressed(subject, folder, merged, SCHEMES[self.quantize], python=self.python)
        facts = {"dtype": str(proof_dtype(subject.engine.model))[6:], "files_dtype": self.quantize}
        return Proof(checks + found, noise.worst(living(subject).floor), facts)
