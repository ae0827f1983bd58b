"""A trained model as a GGUF file of an artefact, and its proof; what `gguf`, `ollama` and `lmstudio` share.

Beside the file lie tokenizer, template and generation settings, so that danlu itself can check the artefact without
llama.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from danlu.exports.export import Proof, Subject
from danlu.exports.gguf.architecture import Description, describe
from danlu.exports.gguf.coarse import decoded, prove_coarse
from danlu.exports.gguf.tensors import Entry, Quantize, entries_of
from danlu.exports.gguf.write import About, write_model
from danlu.exports.merging import merged_model, prove_speech
from danlu.exports.parity import Check
from danlu.exports.proof import Promise, prove_readers
from danlu.exports.readers.reader import Rounding
from danlu.exports.reload import living, proof_dtype
from danlu.exports.speech import write_speech
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.quantized import num_params

BYTES: dict[str, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 1.07, "q6_k": 0.83, "q5_k_m": 0.72, "q4_k_m": 0.62}
"""Of one weight, on average."""
ROUNDINGS: dict[str, Rounding] = {"f32": "f32", "f16": "f16", "bf16": "bf16", "q8_0": "q8_0"}
"""Types with a rule of ours for what each weight becomes; the others' weights are read back from the file."""
_NEAR = {"F32": 0.0, "F16": 2.0**-11, "BF16": 2.0**-8, "Q8_0": 0.0045}
"""Most that rounding may move a weight, as a part of the largest one of its tensor."""
_NEAR_MEAN = {"Q6_K": 0.03, "Q5_K": 0.06, "Q5_0": 0.06, "Q5_1": 0.06, "Q4_K": 0.12}
"""Most that a tensor may differ on the whole, root mean square, where scales of blocks are fitted."""


def size_bytes(subject: Subject, quantize: Quantize) -> int:
    return int(num_params(subject.engine.model) * BYTES[quantize]) + 2**26


def file_stem(name: str) -> str:
    """A name that any file system takes."""
    return re.sub(r"[^\w.\-]+", "-", name).strip("-.") or "model"


def file_name(subject: Subject, quantize: Quantize) -> str:
    return f"{file_stem(subject.facts.name)}-{quantize.upper()}.gguf"


def about_of(subject: Subject) -> About:
    facts = subject.facts
    licence = facts.card.get("licence")
    told = licence.get("en", "") if isinstance(licence, dict) else str(licence or "")
    return About(facts.name, base=str(facts.base.get("name") or ""), licence=told)


def write_gguf(subject: Subject, folder: Path, target: Path, quantize: Quantize) -> Description:
    """The file, and beside it in `folder` what danlu checks it by."""
    source = subject.engine.model.folder
    model = merged_model(subject, where=f"exports: {target.name}")
    write_speech(subject.contract, source, folder)
    return write_model(
        model, target, contract=subject.contract, source=source, about=about_of(subject), quantize=quantize,
        reach=int(subject.facts.card.get("training", {}).get("context", 0)),
    )  # fmt: skip


def prove_gguf(subject: Subject, folder: Path, target: Path, quantize: Quantize) -> Proof:
    """Speech, every tensor read back, and llama.cpp against what the file should say."""
    checks = prove_speech(subject, folder)
    trained = living(subject)
    model = merged_model(subject, where=f"exports: {target.name}")
    checks.append(check_file(model, target, quantize))
    facts = {"dtype": str(proof_dtype(subject.engine.model))[6:], "files_dtype": quantize}
    if quantize in ROUNDINGS:
        found, noise = prove_readers(subject, target.parent, Promise(("llamacpp",), matrices=ROUNDINGS[quantize]))
    else:
        found, noise = prove_coarse(subject, target, quantize)
    return Proof(checks + found, noise.worst(trained.floor), facts)


def check_file(model: Model, target: Path, quantize: Quantize) -> Check:
    """Each tensor as the package's own decoder reads it, against the merged weight."""
    stored = decoded(target)
    wrong, missing = [], []
    worst = 0.0
    for entry in _entries(model, quantize):
        found = stored.pop(entry.name, None)
        if found is None:
            missing.append(entry.name)
            continue
        apart = _distance(entry, found)
        worst = max(worst, apart if entry.type in _NEAR else 0.0)
        if not apart <= _NEAR.get(entry.type, _NEAR_MEAN.get(entry.type, 0.0)):
            wrong.append(f"{entry.name}: {apart:.3g}")
    foreign = [*missing, *stored]
    numbers = {"num_wrong_modules": len(wrong), "num_foreign_tensors": len(foreign), "worst_distance": worst}
    limits = {"num_wrong_modules": 0, "num_foreign_tensors": 0}
    return Check("file", "fail" if wrong or foreign else "pass", numbers, limits, "; ".join([*wrong, *foreign][:5]))


def _entries(model: Model, quantize: Quantize) -> list[Entry]:
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    return entries_of(weights, model.spec, family_of(model.config).fused, describe(model.spec), quantize)


def _distance(entry: Entry, found: Tensor) -> float:
    """Of what was stored and what should be: the largest for types that round each number, the mean for the others."""
    expected = entry.read()
    if expected.shape != found.shape or not bool(found.isfinite().all()):
        return float("inf")
    apart = (found - expected).abs()
    if entry.type in _NEAR:
        return float(apart.max() / expected.abs().max().clamp_min(1e-30))
    return float(apart.square().mean().sqrt() / expected.square().mean().sqrt().clamp_min(1e-30))
