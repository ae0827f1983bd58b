"""Parity must pass what is right and catch what is broken, the subtle as well as the gross.

Pain 1: merged models that answer otherwise than the adapter, or that are the base without anyone noticing.
Pains 3, 5, 9: templates, tokenizers and stop tokens that change on the way out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.adapters.peft_format import CONFIG, WEIGHTS
from danlu.core.files import dump_json
from danlu.data.contract import Contract
from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports import oracle
from danlu.exports.adapter import AdapterExport
from danlu.exports.export import Export, Facts, Proof, Subject
from danlu.exports.hf import MergedExport
from danlu.exports.parity import Check, record, sum_up
from danlu.exports.speech import golden_prompts
from tiny_chat import QUESTIONS, tuned_engine, write_base, write_fused

MODULE = "model.layers.1.self_attn.o_proj.weight"  # square, [64, 64]


def subject_of(engine: NativeEngine, contract: Contract) -> Subject:
    facts = Facts("tiny", {"name": "tiny", "revision": None, "digest": engine.model.digest})
    probes = (*golden_prompts(contract, engine), *(Question((Message("user", text),)) for text in QUESTIONS))
    records = tuple(record(engine, [engine.prompt_ids(probe) for probe in probes], max_new_tokens=8))
    return Subject(engine, contract, facts, probes, records, 8)


def prove(kind: Export, subject: Subject, folder: Path) -> dict[str, Check]:
    proof: Proof = kind.prove(subject, folder)
    return {check.name: check for check in proof.checks}


def verdict(checks: dict[str, Check]) -> str:
    return str(sum_up(list(checks.values()))["verdict"])


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == "fail"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def subject(base: Path) -> Subject:
    return subject_of(*tuned_engine(base))


@pytest.fixture(scope="module")
def merged(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged")
    MergedExport().write(subject, folder)
    return folder


@pytest.fixture(scope="module")
def adapter(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    AdapterExport().write(subject, folder)
    return folder


# ---- what is right passes


@pytest.mark.parametrize(("dtype", "size"), [("fp32", 0.002), ("bf16", 0.02), ("fp32", 0.2)])
def test_a_right_merge_passes_whatever_the_adapter_s_size(base: Path, tmp_path: Path, dtype: str, size: float) -> None:
    subject = subject_of(*tuned_engine(base, dtype=dtype, size=size, seed=int(size * 1000)))
    for kind in (AdapterExport(), MergedExport()):
        kind.write(subject, tmp_path / kind.kind)
        checks = prove(kind, subject, tmp_path / kind.kind)
        assert verdict(checks) == "pass", [check for check in checks.values() if check.verdict != "pass"]


def test_fp32_files_are_held_to_fp32_noise(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", seed=3)
    tensors = {name: tensor.float() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    subject = subject_of(*tuned_engine(base))
    MergedExport().write(subject, tmp_path / "merged")
    checks = prove(MergedExport(), subject, tmp_path / "merged")
    assert verdict(checks) == "pass" and checks["danlu_logits"].limits["max_abs"] < 1e-3


def test_full_fine_tuning_is_proven_too(base: Path, tmp_path: Path) -> None:
    subject = subject_of(*tuned_engine(base, kind="full"))
    MergedExport().write(subject, tmp_path / "merged")
    assert verdict(prove(MergedExport(), subject, tmp_path / "merged")) == "pass"
    scale_module(tmp_path / "merged", tmp_path / "merged", 1.01)
    assert "weights" in failed(prove(MergedExport(), subject, tmp_path / "merged"))


def test_fused_weights_and_an_untied_head_are_proven_part_by_part(tmp_path: Path) -> None:
    base = write_fused(tmp_path / "base")
    subject = subject_of(*tuned_engine(base))
    for kind in (AdapterExport(), MergedExport()):
        kind.write(subject, tmp_path / kind.kind)
        checks = prove(kind, subject, tmp_path / kind.kind)
        assert verdict(checks) == "pass", [check for check in checks.values() if check.verdict != "pass"]
    name = "model.layers.0.self_attn.qkv_proj.weight"
    old = load_file(base / "model.safetensors")[name][64:96]  # the rows of k_proj

    def weaken(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][64:96] = (old.float() + 0.9 * (tensors[name][64:96].float() - old.float())).bfloat16()

    edit(tmp_path / "merged", weaken)
    check = prove(MergedExport(), subject, tmp_path / "merged")["weights"]
    assert (
        check.verdict == "fail"
        and "layers.0.self_attn.k_proj" in check.note
        and check.numbers["num_wrong_modules"] == 1
    )


def test_exporting_leaves_the_living_model_as_it_was(subject: Subject, merged: Path) -> None:
    before = {name: weight.detach().clone() for name, weight in subject.engine.model.named_parameters()}
    prove(MergedExport(), subject, merged)
    after = dict(subject.engine.model.named_parameters())
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())


# ---- what is broken is caught


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip


def rebuilt(folder: Path, base: Path, update: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Each merged weight made anew as base + update(name, merged - base), rounded to the files' bf16."""
    old = load_file(base / "model.safetensors")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            delta = tensor.float() - old[name].float()
            if bool(delta.any()):
                tensors[name] = (old[name].float() + update(name, delta)).to(tensor.dtype)

    edit(folder, change)


def scale_module(folder: Path, base: Path, factor: float) -> None:
    if folder == base:
        return edit(folder, lambda tensors: tensors.update({MODULE: tensors[MODULE] * factor}))
    rebuilt(folder, base, lambda name, delta: delta * (factor if name == MODULE else 1.0))


def turned(name: str, delta: torch.Tensor) -> torch.Tensor:
    return delta.T if name == MODULE else delta


def reordered_tokenizer(folder: Path) -> None:
    tree = json.loads((folder / "tokenizer.json").read_text())
    vocab = tree["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.__getitem__)[100:102]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (folder / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False))


def other_template(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = config["chat_template"].replace("assistant\n' }}{% endif", "assistant' }}{% endif")
    assert "assistant' }}" in config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def other_eos(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 5}))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers: our own checks have to find it."""
    monkeypatch.setattr("danlu.exports.proof.has", lambda package: False)


BROKEN: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "one module at 0.9": (lambda folder, base: scale_module(folder, base, 0.9), "weights"),
    "one layer missing": (
        lambda folder, base: rebuilt(folder, base, lambda name, delta: delta * ("layers.1." not in name)), "weights",
    ),
    "merged is the base": (lambda folder, base: shutil.copyfile(base / "model.safetensors", folder / "model.safetensors") and None, "danlu_logits"),
    "wrong alpha": (lambda folder, base: rebuilt(folder, base, lambda name, delta: delta * 0.5), "danlu_logits"),
    "turned update": (lambda folder, base: rebuilt(folder, base, turned), "weights"),
    "another weight touched": (
        lambda folder, base: edit(folder, lambda t: t.update({"model.norm.weight": t["model.norm.weight"] * 1.02})), "weights",
    ),
    "a lost number": (lambda folder, base: edit(folder, lambda t: t[MODULE].view(-1)[:1].fill_(float("nan"))), "danlu_logits"),
    "template": (lambda folder, base: other_template(folder), "contract"),
    "tokenizer": (lambda folder, base: reordered_tokenizer(folder), "contract"),
    "stop token": (lambda folder, base: other_eos(folder), "contract"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_merges_are_caught(
    name: str, subject: Subject, base: Path, merged: Path, tmp_path: Path, alone: None
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(merged, folder)
    harm, finder = BROKEN[name]
    harm(folder, base)
    checks = prove(MergedExport(), subject, folder)
    assert verdict(checks) == "fail" and finder in failed(checks), failed(checks)
    assert json.loads(dump_json(sum_up(list(checks.values()))))["verdict"] == "fail"


def test_a_module_at_nine_tenths_fails_although_every_greedy_answer_agrees(base: Path, tmp_path: Path) -> None:
    subject = subject_of(*tuned_engine(base, size=0.004, seed=5))
    MergedExport().write(subject, tmp_path)
    scale_module(tmp_path, base, 0.9)
    checks = prove(MergedExport(), subject, tmp_path)
    assert checks["danlu_answers"].verdict == "pass" and checks["transformers_answers"].verdict == "pass"
    assert failed(checks) >= {"weights"} and "o_proj" in checks["weights"].note


def test_an_adapter_with_half_its_alpha_is_caught(subject: Subject, adapter: Path, tmp_path: Path, alone: None) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] / 2}))
    assert {"adapter_tensors", "adapter_logits"} <= failed(prove(AdapterExport(), subject, folder))


def test_an_adapter_with_one_pair_scaled_is_caught(
    subject: Subject, adapter: Path, tmp_path: Path, alone: None
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    tensors = load_file(folder / WEIGHTS)
    tensors[f"base_model.model.{MODULE.removesuffix('.weight')}.lora_B.weight"] *= 0.9
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    assert {"adapter_tensors", "adapter_logits"} <= failed(prove(AdapterExport(), subject, folder))


def test_without_transformers_the_verdict_is_not_pass(subject: Subject, merged: Path, alone: None) -> None:
    checks = prove(MergedExport(), subject, merged)
    assert verdict(checks) == "incomplete" and checks["transformers_logits"].verdict == "not run"
    assert oracle.has("torch") and not oracle.has("no_such_package_here")
