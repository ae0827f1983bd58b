"""The proof of four-bit codes: every weight that they stand for, by our own decoding, beside the merged one; programs
that read them, against our model of just these weights; and that model against what was trained.

Codes were searched for, so no rule says what each should be. A layer's codes are held to its weight as a whole: no
farther from it than rounding to nearest is by much, and of its size. What they cost is judged beside random rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from danlu.engines.native import NativeEngine
from danlu.exports.arrival import Arrivals, check_shape
from danlu.exports.calibrated.schemes import PARTS, Scheme
from danlu.exports.calibrated.write import kept_dtype
from danlu.exports.export import Subject
from danlu.exports.parity import Check, Difference, check_answers, compare, judge_logits, margin_of, measure_floor
from danlu.exports.proof import Promise, prove_reader, set_up
from danlu.exports.readers import READERS
from danlu.exports.reload import Reference, load_base_again, proof_dtype, witnessed
from danlu.exports.rounding import computing_in, rounding_of
from danlu.exports.structure import check_header, check_layout, coded_layers, config_of, layout_of, malformed_in
from danlu.exports.vllm_program import programs
from danlu.model.build import family_of
from danlu.model.model import Model
from danlu.model.shards import find_shards
from danlu.model.weights import split

MAX_ERROR_RATIO = 1.6
"""A layer's distance from its weight, over that of rounding to nearest: a search for the best answers moves single
weights farther, and clips."""
MAX_GROUP_RATIO = 12**0.5
"""The same of one group: as far as if each of its numbers lay a whole step away. A search may take the other neighbour
of a number, not the one after; a foreign scale or zero point goes farther."""
MAX_SIZE_CHANGE = 0.06
"""Codes are a little small for their weight where they clip; a layer at 0.9 is none of that."""

SEARCH_FACTOR = 1.5
"""Codes that were searched for, against random rounding of the same size: they should cost less."""


def prove_calibrated(
    subject: Subject, folder: Path, merged: Model, scheme: Scheme, group: int, *, python: str | None = None
) -> tuple[list[Check], Difference]:
    model = load_base_again(subject, proof_dtype(subject.engine.model), subject.engine.model.device)
    checks = check_codes(model, merged, folder, scheme, group)
    expected = witnessed(NativeEngine(model, subject.engine.encoder, name="expected"), subject)
    bench = set_up(subject, Promise(("autoround", *programs(python)), python=python), expected=expected)
    cost, noise = _check_cost(bench.trained, expected, scheme, group, subject.max_new_tokens)
    with contextlib.redirect_stderr(io.StringIO()):  # auto-round draws and logs there
        checks += prove_reader(READERS.load("autoround")(), subject, folder, bench)
    if programs(python):  # its products with such codes know half precision only
        half = functools.partial(computing_in, kind=rounding_of(kept_dtype(merged)))
        bench = dataclasses.replace(bench, promise=dataclasses.replace(bench.promise, inputs=half))
        checks += prove_reader(READERS.load("vllm")(), subject, folder, bench)
    return checks + cost, noise


def check_codes(model: Model, merged: Model, folder: Path, scheme: Scheme, group: int) -> list[Check]:
    """Each weight that the files hold against the merged one, and each update as a whole; `model` is the base and gets
    what the files hold."""
    arrivals, kept = Arrivals(strays=MAX_ERROR_RATIO), kept_dtype(merged)
    layout = layout_of(merged, kept, functools.partial(scheme.layout, group=group))
    weights, whole = dict(model.named_parameters()), dict(merged.named_parameters())
    coded = {f"{name}.weight" for name in coded_layers(model)}
    unseen, wrong = set(weights), []
    ratios, sizes, worst = [1.0], [1.0], [1.0]
    with torch.no_grad():
        for their_name, values in stored(folder, scheme, malformed_in(folder, layout)):
            for name, part in split(their_name, values, family_of(model.config), model.spec):
                if name not in whole:  # a reader of another make may load what the model never had
                    unseen.add(name)
                    continue
                weight = whole[name].detach().cpu().float()
                unseen.discard(name)
                if name in coded:
                    steps = scheme.spacing(weight, group)
                    arrivals.add(name.removesuffix(".weight"), weights[name].cpu(), weight, part, steps)
                    ratio, in_group, size = _fit(weight, part, steps, group)
                    ratios.append(ratio)
                    worst.append(in_group)
                    sizes.append(size)
                    is_right = (
                        ratio <= MAX_ERROR_RATIO and in_group <= MAX_GROUP_RATIO and abs(1 - size) <= MAX_SIZE_CHANGE
                    )
                else:
                    is_right = bool(((part - weight).abs() <= weight.abs() * 2**-8 + 1e-7).all())
                weights[name].copy_(part)
                if not is_right:
                    wrong.append(name)
    numbers = {
        "num_wrong_modules": len(wrong), "num_foreign_tensors": len(unseen), "group": group,
        "largest_error_ratio": max(ratios), "largest_group_ratio": max(worst),
        "least_size": min(sizes), "most_size": max(sizes),
        "num_modules": len(sizes) - 1, "num_unshown": 0,
    }  # fmt: skip
    limits = {"num_wrong_modules": 0, "num_foreign_tensors": 0, "largest_error_ratio": MAX_ERROR_RATIO,
              "largest_group_ratio": MAX_GROUP_RATIO,
              "largest_size_change": MAX_SIZE_CHANGE}  # fmt: skip
    note = "; ".join([*wrong, *unseen][:5])
    return [
        check_header("file_header", folder, config_of(merged, kept, scheme.header(group))),
        check_layout("file_layout", folder, layout),
        Check("file", "fail" if wrong or unseen else "pass", numbers, limits, note),
        arrivals.check("file_modules"),
        check_shape("file_shape", merged, folder),
    ]


def _fit(weight_ND: Tensor, found_ND: Tensor, steps_ND: Tensor, group: int) -> tuple[float, float, float]:
    """How far the codes' values are from the weight, in distances of rounding to nearest, as a whole and in the worst
    group; and how large they are along it."""
    weight, found = weight_ND.double(), found_ND.double()
    nearest = steps_ND.double().square() / 12  # a weight lies anywhere between two codes
    apart = (found - weight).square()
    groups = [each.reshape(len(weight), -1, group).sum(-1) for each in (apart, nearest)]
    in_group = (groups[0] / groups[1].clamp_min(1e-30)).max().sqrt()
    ratio = (apart.sum() / nearest.sum().clamp_min(1e-30)).sqrt()
    size = (found * weight).sum() / weight.square().sum().clamp_min(1e-30)
    return float(ratio), float(in_group), float(size)


def stored(folder: Path, scheme: Scheme, malformed: set[str]) -> list[tuple[str, Tensor]]:
    """The files' tensors by their names in fp32, codes as the values that they stand for; a layer with a part missing
    or `malformed` stands for nothing."""
    found: list[tuple[str, Tensor]] = []
    parts: dict[str, dict[str, Tensor]] = {}
    for path in find_shards(folder):
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in sorted(set(file.keys()) - malformed):
                stem, _, part = name.rpartition(".")
                if part in PARTS:
                    parts.setdefault(stem, {})[part] = file.get_tensor(name)
                else:
                    found.append((name, file.get_tensor(name).float()))
    whole = {stem: each for stem, each in sorted(parts.items()) if each.keys() >= set(scheme.parts)}
    return found + [(f"{stem}.weight", scheme.values(each)) for stem, each in whole.items()]


def _check_cost(
    trained: Reference, expected: Reference, scheme: Scheme, group: int, max_new_tokens: int
) -> tuple[list[Check], Difference]:
    engine = trained.engine
    weights = [engine.model.get_parameter(f"{name}.weight") for name in sorted(coded_layers(engine.model))]
    steps = functools.partial(scheme.spacing, group=group)
    floor = trained.floor.worst(measure_floor(trained.records, engine, weights, steps))
    found = compare(trained.records, expected.engine)
    answers = check_answers("rounding_answers", trained.records, expected.engine, margin_of(floor), max_new_tokens)
    return [judge_logits("rounding_logits", found, floor, SEARCH_FACTOR), answers], floor
