"""The living model against its adapter read back from disk, in the dtype it lives in: numbers, logits, answers.

What other programs make of the files, and in fp32, stands in `proof.py`.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from danlu.adapters.adapter import Attached
from danlu.adapters.load import load_beside
from danlu.adapters.lora import AttachedLoRA, DoRALinear
from danlu.adapters.peft_format import Pair, read_pairs
from danlu.core.errors import ExportError
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.export import Subject
from danlu.exports.parity import (
    Check,
    Difference,
    Record,
    check_answers,
    check_logits,
    margin_of,
    measure_floor,
    record,
)  # fmt: skip
from danlu.model.build import DTYPES, load_model
from danlu.model.model import Model
from danlu.model.quantized import num_params, put, quantization_of
from danlu.model.quantizers.quantizer import Quantize, QuantizedLinear

COMPUTE_FACTOR = 8.0
"""Two programs, or two orders of the same sums, against a floor of last-place noise on every weight."""
MAX_WIDE_PARAMS = 2_000_000_000
"""Larger models are proven in their own dtype: two fp32 copies of them fit few machines."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A witness whose word counts, what it said, and the noise of its own arithmetic."""

    engine: NativeEngine
    records: list[Record]
    floor: Difference
    honest: dict[tuple[str, bool, bool], list[list[Tensor]]] = field(default_factory=dict)
    """What it says by other ways that are right too, by the arithmetic in them (see `proof.honest_paths`)."""

    @property
    def margin(self) -> float:
        """How undecided it must have been for noise to change its choice: noise on two logits."""
        return margin_of(self.floor)


def stored_dtype(model: Model) -> torch.dtype:
    """What the base's files are in; merged files are in the same."""
    name = model.config.get("dtype") or model.config.get("torch_dtype")
    return DTYPES.get(str(name), model.dtype)


def proof_dtype(model: Model) -> torch.dtype:
    return torch.float32 if num_params(model) <= MAX_WIDE_PARAMS else model.dtype


def load_base_again(
    subject: Subject, dtype: torch.dtype, device: torch.device | str, quantize: Quantize = "none"
) -> Model:
    """The base as its files are now; ExportError when they are not those the adapter was trained on. Where the update
    is merged into what codes stand for (`subject.through`), that is what is loaded."""
    through = subject.through if quantize == "none" else "none"
    model = load_model(
        subject.engine.model.folder, dtype=dtype, device=device, quantize=quantize if through == "none" else through
    )
    expected = subject.facts.base["digest"]
    if model.digest != expected:
        raise ExportError(
            "export.other_base", where=str(model.folder), given=model.digest[:16], expected=str(expected)[:16]
        )
    if through != "none":
        dequantize(model)
    return model


def dequantize(model: Model) -> None:
    """Every quantised layer becomes the plain one that its codes stand for, in the model's dtype."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, QuantizedLinear):
            plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
            plain.weight = nn.Parameter(layer.dequantized(dtype=model.dtype), requires_grad=False)
            plain.register_parameter("bias", layer.bias)
            put(model, name, plain.train(model.training))


def reload_adapter(subject: Subject, folder: Path, dtype: torch.dtype, quantize: Quantize = "none") -> NativeEngine:
    """Base and adapter from disk, not merged."""
    model = load_base_again(subject, dtype, subject.engine.model.device, quantize)
    adapter = load_beside(folder, model)
    return NativeEngine(model, subject.engine.encoder, name="adapter", adapter=adapter)


def living(subject: Subject) -> Reference:
    """The trained model itself."""
    engine, records = subject.engine, list(subject.records)
    weights = list(engine.model.parameters())
    floor = subject.once("living", lambda: measure_floor(records, engine, weights, engine.model.dtype))
    return Reference(engine, records, floor)


@contextlib.contextmanager
def living_pairs(subject: Subject) -> Iterator[Path | None]:
    """The living adapter as a PEFT folder for as long as the block lasts; None without one."""
    adapter = subject.engine.adapter
    if adapter is None or not adapter.can_disable:
        yield None
        return
    adapter.check()
    with tempfile.TemporaryDirectory(prefix="danlu-adapter-") as name:
        folder = Path(name) / "adapter"
        adapter.save(folder)
        yield folder


def lora_of(subject: Subject) -> AttachedLoRA:
    """Its plain low-rank adapter; ExportError where it has none, or one with magnitudes, which no serving engine
    puts beside a base."""
    adapter = subject.engine.adapter
    if not isinstance(adapter, AttachedLoRA):
        raise ExportError("export.no_adapter", where="exports", given=adapter.kind if adapter else "-")
    if any(isinstance(layer, DoRALinear) for layer in adapter.layers.values()):
        raise ExportError("export.dora", where="exports")
    return adapter


def witnessed(engine: NativeEngine, subject: Subject) -> Reference:
    """An engine with its own answers to the probes and its own noise."""
    prompts = [found.prompt_ids for found in subject.records]
    records = record(engine, prompts, max_new_tokens=subject.max_new_tokens)
    floor = measure_floor(records, engine, list(engine.model.parameters()), engine.model.dtype)
    return Reference(engine, records, floor)


def check_adapter(subject: Subject, folder: Path, trained: Reference) -> list[Check]:
    """The adapter on disk is the trained one: same numbers in the file, same answers when read back."""
    living_model, adapter = subject.engine.model, subject.engine.adapter
    assert adapter is not None and adapter.can_disable, "only what stands beside the base has a folder of its own"
    again = reload_adapter(subject, folder, living_model.dtype, quantization_of(living_model))
    factor, margin = COMPUTE_FACTOR, trained.margin
    return [
        check_pairs(adapter, folder, again.model)
        if isinstance(adapter, AttachedLoRA)
        else check_numbers(adapter, again),
        check_logits("adapter_logits", trained.records, again, trained.floor, factor),
        check_answers("adapter_answers", trained.records, again, margin, subject.max_new_tokens),
    ]


def check_pairs(adapter: AttachedLoRA, folder: Path, model: Model) -> Check:
    """Each module's update in the file is the living one: A, B and scale to the bit, or, where the file's modules are
    fused and A and B had to be arranged otherwise, their product to fp32's last places."""
    pairs = read_pairs(folder, model)
    wrong = set(pairs) ^ set(adapter.layers)
    for name in set(pairs) & set(adapter.layers):
        if not is_same_update(adapter.layers[name].pair(), pairs[name]):
            wrong.add(name)
    numbers = {"num_modules": len(adapter.layers), "num_wrong_modules": len(wrong)}
    note = "; ".join(sorted(wrong)[:5])
    return Check("adapter_tensors", "fail" if wrong else "pass", numbers, {"num_wrong_modules": 0}, note)


def check_numbers(adapter: Attached, again: NativeEngine) -> Check:
    """Every number that trained, read back, is the living one to the bit."""
    assert again.adapter is not None, "read back from a folder"
    read, living_ones = again.adapter.parameters(), adapter.parameters()
    wrong = set(read) ^ set(living_ones)
    wrong |= {name for name in set(read) & set(living_ones) if not torch.equal(read[name], living_ones[name])}
    numbers = {"num_modules": len(living_ones), "num_wrong_modules": len(wrong)}
    return Check("adapter_tensors", "fail" if wrong else "pass", numbers, {"num_wrong_modules": 0}, "; ".join(wrong))


def is_same_update(ours: Pair, theirs: Pair) -> bool:
    lengths = [pair.magnitude for pair in (ours, theirs) if pair.magnitude is not None]
    if len(lengths) == 1 or (lengths and not torch.equal(*lengths)):
        return False
    if ours.A.shape == theirs.A.shape:
        is_scale = abs(ours.scaling - theirs.scaling) <= 1e-9 * abs(ours.scaling)
        return is_scale and torch.equal(ours.A, theirs.A) and torch.equal(ours.B, theirs.B)
    apart = (ours.scaling * (ours.B @ ours.A) - theirs.scaling * (theirs.B @ theirs.A)).abs()
    size = abs(ours.scaling) * (ours.B.abs() @ ours.A.abs())
    return bool((apart <= 8 * torch.finfo(torch.float32).eps * size).all())


def is_said_alike(question: Question, subject: Subject) -> bool:
    """Whether other programs are meant to render this question as we do: they put no system prompt of the run first,
    know no reasoning apart from content, and take control tokens in a person's words for real ones."""
    system = subject.contract.value["system"]
    has_system = not system or question.messages[0].role == "system"
    has_reasoning = any(message.reasoning is not None for message in question.messages)
    marks = subject.engine.encoder.tokenizer.marks
    has_marks = any(mark in message.content for message in question.messages for mark in marks)
    return has_system and not has_reasoning and not has_marks
