"""Exports of what was trained on a quantised base: the check that the merged model is what was trained can fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from danlu.adapters.lora import LoRA
from danlu.core.errors import ModelError
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.export import Facts, Quiz, export
from danlu.exports.hf import MergedExport
from danlu.exports.quantized import Merging, check_quantized, choose_merging, mcnemar
from danlu.exports.reload import dequantize
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


# ---- which base a merge goes into


def asked(trained: NativeEngine, answers: dict[str, str]) -> tuple[Quiz, ...]:
    """Questions whose right answer is what `answers` says."""
    return tuple(
        Quiz(Question((Message("user", question),)), lambda text, right=right: text == right)
        for question, right in answers.items()
    )


def said(engine: NativeEngine, question: str) -> str:
    prompt = engine.prompt_ids(Question((Message("user", question),)))
    return engine.encoder.answer_text(engine.continue_ids([prompt], 64)[0])


@pytest.mark.parametrize("prefers_original", [False, True])
def test_the_nearer_base_is_merged_into_unless_the_other_answers_better(
    base: Path, tmp_path: Path, prefers_original: bool
) -> None:
    original, _ = tuned_engine(base)
    original.adapter.save(tmp_path / "adapter")
    trained = on_codes(original, base, tmp_path / "adapter", "nf4")
    model = load_model(base, dtype="fp32", quantize="nf4")
    dequantize(model)
    codes = NativeEngine(model, original.encoder, name="codes", adapter=LoRA.load(tmp_path / "adapter", model))
    questions = [f"{text} {number}" for number in range(3) for text in QUESTIONS]
    apart = [text for text in questions if said(codes, text) != said(original, text)]
    assert len(apart) >= 8, "four bits change a random model's answers"
    quiz = asked(trained, {text: said(original if prefers_original else codes, text) for text in apart})
    prompts = [original.prompt_ids(Question((Message("user", text),))) for text in QUESTIONS]
    found = choose_merging(trained, {"codes": lambda: codes, "original": lambda: original}, prompts, quiz, 8)
    assert found.kl["codes"] < 1e-9 < found.kl["original"], "what the codes stand for is what was trained"
    assert found.taken == ("original" if prefers_original else "codes") and found.is_by_questions is prefers_original
    assert found.num_right[found.taken] == len(apart) and found.p < 0.05
    assert Merging(**json.loads(json.dumps(found.to_json()))) == found, "kept in the run as JSON"


def test_merging_into_the_codes_values_is_proven_like_any_other(base: Path, tmp_path: Path) -> None:
    engine, contract = tuned_engine(base)
    engine.adapter.save(tmp_path / "adapter")
    trained = on_codes(engine, base, tmp_path / "adapter", "nf4")
    model = load_model(base, dtype="fp32", quantize="nf4")
    dequantize(model)
    codes = NativeEngine(model, engine.encoder, name="codes", adapter=LoRA.load(tmp_path / "adapter", model))
    facts = Facts("x", {"name": str(base), "digest": engine.model.digest, "quantize": "nf4"})
    merging = Merging("codes", False, {"codes": 0.0, "original": 0.2}, {"codes": 3, "original": 2}, 3, 4, 1.0)

    def export_it(folder: Path, through: str) -> dict[str, str]:
        manifest = export(
            MergedExport(), codes, folder, contract=contract, facts=facts, probes=PROBES, through=through,
            merging=merging.to_json(), further=lambda subject: check_quantized(subject, trained),
        )  # type: ignore[arg-type] # fmt: skip
        return {check["name"]: check["verdict"] for check in manifest.parity["checks"]}

    verdicts = export_it(tmp_path / "right", "nf4")
    assert set(verdicts.values()) == {"pass"}, verdicts
    card = (tmp_path / "right" / "README.md").read_text(encoding="utf-8")
    assert "(`codes`)" in card and "| the original weights | 0.2 | 2 |" in card and "| 原始权重 | 0.2 | 2 |" in card
    wrong = export_it(tmp_path / "wrong", "none")  # the update went into other weights than were proven
    assert wrong["adapter_logits"] == "fail", wrong


def test_mcnemar_is_the_binomial_s_two_tails() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)
