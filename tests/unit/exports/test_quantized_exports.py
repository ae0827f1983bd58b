"""Exports of what was trained on a quantised base: the check that the merged model is what was trained can fail."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.core.errors import ModelError
from danlu.data.sample import Message
from danlu.engines.native import NativeEngine
from danlu.exports.export import Facts, export
from danlu.exports.hf import MergedExport
from danlu.exports.quantized import check_quantized
from danlu.model.build import load_model
from tiny_chat import QUESTIONS, tuned_engine, write_base

PROBES = [[Message("user", question)] for question in QUESTIONS]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("quantised") / "base")


def on_codes(engine: NativeEngine, folder: Path, adapter: Path, quantize: str = "int8") -> NativeEngine:
    """The same adapter on the same base in few bits: what training had."""
    model = load_model(folder, dtype="fp32", quantize=quantize)  # type: ignore[arg-type]
    return NativeEngine(model, engine.encoder, name="trained", adapter=LoRA.load(adapter, model))


def checked(base: Path, tmp_path: Path, spoil: float) -> dict[str, str]:
    """Verdicts of a merged export whose trained twin's adapter is off by `spoil`."""
    engine, contract = tuned_engine(base)
    engine.adapter.save(tmp_path / "adapter")
    trained = on_codes(engine, base, tmp_path / "adapter")
    for name, weight in trained.adapter.parameters().items():
        if name.endswith("lora_B"):
            weight.data *= 1 + spoil
    manifest = export(
        MergedExport(), engine, tmp_path / "merged", contract=contract,
        facts=Facts("x", {"name": str(base), "digest": engine.model.digest}), probes=PROBES,
        further=lambda subject: check_quantized(subject, trained),
    )  # fmt: skip
    return {check["name"]: check["verdict"] for check in manifest.parity["checks"]}


def test_the_same_adapter_is_recognised_through_the_rounding(base: Path, tmp_path: Path) -> None:
    verdicts = checked(base, tmp_path, 0.0)
    assert set(verdicts.values()) == {"pass"} and "quantized_logits" in verdicts


def test_another_adapter_is_not(base: Path, tmp_path: Path) -> None:
    verdicts = checked(base, tmp_path, 0.5)
    assert verdicts["quantized_logits"] == "fail"
    assert verdicts["danlu_logits"] == "pass", "the merge itself is right"


def test_a_quantised_engine_is_not_what_merging_ships(base: Path, tmp_path: Path) -> None:
    engine, contract = tuned_engine(base)
    engine.adapter.save(tmp_path / "adapter")
    trained = on_codes(engine, base, tmp_path / "adapter", "nf4")
    facts = Facts("x", {"name": str(base), "digest": engine.model.digest})
    with pytest.raises(ModelError, match="nf4"):
        export(MergedExport(), trained, tmp_path / "merged", contract=contract, facts=facts, probes=PROBES)
    assert not (tmp_path / "merged").exists()


def test_a_prequantised_base_merges_into_an_ordinary_one(base: Path, tmp_path: Path) -> None:
    """Nobody has its unquantised weights: what its codes stand for takes the update."""
    from torch import nn

    from danlu.adapters.peft_format import read_pairs
    from danlu.exports.deltas import check_deltas
    from danlu.model.build import save_model

    folder = Path(__file__).parents[2] / "numerics" / "fixtures" / "bnb_tiny"
    model = load_model(folder, dtype="fp32")
    attached = LoRA(rank=2).attach(model)
    for layer in attached.layers.values():
        nn.init.normal_(layer.lora_B, std=0.05)
    attached.save(tmp_path / "adapter")
    attached.merge()
    save_model(model, tmp_path / "merged", torch.bfloat16)
    check = check_deltas(model, folder, tmp_path / "merged", read_pairs(tmp_path / "adapter", model))
    assert check.verdict == "pass" and check.numbers["num_modules"] == 7, check
