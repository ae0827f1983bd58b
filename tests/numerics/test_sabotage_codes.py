"""Exports in codes: what is broken is told from what is right, a quick part of `bench/sabotage_quantised.py`.

Pains: a four-bit file whose readers take other zero points than its writer meant; scales of one layer on another;
an update that eight or four bits hide from logits. Four bits are read by auto-round where it is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from danlu.exports.calibrated.needs import PACKAGES
from danlu.exports.calibrated.prove import check_codes
from danlu.exports.calibrated.schemes import SCHEMES
from danlu.exports.merging import merged_model
from danlu.exports.parity import Check
from danlu.exports.reload import load_base_again
from nearest_codes import coded, write_nearest
from sabotage_coded_trial import EIGHT, FOUR, CodedTrial
from sabotage_codes import harms_of
from sabotage_harms import one_module
from sabotage_kit import Harm, draft_of
from sabotage_kit import merged_model as merged_draft

pytest.importorskip("compressed_tensors", reason="eight bits are read by transformers with compressed-tensors")
needs_auto_round = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in PACKAGES),
    reason='rounding on texts needs the extra: pip install "danlu[quantize]"',
)
EIGHT_QUICK = (
    "one module at 0.9", "another base", "a layer's update lost", "the end of turns lost", "another template",
    "scales of two layers swapped", "one row's scale at 0.9", "another epsilon", "groups of 32 in the header",
    "a bias that the model never had", "inputs scaled all together", "inputs as they are in the header",
)  # fmt: skip
FOUR_QUICK = (
    "scales of two groups swapped", "zero points of two layers swapped", "groups twice as large in the header",
    "the other format in the header", "the end of turns lost", "a field that the format has not",
)  # fmt: skip


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> CodedTrial:
    return CodedTrial("llama2", tmp_path_factory.mktemp("trial"))


def failed(checks: list[Check] | None) -> set[str]:
    assert checks is not None, "there is something to spoil"
    return {check.name for check in checks if check.verdict == "fail"}


@pytest.mark.parametrize("kind", EIGHT)
def test_eight_bits_that_are_right_pass(kind: str, trial: CodedTrial) -> None:
    checks = {check.name: check for check in trial.honest(kind)}
    assert not failed(list(checks.values()))
    numbers = checks["file_modules"].numbers
    assert numbers["num_modules"] == 21 and numbers["num_unshown"] == 0, "each module at 0.9 would show"
    assert 0.99 < numbers["least_arrived"] <= numbers["most_arrived"] < 1.01


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in EIGHT for name in EIGHT_QUICK])
def test_broken_eight_bits_are_caught(kind: str, name: str, trial: CodedTrial) -> None:
    assert failed(trial.spoilt(kind, harms_of(kind)[name])), f"{name} in {kind} passed"


def test_a_program_that_cannot_multiply_with_what_it_loaded_is_a_failed_check(trial: CodedTrial) -> None:
    """transformers loads int8 codes of a layer that the header leaves out, and dies at the first text."""
    checks = trial.spoilt("int8", harms_of("int8")["a layer left out of the header"])
    assert checks is not None
    assert "same dtype" in next(check.note for check in checks if check.name == "transformers_logits")


def four_bits(trial: CodedTrial, kind: str, harm: Harm | None, folder: Path) -> dict[str, Check]:
    """Rounded to nearest, by our own decoding alone: no package needed."""
    draft = draft_of(trial.pupil)
    if harm is not None:
        harm(draft)
    write_nearest(merged_draft(draft), folder, SCHEMES[kind], 32)
    subject = trial.pupil.subject
    model = load_base_again(subject, torch.float32, "cpu")
    checks = check_codes(model, merged_model(subject, where="test"), folder, SCHEMES[kind], 32)
    return {check.name: check for check in checks}


@pytest.mark.parametrize("kind", FOUR)
def test_a_module_at_nine_tenths_shows_in_four_bits(kind: str, trial: CodedTrial, tmp_path: Path) -> None:
    """Each number of it lies nearer to the right one than four bits can say; all of them together do not."""
    right = four_bits(trial, kind, None, tmp_path / "right")
    assert {check.verdict for check in right.values()} == {"pass"}, right
    spoilt = four_bits(trial, kind, one_module(0.9, 3), tmp_path / "spoilt")
    assert spoilt["file"].verdict == "pass" and spoilt["file_modules"].verdict == "fail"
    module = list(trial.pupil.adapter.layers)[3]
    assert spoilt["file_modules"].note.startswith((f"{module}: x0.8", f"{module}: x0.9"))


@pytest.mark.parametrize("kind", FOUR)
def test_a_tensor_that_the_model_never_had_is_no_part_of_a_four_bit_file(
    kind: str, trial: CodedTrial, tmp_path: Path
) -> None:
    folder = tmp_path / "strange"
    four_bits(trial, kind, None, folder)
    draft = draft_of(trial.pupil)
    harms_of(kind)["a bias that the model never had"](draft)
    draft.edit(folder)
    model = load_base_again(trial.pupil.subject, torch.float32, "cpu")
    checks = check_codes(model, merged_model(trial.pupil.subject, where="test"), folder, SCHEMES[kind], 32)
    assert "down_proj.bias" in next(check.note for check in checks if check.name == "file" and check.verdict == "fail")


@pytest.mark.parametrize("kind", FOUR)
def test_our_packer_says_what_our_decoder_reads(kind: str) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    values = SCHEMES[kind].values(coded(weight, SCHEMES[kind], 32))
    assert float((values - weight).abs().max()) <= float(SCHEMES[kind].spacing(weight, 32).max()) * 0.51


@needs_auto_round
@pytest.mark.parametrize("kind", FOUR)
def test_four_bits_through_auto_round(kind: str, trial: CodedTrial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("danlu.exports.calibrated.write.STEPS", (20, 20))  # the least that is ever taken
    assert not failed(trial.honest(kind))
    for name in FOUR_QUICK:
        checks = trial.spoilt(kind, harms_of(kind)[name])
        assert checks is None or failed(checks), f"{name} in {kind} passed"
