"""What is broken is told from what is right by the program that reads it alone: a quick part of `bench/sabotage.py`.

Pains: a merged model that is the base, or answers otherwise; GGUF that garbles or never ends; templates and tokenizers
that change on the way. The whole matrix over families and seeds, with its figures, is the bench's.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.exports.parity import Check
from sabotage_harms import HARMS, applies, one_module
from sabotage_kit import KINDS, draft_of, write
from sabotage_trial import Trial

pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
pytest.importorskip("peft", reason="adapters are read by PEFT")

QUICK = {
    "adapter": ("one module at 0.9", "the update is lost", "another base", "the end of turns lost"),
    "merged": ("one module at 0.9", "a square weight transposed", "another template", "the end of turns lost"),
    "gguf f32": ("pairs rounded to bf16", "q and k swapped", "a stale tokenizer: two tokens swapped"),
    "gguf f16": ("one module at 0.9",),
    "gguf bf16": ("one module at 0.9",),
    "gguf q8_0": ("one module at 0.9", "a layer's update lost", "the end of turns lost", "another template"),
    "lora gguf": ("one module at 0.9", "alpha doubled", "another base"),
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return Trial("llama2", tmp_path_factory.mktemp("trial"))


def by_part(checks: list[Check] | None) -> dict[str, Check]:
    assert checks is not None, "there is something to spoil"
    return {check.name.partition("_")[2]: check for check in checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if check.verdict == "fail"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_passes_with_its_noise_measured(kind: str, trial: Trial) -> None:
    checks = by_part(trial.honest(kind))
    assert not failed(checks), [check for check in checks.values() if check.verdict == "fail"]
    asked = {"prompts", "logits", "answers", "stops", "modules", "questions"}
    assert set(checks) == (asked | {"weights"} if trial.bench(kind).promise.is_merged else asked)
    logits, modules = checks["logits"].numbers, checks["modules"].numbers
    assert logits["floor_mean_kl"] < 5e-3, "the noise is bounded"
    assert modules["num_unshown"] == 0 and modules["num_modules"] == 21, "each module at 0.9 would show"
    assert checks["stops"].numbers["num_stops"] > 0 and checks["questions"].numbers["num_right"] == 4


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in QUICK.items() for name in names])
def test_what_is_broken_is_caught_by_its_reader_alone(kind: str, name: str, trial: Trial) -> None:
    assert applies(name, kind)
    checks = by_part(trial.spoilt(kind, HARMS[name]))
    assert failed(checks), f"{name} in {kind} passed: {[check.numbers for check in checks.values()]}"


def test_the_module_at_fault_is_named_with_what_arrived(trial: Trial) -> None:
    module = list(trial.pupil.adapter.layers)[3]
    checks = by_part(trial.spoilt("gguf q8_0", one_module(0.9, 3)))
    assert checks["modules"].verdict == "fail" and checks["answers"].verdict == "pass", "greedy answers do not see it"
    assert checks["modules"].note.startswith(f"{module}: x0.9") or checks["modules"].note.startswith(f"{module}: x0.8")


def test_a_weight_that_is_nearly_normed_away_is_seen_through_eight_bits(tmp_path: Path) -> None:
    """Gemma norms what its feed-forward gives: the gate at 0.9 moves logits less than 8 bits do."""
    checks = by_part(Trial("gemma2", tmp_path).spoilt("gguf q8_0", HARMS["a whole weight at 0.9"]))
    assert failed(checks) == {"weights"} and checks["weights"].note.startswith("model.layers.1.mlp.gate_proj: x0.9")


def test_a_file_that_llamacpp_cannot_bear_is_a_failed_check_and_no_crash(trial: Trial, tmp_path: Path) -> None:
    folder = write(draft_of(trial.pupil), "gguf f32", tmp_path / "torn")
    path = folder / "model.gguf"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    checks = by_part(trial.prove(folder, trial.bench("gguf f32")))
    assert failed(checks) and "llamacpp" in checks["logits"].note
