"""Ship or hold, and the remedy for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import danlu.core.messages as messages
from danlu.evaluation.gate import Gate, GateVerdict
from danlu.evaluation.stats import compare


def measured(**changes: Any) -> dict[str, Any]:
    return {
        "base": {"accuracy": 0.05, "num_items": 100, "faults": {}},
        "tuned": {"accuracy": 0.85, "num_items": 100, "faults": {}},
        "difference": {"value": 0.8, "interval": [0.7, 0.9], "detectable": 0.1, "direction": "better", "p": 0.001},
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


def test_an_interval_alone_does_not_ship_where_the_test_disagrees() -> None:
    """Four answers won and none lost of eight: the interval leaves out zero, and yet p is 0.13."""
    few = compare([0] * 8, [1] * 4 + [0] * 4)
    assert few.low > 0 and few.direction == "no_evidence"
    verdict = Gate().judge(measured(difference=few.to_json()))
    assert codes(verdict) == ["gain_by_chance"]
    assert all(
        "0.12" in reason.text(language) for reason in verdict.reasons if not reason.passed for language in ("zh", "en")
    )


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


def general(value: float, bounds: tuple[float, float], lost: int = 0, gained: int = 0) -> dict[str, Any]:
    return {
        "difference": {"value": value, "num_items": 360, "num_lost": lost, "num_gained": gained},
        "bounds": list(bounds),
    }


STRICT = Gate(max_loss=0.02, max_category_loss=0.05, max_probe_loss=0.05)


def test_a_loss_must_be_ruled_out_not_merely_not_found() -> None:
    alike = general(0.0, (-0.0075, 0.0075)) | {"categories": {"code": general(0.0, (-0.04, 0.04))}}
    assert codes(STRICT.judge(measured(general=alike))) == []
    unsure = general(-0.003, (-0.025, 0.02), lost=9, gained=8) | {"categories": {}}
    verdict = STRICT.judge(measured(general=unsure))
    assert codes(verdict) == ["general_unproven"]
    (reason,) = [reason for reason in verdict.reasons if not reason.passed]
    assert int(reason.values["needed"]) > 360 and reason.values["needed"] in reason.remedy("zh")
    fallen = general(-0.05, (-0.07, -0.03), lost=20, gained=2) | {"categories": {}}
    assert codes(STRICT.judge(measured(general=fallen))) == ["general_lost"]
    assert codes(STRICT.judge(measured())) == ["unmeasured"]


def test_a_category_holds_alone_and_is_named_in_the_readers_language() -> None:
    parts = {"code": general(-0.08, (-0.16, 0.0)), "safety": general(0.0, (-0.06, 0.06))}
    section = general(0.0, (-0.01, 0.01)) | {"categories": parts}
    verdict = STRICT.judge(measured(general=section))
    assert codes(verdict) == ["category_lost"]
    (reason,) = [reason for reason in verdict.reasons if not reason.passed]
    assert "代码" in reason.text("zh") and "Code" in reason.text("en") and "安全" not in reason.text("zh")
    parts["code"] = general(-0.02, (-0.08, 0.04))
    assert codes(STRICT.judge(measured(general=section))) == []
    proving = Gate(max_loss=0.02, max_category_loss=0.05, prove_categories=True)
    assert codes(proving.judge(measured(general=section))) == ["category_unproven"]


def test_a_probe_suite_holds_only_when_its_fall_is_beyond_doubt() -> None:
    def probes(value: float, direction: str) -> dict[str, Any]:
        return {"kinds": {"typo": {"difference": {"value": value, "direction": direction}}}}

    ruled = general(0.0, (-0.01, 0.01)) | {"categories": {}}
    assert codes(STRICT.judge(measured(general=ruled, probes=probes(-0.2, "worse")))) == ["probes_lost"]
    assert codes(STRICT.judge(measured(general=ruled, probes=probes(-0.2, "no_evidence")))) == []
    assert codes(STRICT.judge(measured(general=ruled, probes=probes(-0.04, "worse")))) == []


def test_a_lost_end_token_holds() -> None:
    def ends(base: int, tuned: int) -> dict[str, Any]:
        sides = {"base": base, "tuned": tuned}
        return {"domain": {side: {"num_answers": 100, "num_unended": n} for side, n in sides.items()}}

    assert codes(Gate().judge(measured(endings=ends(2, 60)))) == ["endings_bad"]
    assert codes(Gate().judge(measured(endings=ends(60, 40)))) == [], "the base rambles more"
    assert codes(Gate().judge(measured(endings=ends(0, 5)))) == []


def test_every_check_of_this_file_speaks_both_languages() -> None:
    section = general(-0.05, (-0.07, -0.03)) | {"categories": {"code": general(-0.2, (-0.3, -0.1))}}
    fallen = {"kinds": {"typo": {"difference": {"value": -0.2, "direction": "worse"}}}}
    for gate in (STRICT, Gate(max_loss=0.02, max_category_loss=0.05, prove_categories=True)):
        for reason in gate.judge(measured(general=section, probes=fallen)).reasons:
            for language in ("zh", "en"):
                said = reason.text(language) + reason.remedy(language)
                assert said and "{" not in said


def judged(rate: float, low: float, high: float, num_items: int = 30, num_unread: int = 1, **more: object) -> dict:
    difference = {"value": 2 * rate - 1, "interval": [2 * low - 1, 2 * high - 1], "p": 0.01, "direction": "better"}
    return measured() | {
        "judged": {
            "pairs": {"win_rate": rate, "difference": difference, "num_items": num_items, "num_unread": num_unread}
        }
        | more
    }


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (measured(), "unmeasured"),
        (judged(0.7, 0.6, 0.8), "judged_passed"),
        (judged(0.5, 0.45, 0.55), "judged_low"),
        (judged(0.6, 0.48, 0.7), "judged_uncertain"),
        (judged(0.9, 0.8, 0.95, people={"verdict": "doubtful"}), "judge_doubtful"),
        (judged(0.9, 0.8, 0.95, num_items=18, num_unread=7), "judge_unread"),
    ],
)
def test_a_judge_that_was_asked_for_decides_unless_people_doubt_it(report: dict, code: str) -> None:
    reasons = {reason.code: reason for reason in Gate(min_win_rate=0.55).judge(report).reasons}
    assert code in reasons and reasons[code].passed == (code == "judged_passed")
    for language in ("en", "zh"):
        assert "{" not in reasons[code].text(language) + reasons[code].remedy(language)


@pytest.mark.parametrize(
    ("value", "direction", "code"), [(-0.1, "worse", "suites_lost"), (-0.1, "same", "suites_kept")]
)
def test_an_outside_benchmark_holds_only_a_loss_beyond_doubt(value: float, direction: str, code: str) -> None:
    difference = {"value": value, "interval": [-0.2, 0.0], "p": 0.5, "direction": direction}
    report = measured() | {"suites": {"lm-eval: own": {"difference": difference}}}
    reasons = {reason.code: reason for reason in Gate(max_suite_loss=0.05).judge(report).reasons}
    assert reasons[code].passed == (direction != "worse")
    assert Gate(max_suite_loss=0.05).judge(measured()).reasons, "without any nothing is claimed"
    assert code == "suites_kept" or "lm-eval: own" in reasons[code].text("zh")
