"""Export `lmstudio`: a GGUF file where LM Studio looks for one, in `publisher/model/` below its models directory.

LM Studio reads template and stop tokens from the file itself, and runs llama.cpp; the proof is that of `gguf`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.exports.export import Proof, Subject
from danlu.exports.gguf.files import file_name, file_stem, prove_gguf, size_bytes, write_gguf
from danlu.exports.gguf.tensors import Quantize

PUBLISHER = "danlu"


class LMStudioExport:
    kind: Literal["lmstudio"] = "lmstudio"

    def __init__(self, quantize: Quantize = "q8_0") -> None:
        self.quantize = quantize

    def size_bytes(self, subject: Subject) -> int:
        return size_bytes(subject, self.quantize)

    def write(self, subject: Subject, folder: Path) -> None:
        target = self._target(subject, folder)
        target.parent.mkdir(parents=True)
        write_gguf(subject, folder, target, self.quantize)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        return prove_gguf(subject, folder, self._target(subject, folder), self.quantize)

    def _target(self, subject: Subject, folder: Path) -> Path:
        model = f"{file_stem(subject.facts.name)}-GGUF"
        return folder / PUBLISHER / model / file_name(subject, self.quantize)
