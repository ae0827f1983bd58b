"""The proof of what was written: each program that reads it, against what it should say.

What it should say is not what our loader makes of the same files, which would share their faults, but a model made anew
from the base's own files and the living update, its weights rounded as the files promise (`expected`). Between that and
a program that reads right files lies only the order of sums, or, where the program rounds more than that, what the same
rounding does to our own model: the floor, which is measured, told and bounded. What rounding the weights costs against
what was trained is a question of its own, with its own floor (`check_rounding`).

Shapes: P positions of a text, V vocabulary.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from danlu.adapters.load import load_beside
from danlu.adapters.lora import AttachedLoRA
from danlu.core.errors import DanluError
from danlu.core.messages import say
from danlu.engines.native import NativeEngine
from danlu.exports.export import Subject
from danlu.exports.oracle import has
from danlu.exports.parity import (
    Check,
    Difference,
    Witness,
    check_answers,
    check_ids,
    compare,
    distance,
    dithered,
    hear,
    judge_logits,
    margin_of,
)  # fmt: skip
from danlu.exports.readers import READERS
from danlu.exports.readers.reader import Place, Reader, Reading, Rounding
from danlu.exports.reload import (
    COMPUTE_FACTOR,
    Reference,
    is_said_alike,
    living_pairs,
    load_base_again,
    proof_dtype,
    witnessed,
)  # fmt: skip
from danlu.exports.rounding import round_weights, rounding_inputs, spacing
from danlu.exports.transfer import Effects, check_modules, check_weights, measure_effects, measure_weights
from danlu.model.model import Model
from danlu.model.stored import is_quantized

PARTS = ("prompts", "logits", "answers", "stops", "modules", "weights", "questions")
"""What is looked at through each program; a check is named `<reader>_<part>`."""
ARITHMETIC_FACTOR = 3.0
"""A program that rounds its inputs, against our model that does so in the same places."""
MAX_FLOOR_KL = 0.02
"""Nats a token. Through a noisier program nothing can be shown: what passes there is not proven."""
ROUNDING_FACTOR = 3.0
"""Rounded weights, against other roundings of the same size drawn at random."""
MAX_ANSWERS = 8
"""Other programs answer one question at a time: the last probes, those of the domain, speak for all."""
MAX_DROP = 0.05
"""This part of the quiz's questions may be lost, net of those won."""
MAX_QUIZ_TOKENS = 64
MAX_STOP_TOKENS = 128
"""How long a text may become in the search for one that ends."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a writer says of its files: which programs read them; in what matrices, vectors (norms, biases) and
    low-rank pairs lie; whether the update is in the weights; what a program needs beside the folder."""

    readers: tuple[str, ...]
    matrices: Rounding = "f32"
    vectors: Rounding = "f32"
    pairs: Rounding = "f32"
    is_merged: bool = True
    beside: Path | None = None
    inputs: Callable[[nn.Module], AbstractContextManager[None]] | None = None
    """Where the format itself, or a program that knows no other numbers, rounds inputs of products: our model doing so,
    inside the block. Two right programs differ by as much: a last place flips a code, and that flips others in each
    layer after it."""
    python: str | None = None
    """Of the environment that a program of its own lives in."""

    @property
    def is_rounded(self) -> bool:
        return (self.matrices, self.vectors, self.pairs) != ("f32", "f32", "f32")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all readers of one artefact are compared with, computed once: `trained`, in the proof's dtype and unmerged,
    from the base's files and the living update; `expected`, the same rounded as promised."""

    trained: Reference
    expected: Reference
    effects: Effects | None
    weights: Effects | None
    """What shrinking an update, or a whole weight, does; None where there is none, or where it is not asked."""
    promise: Promise
    quiz: tuple[bool, ...]
    """Which of the quiz's questions the trained model answers rightly."""
    ends: list[tuple[tuple[int, ...], int]]
    """Texts after which the expected model stops, and with what."""


def prove_readers(subject: Subject, folder: Path, promise: Promise) -> tuple[list[Check], Difference]:
    """Every check of every reader, and the noise that was measured on the way: rounding's, or arithmetic's."""
    bench = set_up(subject, promise)
    checks, noise = check_rounding(bench, subject.max_new_tokens) if promise.is_rounded else ([], bench.trained.floor)
    for name in promise.readers:
        subject.progress.advance(0, now=say("export.now_reader", reader=name))
        checks += prove_reader(READERS.load(name)(), subject, folder, bench)
    return checks, noise


def set_up(subject: Subject, promise: Promise, *, expected: Reference | None = None) -> Bench:
    """`expected` is given where codes are searched for and no rule says what each weight becomes. Such codes hide what
    single modules do to logits; the caller holds each of them to its weights in the file instead."""
    has_rule = expected is None
    subject.progress.advance(0, now=say("export.now_reference"))
    with living_pairs(subject) as pairs:
        trained = subject.once("trained", lambda: witnessed(trained_wide(subject, pairs), subject))
        if expected is None:
            is_same = not promise.is_rounded and not promise.is_merged
            expected = trained if is_same else witnessed(expected_engine(subject, promise, pairs), subject)
    subject.progress.advance(0, now=say("export.now_sensitivity"))
    effects = weights = None
    records = expected.records
    texts = tuple(told.text_ids for told in records)  # what is measured depends on nothing else of theirs
    if has_rule and isinstance(trained.engine.adapter, AttachedLoRA):
        effects = subject.once(("effects", texts), lambda: measure_effects(trained.engine, records))
    if has_rule and promise.is_merged:
        weights = subject.once(("weights", texts), lambda: measure_weights(trained.engine, records))
    marks = subject.once("marks", lambda: mark(subject, trained.engine))
    return Bench(trained, expected, effects, weights, promise, marks, ends_of(expected))


def trained_wide(subject: Subject, pairs: Path | None) -> NativeEngine:
    """What was trained, in the proof's dtype and on the base as its files are; never what an export has written."""
    model = load_base_again(subject, proof_dtype(subject.engine.model), subject.engine.model.device)
    adapter = None
    if pairs is not None:
        adapter = load_beside(pairs, model)
    else:
        _copy_living(subject, model)
    return NativeEngine(model, subject.engine.encoder, name="trained", adapter=adapter)


def expected_engine(subject: Subject, promise: Promise, pairs: Path | None) -> NativeEngine:
    """What a right reader of right files computes with."""
    engine = trained_wide(subject, pairs)
    if promise.is_merged and isinstance(engine.adapter, AttachedLoRA):
        engine.adapter.merge()
        engine.adapter = None
    round_weights(engine.model, promise.matrices, promise.vectors, promise.pairs)
    engine.name = "expected"
    return engine


def _copy_living(subject: Subject, model: Model) -> None:
    """Full fine-tuning has no update apart from the weights."""
    living = dict(subject.engine.model.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(living[name])


# ---- one reader


def prove_reader(reader: Reader, subject: Subject, folder: Path, bench: Bench) -> list[Check]:
    """All that one program is asked; "not run" where it is not installed, a failed check where it refuses or dies."""
    if missing := [package for package in packages_of(reader, subject) if not has(package)]:
        return [Check(f"{reader.name}_{part}", "not run", note=", ".join(missing)) for part in PARTS[:3]]
    model = bench.expected.engine.model
    place = Place(
        folder, bench.promise.beside, model.dtype, model.device, longest_text(subject, bench), bench.promise.python
    )  # fmt: skip
    try:
        with contextlib.closing(reader.open(place)) as reading:
            return list(ask_all(reader, reading, subject, bench))
    except DanluError as error:
        return [Check(f"{reader.name}_logits", "fail", note=error.text)]


def longest_text(subject: Subject, bench: Bench) -> int:
    """In tokens, with room for what is answered."""
    told = [len(record.text_ids) for record in bench.expected.records] + [len(text) for text, _ in bench.ends]
    asked = [len(subject.engine.prompt_ids(each.question)) for each in subject.quiz]
    return max(512, *told, *asked) + MAX_QUIZ_TOKENS + subject.max_new_tokens


def packages_of(reader: Reader, subject: Subject) -> tuple[str, ...]:
    """What must be installed; a base that came in codes needs more."""
    has_codes = "transformers" in reader.packages and is_quantized(subject.engine.model.folder)
    return (*reader.packages, *(("bitsandbytes", "accelerate") if has_codes else ()))


def ask_all(reader: Reader, reading: Reading, subject: Subject, bench: Bench) -> Iterator[Check]:
    """One check after the other, for whoever only wants to know whether one fails."""
    name, expected = reader.name, bench.expected
    records = expected.records
    looks_up = reader.halves_gelu and expected.engine.model.spec.activation.startswith("gelu")
    arithmetic = reader.arithmetic(bench.promise.matrices)
    honest = honest_paths(expected, arithmetic, halves_gelu=looks_up, inputs=bench.promise.inputs)
    floor, factor = _floor(expected, honest)
    yield check_prompts(f"{name}_prompts", subject, reading)
    heard = hear(records, reading)
    found = distance(records, heard, is_partial=reading.is_partial)
    yield bounded(judge_logits(f"{name}_logits", found, floor, factor), floor)
    yield check_answers(f"{name}_answers", records[-MAX_ANSWERS:], reading, margin_of(floor), subject.max_new_tokens)
    yield check_stops(f"{name}_stops", bench, reading, margin_of(floor))
    if bench.effects is not None:
        yield check_modules(f"{name}_modules", bench.effects, records, heard, honest)
    if bench.weights is not None:
        yield check_weights(f"{name}_weights", bench.weights, records, heard, honest)
    if subject.quiz:
        yield check_questions(f"{name}_questions", bench.quiz, mark(subject, reading))


def check_prompts(name: str, subject: Subject, reading: Reading) -> Check:
    """The program renders conversations to the very token ids that training and our engine made of them."""
    pairs = [pair for pair in zip(subject.probes, subject.records, strict=True) if is_said_alike(pair[0], subject)]
    switch = subject.contract.value["thinking"] != "drop"
    found = [reading.prompt_ids(question, enable_thinking=switch) for question, _ in pairs]
    return check_ids(name, [list(told.prompt_ids) for _, told in pairs], found)


def mark(subject: Subject, witness: Witness) -> tuple[bool, ...]:
    """Which of the quiz's questions a witness answers rightly, asked greedily."""
    prompts = [subject.engine.prompt_ids(each.question) for each in subject.quiz]
    answers = witness.continue_ids(prompts, MAX_QUIZ_TOKENS) if prompts else []
    text = subject.engine.encoder.answer_text
    return tuple(each.is_right(text(answer)) for each, answer in zip(subject.quiz, answers, strict=True))


def check_questions(name: str, trained: Sequence[bool], found: Sequence[bool]) -> Check:
    """A program may lose a few questions that were won by a hair, and win as many others; not more."""
    num_lost = sum(before and not after for before, after in zip(trained, found, strict=True))
    num_won = sum(after and not before for before, after in zip(trained, found, strict=True))
    most = max(1, int(MAX_DROP * len(found)))
    numbers = {
        "num_questions": len(found), "num_right": sum(found), "num_right_trained": sum(trained),
        "num_lost": num_lost, "num_won": num_won,
    }  # fmt: skip
    return Check(name, "pass" if num_lost - num_won <= most else "fail", numbers, {"num_lost_net": most})


def ends_of(expected: Reference) -> list[tuple[tuple[int, ...], int]]:
    """Texts after which the model stops, each with the token it stops at. Where no answer to a probe ends, answers are
    made longer until some do."""
    stop_ids, records = expected.engine.encoder.stop_ids, expected.records
    found = [(r.text_ids, r.answer_ids[-1]) for r in records if r.answer_ids and r.answer_ids[-1] in stop_ids]
    if not found:
        prompts = [record.prompt_ids for record in records[-MAX_ANSWERS:]]
        answers = expected.engine.continue_ids(prompts, MAX_STOP_TOKENS)
        pairs = zip(prompts, answers, strict=True)
        found = [((*prompt, *answer[:-1]), answer[-1]) for prompt, answer in pairs if answer[-1] in stop_ids]
    return found[-MAX_ANSWERS:]


def check_stops(name: str, bench: Bench, reading: Reading, margin: float) -> Check:
    """Where an answer ends, the program ends it too: the stop token comes, and nothing after it."""
    said = reading.continue_ids([text for text, _ in bench.ends], 4)
    num_lost, worst = 0, 0.0
    for (text, stop), answer in zip(bench.ends, said, strict=True):
        if answer[:1] != [stop]:
            worst = max(worst, _lead(bench.expected.engine, text, stop, answer))
        elif len(answer) > 1:
            num_lost += 1
    numbers = {"num_stops": len(bench.ends), "num_lost": num_lost, "largest_lead_at_parting": worst}
    is_kept = num_lost == 0 and worst <= margin
    limits = {"num_lost": 0, "largest_lead_at_parting": margin}
    return Check(name, "pass" if is_kept else "fail", numbers, limits, "" if bench.ends else "no probe's answer ends")


def _lead(expected: NativeEngine, text: Sequence[int], stop: int, answer: Sequence[int]) -> float:
    """By how much the expected model preferred to stop."""
    if not answer:
        return float("inf")
    (logits_TV,) = expected.logits([list(text)])
    return float(logits_TV[-1, stop] - logits_TV[-1, answer[0]])


# ---- noise


def honest_paths(
    expected: Reference,
    arithmetic: Rounding,
    *,
    halves_gelu: bool,
    inputs: Callable[[nn.Module], AbstractContextManager[None]] | None = None,
) -> list[list[Tensor]]:
    """The expected model by other ways that are right too: all texts in one batch, every weight moved by up to half a
    unit in its last place, and, where a program computes in coarser numbers, with its inputs rounded like that."""
    engine, records = expected.engine, expected.records
    key = (arithmetic, halves_gelu, inputs is not None)
    if key in expected.honest:
        return expected.honest[key]
    paths = [hear(records, engine, is_together=True)]
    with dithered(list(engine.model.parameters()), engine.model.dtype, 0):
        paths.append(hear(records, engine))
    if arithmetic != "f32" or halves_gelu:
        with rounding_inputs(engine.model, arithmetic, halves_gelu=halves_gelu):
            paths.append(hear(records, engine))
    if inputs is not None:
        with inputs(engine.model):
            paths.append(hear(records, engine))
    expected.honest[key] = paths
    return paths


def bounded(check: Check, floor: Difference) -> Check:
    """The same, unless the floor itself is too high for passing to mean anything."""
    limits = check.limits | {"floor_mean_kl": MAX_FLOOR_KL}
    if check.verdict == "pass" and not floor.mean_kl <= MAX_FLOOR_KL:
        return dataclasses.replace(check, verdict="not run", limits=limits, note="too much noise to prove anything")
    return dataclasses.replace(check, limits=limits)


def _floor(expected: Reference, honest: Sequence[Sequence[Tensor]]) -> tuple[Difference, float]:
    """The worst of the honest paths, and how many times that is still noise."""
    floor = Difference()
    for heard in honest:
        floor = floor.worst(distance(expected.records, heard))
    return floor, ARITHMETIC_FACTOR if len(honest) > 2 else COMPUTE_FACTOR


# ---- what rounding costs


def check_rounding(bench: Bench, max_new_tokens: int) -> tuple[list[Check], Difference]:
    """The rounded model against what was trained, beside other roundings of the same size, drawn at random."""
    trained, promise = bench.trained, bench.promise
    floor = trained.floor
    for weights, kind in _rounded_weights(trained.engine, promise):
        if weights and kind != "f32":  # noise in fp32's last place is in the trained model's own floor
            with dithered(weights, functools.partial(spacing, kind=kind), 0):
                floor = floor.worst(compare(trained.records, trained.engine))
    found = compare(trained.records, bench.expected.engine)
    checks = [
        judge_logits("rounding_logits", found, floor, ROUNDING_FACTOR),
        check_answers("rounding_answers", trained.records, bench.expected.engine, margin_of(floor), max_new_tokens),
    ]
    return checks, floor


def _rounded_weights(engine: NativeEngine, promise: Promise) -> list[tuple[list[Tensor], Rounding]]:
    named: dict[str, Tensor] = dict(engine.model.named_parameters())
    pairs = [weight for name, weight in named.items() if name.endswith(("lora_A", "lora_B"))]
    others = [weight for name, weight in named.items() if not name.endswith(("lora_A", "lora_B"))]
    return [
        ([weight for weight in others if weight.dim() > 1], promise.matrices),
        ([weight for weight in others if weight.dim() < 2], promise.vectors),
        (pairs, "f32" if promise.is_merged else promise.pairs),
    ]
