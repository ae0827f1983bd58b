"""The proof of k-quants: llama.cpp against the weights that the file decodes to, and those against what was trained.

For types whose codes are searched for there is no rule for what each weight becomes, so the expected model is made of
what the package's own decoder reads in the file; llama.cpp must say what that says. What the codes cost is measured
beside random noise of the same number of steps in each block.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danlu.engines.native import NativeEngine
from danlu.exports.export import Subject
from danlu.exports.gguf.architecture import architecture_of
from danlu.exports.gguf.kquants import package
from danlu.exports.gguf.tensors import Quantize, file_name, restored, type_of
from danlu.exports.parity import Check, Difference, check_answers, compare, judge_logits, margin_of, measure_floor
from danlu.exports.proof import ROUNDING_FACTOR, Promise, prove_reader, set_up
from danlu.exports.readers import READERS
from danlu.exports.reload import Reference, load_base_again, proof_dtype, witnessed
from danlu.model.build import family_of

STEPS = {"Q4_K": 15, "Q5_K": 31, "Q5_0": 31, "Q5_1": 31, "Q6_K": 63, "Q8_0": 254}
"""Of a block of 32."""
_BLOCK = 32


def prove_coarse(subject: Subject, target: Path, quantize: Quantize) -> tuple[list[Check], Difference]:
    promise = Promise(("llamacpp",), matrices="q8_0")  # what enters llama.cpp's products has eight bits
    expected = witnessed(_as_decoded(subject, target), subject)
    bench = set_up(subject, promise, expected=expected)
    checks, noise = _check_cost(bench.trained, expected, quantize, subject.max_new_tokens)
    return checks + prove_reader(READERS.load("llamacpp")(), subject, target.parent, bench), noise


def decoded(target: Path) -> dict[str, Tensor]:
    """The file's tensors in fp32, [N, D] or [N], by the package `gguf`."""
    gguf = package()
    found: dict[str, Tensor] = {}
    for tensor in gguf.GGUFReader(target).tensors:
        values: Any = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(size) for size in tensor.shape)[::-1]
        found[str(tensor.name)] = torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))
    return found


def _as_decoded(subject: Subject, target: Path) -> NativeEngine:
    model = load_base_again(subject, proof_dtype(subject.engine.model), subject.engine.model.device)
    weights = dict(model.named_parameters())
    fused, architecture = family_of(model.config).fused, architecture_of(model.spec)
    with torch.no_grad():
        for name, values in restored(decoded(target), weights, model.spec, fused, architecture):
            weights[name].copy_(values)
    return NativeEngine(model, subject.engine.encoder, name="expected")


def _check_cost(
    trained: Reference, expected: Reference, quantize: Quantize, max_new_tokens: int
) -> tuple[list[Check], Difference]:
    """Answers are told and not judged: k-quants are chosen knowing that some change."""
    floor = trained.floor
    spec = trained.engine.model.spec
    by_type: dict[str, list[Tensor]] = {}
    for name, weight in trained.engine.model.named_parameters():
        if weight.dim() > 1 and not name.endswith(("lora_A", "lora_B")):
            by_type.setdefault(type_of(file_name(name, spec), tuple(weight.shape), spec, quantize), []).append(weight)
    for kind, weights in by_type.items():
        if kind in STEPS:
            steps = functools.partial(block_spacing, num_steps=STEPS[kind])
            floor = floor.worst(measure_floor(trained.records, trained.engine, weights, steps))
    found = compare(trained.records, expected.engine)
    answers = check_answers("rounding_answers", trained.records, expected.engine, margin_of(floor), max_new_tokens)
    return [judge_logits("rounding_logits", found, floor, ROUNDING_FACTOR), answers], floor


def block_spacing(values: Tensor, num_steps: int) -> Tensor:
    """How far apart the numbers lie that a block of 32 can hold."""
    if values.shape[-1] % _BLOCK:
        return torch.zeros_like(values)
    blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
    span = blocks.amax(-1, keepdim=True) - blocks.amin(-1, keepdim=True)
    return (span / num_steps).expand(blocks.shape).reshape(values.shape)
