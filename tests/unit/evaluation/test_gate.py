"""Ship or hold, and the remedy for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import danlu.core.messages as messages
from danlu.evaluation.gate import Gate, GateVerdict


def measured(**changes: Any) -> dict[str, Any]:
    return {
        "base": {"accuracy": 0.05, "num_items": 100, "faults": {}},
        "tuned": {"accuracy": 0.85, "num_items": 100, "faults": {}},
        "difference": {"value": 0.8, "interval": [0.7, 0.9], "detectable": 0.1},
        "consistency": {"tuned": {"consistent_right": 0.75}, "repeats": 3},
        "forgetting": {"ratio": 1.05, "interval": [1.02, 1.08]},
    } | changes


def codes(verdict: GateVerdict) -> list[str]:
    return [reason.code for reason in verdict.reasons if not reason.passed]


def test_all_thresholds_met_ships() -> None:
    verdict = Gate(min_accuracy=0.8, min_consistency=0.7).judge(measured())
    assert verdict.decision == "ship" and codes(verdict) == []


def test_each_threshold_holds_alone() -> None:
    assert codes(Gate(min_gain=0.85).judge(measured())) == ["gain_small"]
    assert codes(Gate(max_forget=0.04).judge(measured())) == ["forget_high"]
    assert codes(Gate(min_accuracy=0.9).judge(measured())) == ["accuracy_low"]
    assert codes(Gate(min_consistency=0.8).judge(measured())) == ["consistency_low"]
    assert codes(Gate().judge(measured(parity={"verdict": "fail"}))) == ["parity_failed"]
    assert codes(Gate().judge(measured(parity={"verdict": "incomplete"}))) == ["parity_incomplete"]
    assert "parity" not in " ".join(
        reason.code for reason in Gate().judge(measured(parity={"verdict": "not run"})).reasons
    )


def test_a_gain_that_chance_explains_does_not_ship() -> None:
    lucky = measured(difference={"value": 0.1, "interval": [-0.02, 0.22], "detectable": 0.2})
    assert codes(Gate().judge(lucky)) == ["gain_uncertain"]


def test_what_was_not_measured_is_no_proof() -> None:
    verdict = Gate().judge(measured(forgetting=None))
    assert codes(verdict) == ["unmeasured"] and "forgetting" in verdict.reasons[-1].remedy("en")


def test_failed_answers_put_the_numbers_in_doubt() -> None:
    broken = measured(base={"accuracy": 0.0, "num_items": 100, "faults": {"error": 40}})
    assert codes(Gate().judge(broken)) == ["errors_base"]


def test_reasons_speak_both_languages_and_survive_json() -> None:
    verdict = Gate(min_gain=0.9, min_accuracy=0.9, min_consistency=0.9, max_forget=0.01).judge(measured())
    again = GateVerdict.from_json(json.loads(json.dumps(verdict.to_json())))
    assert again == verdict
    for reason in again.reasons:
        assert "{" not in reason.text("zh") + reason.remedy("zh") + reason.text("en") + reason.remedy("en")
        assert reason.remedy("zh") and reason.remedy("en")


def test_every_reason_has_words() -> None:
    folder = Path(messages.__file__).parent
    for language in ("en", "zh"):
        entries = json.loads((folder / language / "evaluation.json").read_text(encoding="utf-8"))
        for side in ("gain_passed", "accuracy_passed", "consistency_passed", "forget_passed", "parity_passed"):
            assert f"gate_{side}" in entries
