"""The proof of a checkpoint in eight bits: transformers, which reads it through the package `compressed-tensors`,
against our own model of the very codes; and that, its inputs rounded by the format's rule, against what was trained.

What rounding inputs does to our model is the noise to expect of a program that does so too. The cost of rounding both
is judged beside random rounding of the same size.
"""

from __future__ import annotations

import contextlib
import functools
import io
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from danlu.engines.native import NativeEngine
from danlu.exports.arrival import Arrivals, check_shape
from danlu.exports.compressed.schemes import SCALE, Scheme, rounding_inputs
from danlu.exports.export import Subject
from danlu.exports.oracle import has
from danlu.exports.parity import (
    Check,
    Difference,
    check_answers,
    compare,
    dithered,
    judge_logits,
    margin_of,
)  # fmt: skip
from danlu.exports.proof import ROUNDING_FACTOR, Bench, Promise, prove_reader, set_up
from danlu.exports.readers import READERS
from danlu.exports.reload import load_base_again, proof_dtype, stored_dtype, witnessed
from danlu.exports.structure import Layout, check_header, check_layout, coded_layers, config_of, layout_of, malformed_in
from danlu.exports.vllm_program import programs
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.shards import find_shards
from danlu.model.weights import split

PACKAGE = "compressed_tensors"


def prove_compressed(
    subject: Subject, folder: Path, merged: Model, scheme: Scheme, *, python: str | None = None
) -> tuple[list[Check], Difference]:
    """Every field and tensor of the files, then the readers."""
    model = load_base_again(subject, proof_dtype(subject.engine.model), subject.engine.model.device)
    kept = stored_dtype(subject.engine.model)
    layout = layout_of(merged, kept, functools.partial(scheme.layout, kept=kept))
    checks = [
        check_header("file_header", folder, config_of(merged, kept, scheme.header())),
        check_layout("file_layout", folder, layout),
        *_check_tensors(model, merged, folder, scheme, layout),
    ]
    layers = coded_layers(model)
    rounding = functools.partial(rounding_inputs, scheme=scheme, names=layers)
    promise = Promise(("transformers", *programs(python)), inputs=rounding, python=python)
    expected = witnessed(NativeEngine(model, subject.engine.encoder, name="expected"), subject)
    bench = set_up(subject, promise, expected=expected)
    cost, noise = _check_cost(bench, scheme, layers, subject.max_new_tokens)
    if has(PACKAGE):
        with contextlib.redirect_stderr(io.StringIO()):  # the package draws progress bars of its own
            checks += prove_reader(READERS.load("transformers")(), subject, folder, bench)
    else:
        checks.append(Check("transformers_logits", "not run", note=PACKAGE))
    for name in promise.readers[1:]:
        checks += prove_reader(READERS.load(name)(), subject, folder, bench)
    return checks + cost, noise


def _check_tensors(model: Model, merged: Model, folder: Path, scheme: Scheme, layout: Layout) -> list[Check]:
    """Each weight that the files hold against the merged one, within half a step of its row, and each update as a
    whole; `model` is the base and gets what the files hold."""
    arrivals = Arrivals()
    weights, whole = dict(model.named_parameters()), dict(merged.named_parameters())
    family, coded = family_of(model.config), {f"{name}.weight" for name in coded_layers(model)}
    unseen, wrong, worst = set(weights), [], 0.0
    with torch.no_grad():
        for their_name, values in _stored(folder, scheme, malformed_in(folder, layout)):
            for name, part in split(their_name, values, family, model.spec):
                if name not in whole:  # a reader of another make may load what the model never had
                    unseen.add(name)
                    continue
                weight = whole[name].detach().cpu().float()
                unseen.discard(name)
                steps = scheme.spacing(weight) if name in coded else None
                if steps is not None:
                    arrivals.add(name.removesuffix(".weight"), weights[name].cpu(), weight, part, steps)
                weights[name].copy_(part)
                # a scale is rounded to 8 bits of mantissa, and moves the largest codes by as much
                allowed = 0.5 * steps + weight.abs() * 2**-8 if steps is not None else weight.abs() * 2**-8
                excess = float(((part - weight).abs() - allowed).max())
                worst = max(worst, excess)
                if not excess <= 1e-6:
                    wrong.append(name)
    numbers = {"num_wrong_modules": len(wrong), "num_foreign_tensors": len(unseen), "worst_distance": worst}
    limits = {"num_wrong_modules": 0, "num_foreign_tensors": 0}
    note = "; ".join([*wrong, *unseen][:5])
    return [
        Check("file", "fail" if wrong or unseen else "pass", numbers, limits, note),
        arrivals.check("file_modules"),
        check_shape("file_shape", merged, folder),
    ]


def _stored(folder: Path, scheme: Scheme, malformed: set[str]) -> list[tuple[str, Tensor]]:
    """The files' tensors by their names, codes as the values that they stand for; what is `malformed` stands for
    nothing."""
    found: list[tuple[str, Tensor]] = []
    for path in find_shards(folder):
        with safe_open(path, framework="pt", device="cpu") as file:
            names = set(file.keys())
            for name in sorted(names):
                if name.endswith(SCALE) or malformed & {name, name + SCALE}:
                    continue
                tensor = file.get_tensor(name)
                scale = file.get_tensor(name + SCALE) if name + SCALE in names else None
                found.append((name, tensor.float() if scale is None else scheme.values(tensor, scale)))
    return found


def _check_cost(bench: Bench, scheme: Scheme, layers: set[str], max_new_tokens: int) -> tuple[list[Check], Difference]:
    trained, expected = bench.trained, bench.expected
    weights = [trained.engine.model.get_parameter(f"{name}.weight") for name in sorted(layers)]
    floor = trained.floor
    with rounding_inputs(trained.engine.model, scheme, layers), dithered(weights, scheme.spacing, 0):
        floor = floor.worst(compare(trained.records, trained.engine))
    with rounding_inputs(expected.engine.model, scheme, layers):
        found = compare(trained.records, expected.engine)
        answers = check_answers("rounding_answers", trained.records, expected.engine, margin_of(floor), max_new_tokens)
    return [judge_logits("rounding_logits", found, floor, ROUNDING_FACTOR), answers], floor
