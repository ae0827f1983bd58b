"""Export `merged` of an encoder: a folder for transformers' AutoModelForSequenceClassification, and its proof.

What is read from the folder, by us and by transformers, is held to the trained weights, rounded as the files round
them: token ids, the name of each class, logits, answers, held-out questions. The noise floor is measured as for
decoders.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from danlu.core.errors import DanluError
from danlu.data.classes import contract_again, label_encoder
from danlu.data.tokenizer import Tokenizer
from danlu.engines.classes import ClassEngine
from danlu.engines.engine import Question
from danlu.exports.deltas import check_copied
from danlu.exports.export import Proof, Subject
from danlu.exports.oracle import TransformersClasses, has
from danlu.exports.parity import (
    Check,
    check_answers,
    check_ids,
    check_logits,
    margin_of,
    measure_floor,
    record,
)  # fmt: skip
from danlu.exports.proof import ROUNDING_FACTOR, check_questions, mark
from danlu.exports.reload import COMPUTE_FACTOR, Reference, is_said_alike, proof_dtype
from danlu.exports.rounding import round_weights, rounding_of
from danlu.exports.speech import check_tokenizer
from danlu.model.build import load_model, save_model
from danlu.model.classifier import Classifier


class Reading(Protocol):
    """A program that has opened the folder."""

    name: str

    @property
    def classes(self) -> tuple[str, ...]: ...

    def text_ids(self, question: Question) -> list[int]: ...

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]: ...

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]: ...


class _Own(ClassEngine):
    """Our own loader on what was written, with the folder's tokenizer."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.model.classes

    def text_ids(self, question: Question) -> list[int]:
        return self.prompt_ids(question)


def write_classes(engine: ClassEngine, folder: Path, stored: torch.dtype) -> None:
    """Weights, tokenizer, and config.json with the classes' names."""
    save_model(engine.model, folder, stored)


def prove_classes(subject: Subject, engine: ClassEngine, folder: Path, stored: torch.dtype) -> Proof:
    trained = _reference(engine, subject, torch.float32)
    expected = trained if stored == torch.float32 else _reference(engine, subject, stored)
    lines = subject.contract.differences(contract_again(subject.contract, Tokenizer.load(folder)))
    checks = [
        Check("contract", "fail" if lines else "pass", {"num_differences": len(lines)}, {"num_differences": 0},
              "\n".join(lines)[:2000]),
        check_tokenizer(engine.model.folder, folder),
        check_copied(engine.model, folder),
    ]  # fmt: skip
    noise = expected.floor
    if expected is not trained:
        weights = list(trained.engine.model.parameters())
        noise = noise.worst(measure_floor(trained.records, trained.engine, weights, stored))
        checks.append(check_logits("rounding_logits", trained.records, expected.engine, noise, ROUNDING_FACTOR))
    marks = mark(subject, trained.engine)
    for name, open_reading in (("danlu", _open_own), ("transformers", _open_transformers)):
        if not has(name):
            checks += [Check(f"{name}_{part}", "not run", note=name) for part in ("logits", "answers")]
            continue
        try:
            reading = open_reading(subject, folder, proof_dtype(engine.model), engine.model.device)
        except DanluError as error:
            checks.append(Check(f"{name}_logits", "fail", note=error.text))
            continue
        checks += _ask(reading, subject, expected, marks)
    facts = {"dtype": str(proof_dtype(engine.model))[6:], "files_dtype": str(stored)[6:]}
    return Proof(checks, noise, facts)


def _reference(engine: ClassEngine, subject: Subject, stored: torch.dtype) -> Reference:
    """The trained weights, rounded as files in `stored` round them, in the proof's dtype; never what was written."""
    model = copy.deepcopy(engine.model).to(proof_dtype(engine.model))
    kind = rounding_of(stored)
    round_weights(model, kind, kind, kind)
    again = ClassEngine(model, engine.encoder, name="expected")
    records = record(again, [found.prompt_ids for found in subject.records])
    return Reference(again, records, measure_floor(records, again, list(model.parameters()), model.dtype))


def _open_own(subject: Subject, folder: Path, dtype: torch.dtype, device: torch.device) -> Reading:
    model = load_model(folder, dtype=dtype, device=device)
    assert isinstance(model, Classifier), "an encoder was written"
    return _Own(model, label_encoder(subject.contract, Tokenizer.load(folder)), name="danlu")


def _open_transformers(subject: Subject, folder: Path, dtype: torch.dtype, device: torch.device) -> Reading:
    return TransformersClasses(folder, dtype=dtype, device=device)


def _ask(reading: Reading, subject: Subject, expected: Reference, marks: Sequence[bool]) -> Iterator[Check]:
    """One check after the other."""
    name, records, floor = reading.name, expected.records, expected.floor
    engine = subject.engine
    assert isinstance(engine, ClassEngine), "whoever is proven here names classes"
    pairs = [
        (list(told.prompt_ids), reading.text_ids(question))
        for question, told in zip(subject.probes, subject.records, strict=True)
        if is_said_alike(question, subject) and len(told.prompt_ids) < engine.encoder.reach  # others cut elsewhere
    ]
    yield check_ids(f"{name}_prompts", [ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    is_same = reading.classes == engine.encoder.names
    numbers, limits = {"num_classes": len(reading.classes)}, {"num_classes": len(engine.model.classes)}
    note = "" if is_same else "; ".join(reading.classes)[:600]
    yield Check(f"{name}_classes", "pass" if is_same else "fail", numbers, limits, note)
    yield check_logits(f"{name}_logits", records, reading, floor, COMPUTE_FACTOR)
    yield check_answers(f"{name}_answers", records, reading, margin_of(floor), 1)
    if subject.quiz:
        yield check_questions(f"{name}_questions", marks, mark(subject, reading))
