"""Export `gguf`: one file for llama.cpp and what is built on it, with tokenizer, template and stop tokens inside."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.exports.export import Proof, Subject
from danlu.exports.gguf.files import file_name, prove_gguf, size_bytes, write_gguf
from danlu.exports.gguf.tensors import Quantize


class GGUFExport:
    kind: Literal["gguf"] = "gguf"

    def __init__(self, quantize: Quantize = "q8_0") -> None:
        self.quantize = quantize

    def size_bytes(self, subject: Subject) -> int:
        return size_bytes(subject, self.quantize)

    def write(self, subject: Subject, folder: Path) -> None:
        write_gguf(subject, folder, folder / file_name(subject, self.quantize), self.quantize)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        return prove_gguf(subject, folder, folder / file_name(subject, self.quantize), self.quantize)
