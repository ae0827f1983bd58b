"""Every kind on the shelf, written from a tiny tuned model and proven by the programs it is for; and spoilt ones caught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from danlu.adapters.peft_format import Pair
from danlu.core.errors import ExportError
from danlu.core.files import read_json
from danlu.core.progress import Silent
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.exports import EXPORTS
from danlu.exports.compressed.prove import prove_compressed
from danlu.exports.compressed.schemes import SCHEMES
from danlu.exports.export import Facts, Subject, export
from danlu.exports.merging import merged_model
from danlu.exports.parity import record
from danlu.exports.serving import allowed_rank, uniform
from danlu.exports.usage import NATURES
from danlu.model.build import family_of
from tiny_chat import QUESTIONS, tuned_engine, write_base, write_fused

pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
pytest.importorskip("compressed_tensors", reason="eight bits are read by compressed-tensors")
KINDS: dict[str, dict[str, Any]] = {
    "gguf": {"quantize": "f16"}, "gguf-lora": {}, "ollama": {"quantize": "bf16"}, "lmstudio": {"quantize": "f32"},
    "vllm": {"quantize": "int8"}, "vllm-lora": {}, "merged": {"dtype": "fp16"},
}  # fmt: skip


def facts(engine: Any) -> Facts:
    return Facts("tiny 专家", base={"name": "org/tiny", "revision": None, "digest": engine.model.digest})


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory):
    return tuned_engine(write_base(tmp_path_factory.mktemp("base")), system="Answer briefly. 简短回答。")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in ("lmstudio", "merged") else ()) for kind in KINDS]
)
def test_each_kind_passes_its_proof_and_carries_its_speech(kind: str, tuned, tmp_path: Path) -> None:
    engine, contract = tuned
    writer = EXPORTS.load(kind)(**KINDS[kind])  # type: ignore[call-arg]
    manifest = export(
        writer, engine, tmp_path / "out", contract=contract, facts=facts(engine),
        probes=[[Message("user", text)] for text in QUESTIONS[:2]], max_new_tokens=8,
    )  # fmt: skip
    assert manifest.parity["verdict"] == "pass", [c for c in manifest.parity["checks"] if c["verdict"] != "pass"]
    settings = read_json(tmp_path / "out" / "generation_config.json")
    assert set(settings["eos_token_id"]) == {0, 2} and settings["temperature"] == 0.7
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "简短回答" in card and NATURES[kind].relation in card
    assert set(manifest.files) >= {"README.md", "tokenizer.json", "generation_config.json"}


def test_layers_that_a_checkpoint_fuses(tmp_path: Path) -> None:
    """Phi-3: q, k and v are one weight of the file, and their pairs one wider pair; vLLM knows no patterns."""
    engine, contract = tuned_engine(write_fused(tmp_path / "base"))
    manifest = export(
        EXPORTS.load("vllm-lora")(), engine, tmp_path / "out", contract=contract, facts=facts(engine), max_new_tokens=8,
    )  # fmt: skip
    assert manifest.parity["verdict"] == "pass"
    config = read_json(tmp_path / "out" / "adapter_config.json")
    assert config["r"] == 12 and not config["rank_pattern"] and not config["alpha_pattern"]
    started = yaml.safe_load((tmp_path / "out" / "vllm.yaml").read_text())
    assert started["max-lora-rank"] == 16 and started["enable-lora"]
    pairs = {name: Pair(layer.lora_A, layer.lora_B, layer.scaling) for name, layer in engine.adapter.layers.items()}
    for name, pair in uniform(pairs, family_of(engine.model.config).fused).items():
        torch.testing.assert_close(pair.scaling * pair.B @ pair.A, pairs[name].scaling * pairs[name].B @ pairs[name].A)


def test_an_export_tells_what_its_proof_is_at(tuned, tmp_path: Path) -> None:
    """Of an export of minutes, all but seconds passed in silence behind `3/4`."""
    engine, contract = tuned

    seen: list[str] = []

    class Told(Silent):
        def advance(self, steps: int = 1, **facts: object) -> None:
            seen.extend(str(value) for name, value in facts.items() if name == "now")

    export(EXPORTS.load("adapter")(), engine, tmp_path / "out", contract=contract, facts=facts(engine),
           max_new_tokens=4, progress=Told())  # fmt: skip
    assert seen[0].startswith("computing") and "asking peft" in seen


def test_ranks_are_those_that_vllm_takes() -> None:
    assert [allowed_rank(rank) for rank in (1, 2, 8, 9, 200, 257, 512)] == [1, 8, 8, 16, 256, 320, 512]
    with pytest.raises(ExportError, match="512"):
        allowed_rank(513)


def subject_of(tuned) -> Subject:
    engine, contract = tuned
    question = Question((Message("user", QUESTIONS[0]),))
    records = tuple(record(engine, [engine.prompt_ids(question)], max_new_tokens=6))
    return Subject(engine, contract, facts(engine), (question,), records, 6)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scale_of_eight_bits_that_was_changed_is_caught(name: str, tuned, tmp_path: Path) -> None:
    """One row's scale x0.9: nine tenths of one output, which logits may hide and the tensors do not."""
    subject = subject_of(tuned)
    EXPORTS.load("vllm")(quantize=name).write(subject, tmp_path)  # type: ignore[call-arg]
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_scale"][3] *= 0.9
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checks, _ = prove_compressed(subject, tmp_path, merged_model(subject, where="test"), SCHEMES[name])
    failed = {check.name: check.note for check in checks if check.verdict == "fail"}
    assert "up_proj" in failed["file"]


@pytest.mark.parametrize("name", SCHEMES)
def test_a_last_place_that_flips_a_code_is_noise_and_other_angles_are_not(name: str, tuned, tmp_path: Path) -> None:
    """Pain: right files of a real model were refused, for two right programs round other inputs to other codes."""
    subject = subject_of(tuned)
    EXPORTS.load("vllm")(quantize=name).write(subject, tmp_path)  # type: ignore[call-arg]
    merged = merged_model(subject, where="test")

    def asked() -> dict[str, Any]:
        return {check.name: check for check in prove_compressed(subject, tmp_path, merged, SCHEMES[name])[0]}

    right = asked()
    numbers = right["transformers_logits"].numbers
    assert right["transformers_logits"].verdict == "pass"
    assert numbers["floor_mean_kl"] > 0.05 * right["rounding_logits"].numbers["mean_kl"], "what rounding inputs does"
    config = json.loads((tmp_path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 100.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert asked()["transformers_logits"].verdict == "fail"


@pytest.mark.parametrize("name", SCHEMES)
def test_codes_are_the_nearest_that_a_row_can_hold(name: str) -> None:
    scheme, weight = SCHEMES[name], torch.randn(16, 64, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    codes, scale = scheme.codes(weight, torch.float32)
    values = scheme.values(codes, scale)
    assert bool(((values - weight).abs() <= 0.5001 * scheme.spacing(weight)).all()) and not bool(values[3].any())


def test_the_configuration_is_what_readers_of_the_format_expect(tuned, tmp_path: Path) -> None:
    EXPORTS.load("vllm")(quantize="fp8").write(subject_of(tuned), tmp_path)  # type: ignore[call-arg]
    config = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors" and config["format"] == "float-quantized"
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == torch.float8_e4m3fn
    assert tensors["model.embed_tokens.weight"].dtype == torch.bfloat16
