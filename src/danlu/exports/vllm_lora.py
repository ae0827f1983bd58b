"""Export `vllm-lora`: the adapter as vLLM and SGLang serve one beside its base: one rank, one scale, a rank that vLLM
keeps room for, nothing but linear layers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from danlu.adapters.peft_format import CONFIG, read_pairs, write_pairs
from danlu.core.files import read_json, write_json
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import context_of, prove_speech
from danlu.exports.parity import Check
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.reload import check_adapter, living, living_pairs, lora_of, proof_dtype
from danlu.exports.serving import allowed_rank, uniform, write_serving
from danlu.exports.speech import write_speech
from danlu.exports.vllm_program import programs
from danlu.model.build import family_of


class VLLMLoRAExport:
    kind: Literal["vllm-lora"] = "vllm-lora"

    def __init__(self, python: str | None = None) -> None:
        self.python = python

    def size_bytes(self, subject: Subject) -> int:
        return 12 * sum(weight.numel() for weight in lora_of(subject).parameters().values()) + 2**24

    def write(self, subject: Subject, folder: Path) -> None:
        lora_of(subject)  # refused before anything is written
        model, base = subject.engine.model, subject.facts.base
        with living_pairs(subject) as living_folder:
            assert living_folder is not None, "there is an adapter"
            pairs = read_pairs(living_folder, model)
        write_pairs(folder, uniform(pairs, family_of(model.config).fused), model)
        config = read_json(folder / CONFIG)
        names = {"base_model_name_or_path": base.get("name"), "revision": base.get("revision")}
        write_json(folder / CONFIG, config | names)
        write_speech(subject.contract, model.folder, folder)
        write_serving(
            folder, name=subject.facts.name, contract=subject.contract, context=context_of(subject),
            base=str(base.get("name")), rank=int(config["r"]),
        )  # fmt: skip

    def prove(self, subject: Subject, folder: Path) -> Proof:
        checks = [*prove_speech(subject, folder), check_servable(folder)]
        trained = living(subject)
        checks += check_adapter(subject, folder, trained)
        promise = Promise(
            ("danlu", "peft", *programs(self.python)), is_merged=False, beside=subject.engine.model.folder,
            python=self.python,
        )  # fmt: skip
        found, noise = prove_readers(subject, folder, promise)
        return Proof(checks + found, noise.worst(trained.floor), {"dtype": str(proof_dtype(subject.engine.model))[6:]})


def check_servable(folder: Path) -> Check:
    """What vLLM refuses, or would take no notice of, stands nowhere in the adapter's settings."""
    config = read_json(folder / CONFIG)
    faults = [key for key in ("rank_pattern", "alpha_pattern", "modules_to_save", "use_dora") if config.get(key)]
    faults += [] if config.get("bias", "none") == "none" else ["bias"]
    numbers = {"rank": config["r"], "max_lora_rank": allowed_rank(int(config["r"])), "num_faults": len(faults)}
    return Check("servable", "fail" if faults else "pass", numbers, {"num_faults": 0}, ", ".join(faults))
