"""Export `ollama`: a GGUF file and a Modelfile that renders, stops and samples as the model was trained.

Ollama runs llama.cpp, so the file's proof is that of `gguf`; the template's is its own: what Go will write is compared
with what the contract's template writes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from danlu.core.files import write_text
from danlu.data.template import Template
from danlu.exports.export import Proof, Subject
from danlu.exports.gguf.files import file_name, prove_gguf, size_bytes, write_gguf
from danlu.exports.gguf.tensors import Quantize
from danlu.exports.gguf.write import adds_bos
from danlu.exports.merging import context_of
from danlu.exports.ollama.gotemplate import write_go
from danlu.exports.ollama.modelfile import write_modelfile
from danlu.exports.ollama.turns import Turns, learn
from danlu.exports.parity import Check

NAME = "Modelfile"


class OllamaExport:
    kind: Literal["ollama"] = "ollama"

    def __init__(self, quantize: Quantize = "q8_0") -> None:
        self.quantize = quantize

    def size_bytes(self, subject: Subject) -> int:
        return size_bytes(subject, self.quantize)

    def write(self, subject: Subject, folder: Path) -> None:
        target = folder / file_name(subject, self.quantize)
        template = write_go(turns_of(subject))  # refused before gigabytes are written
        described = write_gguf(subject, folder, target, self.quantize)
        context = min(described.context, context_of(subject))
        text = write_modelfile(target.name, template, subject.contract, context=context)
        write_text(folder / NAME, text)

    def prove(self, subject: Subject, folder: Path) -> Proof:
        proof = prove_gguf(subject, folder, folder / file_name(subject, self.quantize), self.quantize)
        return replace(proof, checks=[*proof.checks, self.check_modelfile(subject, folder)])

    def check_modelfile(self, subject: Subject, folder: Path) -> Check:
        """The template in the file is the one that was compared, turn by turn, with the contract's; every stop token
        is there."""
        text = (folder / NAME).read_text(encoding="utf-8")
        wanted = [f'"""{write_go(turns_of(subject))}"""']
        wanted += [f'PARAMETER stop "{entry["token"]}"' for entry in subject.contract.value["stop"] if entry["token"]]
        missing = [line[:80] for line in wanted if line not in text]
        numbers = {"num_wanted": len(wanted), "num_missing": len(missing)}
        return Check("modelfile", "fail" if missing else "pass", numbers, {"num_missing": 0}, "; ".join(missing))


def turns_of(subject: Subject) -> Turns:
    """Of the contract's template without the run's system prompt, which the Modelfile gives."""
    encoder, value = subject.engine.encoder, subject.contract.value
    template = Template(value["template"], encoder.tokenizer, source="chat_template", thinking=value["thinking"])
    bos = str(encoder.tokenizer.special_tokens.get("bos_token") or "")
    return learn(template, leave_out=bos if adds_bos(subject.contract) else "")
