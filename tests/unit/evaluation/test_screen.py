"""The first screen: five questions, answered for a reader who knows no statistics, in both languages."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from danlu.evaluation.diagnosis import diagnose
from danlu.evaluation.gate import Gate
from danlu.evaluation.report import Report, with_curve, with_parity
from danlu.evaluation.report_html import render_html
from danlu.evaluation.report_screen import screen
from danlu.evaluation.worse import losses_of

QUESTIONS = {
    "zh": ("变好了吗", "好了多少", "有多大把握", "什么变差了", "可以上线吗"),
    "en": ("Is it better?", "By how much?", "How sure is that?", "What got worse?", "May I ship it?"),
}


def said(report: Report, language: Any) -> str:
    return re.sub(r"<[^>]+>", " ", str(screen(report, language)))


def changed(report: Report, value: float, low: float, high: float, direction: str, p: float) -> Report:
    told = dict(report.difference or {}) | {"value": value, "interval": [low, high], "direction": direction, "p": p}
    return replace(report, difference=told, tests={"domain": {"p_holm": p}})


@pytest.mark.parametrize("language", ["zh", "en"])
def test_all_five_questions_are_answered(report: Report, language: str) -> None:
    text = said(report, language)
    assert all(question in text for question in QUESTIONS[language])
    assert "{" not in text
    page = render_html(report, language=language)
    assert all(page.index(question) < page.index("<h2>") for question in QUESTIONS[language]), "before all else"


def test_better_worse_and_unknown_are_three_answers(report: Report) -> None:
    better = said(changed(report, 0.8, 0.7, 0.9, "better", 1e-9), "en")
    assert "Yes." in better and "Almost certain." in better and "+80.0 points" in better
    lucky = said(changed(report, 0.03, -0.02, 0.08, "no_evidence", 0.3), "en")
    assert "Not shown." in lucky and "Not sure." in lucky and "Almost certain" not in lucky
    worse = said(changed(report, -0.2, -0.3, -0.1, "worse", 0.004), "en")
    assert "No, it is worse." in worse and "Fairly sure." in worse and "−20.0 points" in worse


def test_a_held_model_says_why_and_what_to_do(report: Report) -> None:
    held = with_parity(report, {"verdict": "fail"}, Gate(max_forget=0.01))
    text = said(held, "zh")
    assert "还不行" in text and "data.replay.ratio" in text and "导出" in text
    assert "由您决定" in said(replace(report, gate=None), "zh")


def test_shown_losses_come_first_and_chance_is_called_chance(report: Report) -> None:
    told = report.to_json()
    part = {"difference": {"value": -0.04, "num_items": 60, "direction": "no_evidence"}, "bounds": [-0.1, 0.02]}
    told["general"] = part | {"categories": {"code": part | {"bounds": [-0.1, -0.01]}}}
    losses = losses_of(told)
    assert [loss.shown for loss in losses] == sorted((loss.shown for loss in losses), reverse=True)
    by_code = {loss.code: loss for loss in losses}
    assert "代码" in by_code["category"].text("zh") and "偶然" not in by_code["category"].text("zh")
    assert "may be chance" in by_code["general"].text("en")


def test_nothing_worse_and_not_measured_are_not_the_same(report: Report) -> None:
    clean = replace(
        report, forgetting={"ratio": 0.98, "interval": [0.96, 1.0], "base": {}, "tuned": {}}, edge=None, difference=None
    )
    assert "Nothing that was measured." in said(clean, "en")
    silent = replace(report, forgetting=None, edge=None, general=None, probes=None)
    assert "Not measured." in said(silent, "en")


def curves(*checks: float, train: float) -> dict[str, Any]:
    return {"training": {"curve": [{"step": s, "loss": train} for s in range(1, 101)],
                         "validation": [{"step": 10 * i, "loss": loss} for i, loss in enumerate(checks, start=1)]}}  # fmt: skip


def test_each_shape_of_the_curves_has_its_word_and_its_knob() -> None:
    def found(told: dict[str, Any]) -> list[str]:
        return [finding.code for finding in diagnose(told)]

    assert found(curves(1.0, 0.8, 0.9, 1.0, train=0.7)) == ["turned"]
    assert found(curves(1.0, 0.9, 0.7, train=0.65)) == ["still_falling"]
    assert found(curves(1.0, 0.9, 0.89, train=0.1)) == ["gap"]
    assert found(curves(1.0, 0.9, 0.89, train=0.8)) == ["healthy"]
    assert found({}) == []
    heart = {"trained_gain": {"value": 1.0, "interval": [0.8, 1.2]}, "carried_over": 0.1, "base": {}, "tuned": {}}
    assert found({"memorisation": heart}) == ["by_heart"]
    doubling = {"value": 0.08, "interval": [0.03, 0.13], "from": 0.5}
    assert found({"curve": {"doubling": doubling}}) == ["more_data"]
    assert found({"curve": {"doubling": doubling | {"value": 0.0, "interval": [-0.01, 0.01]}}}) == ["enough_data"]
    assert found({"curve": {"doubling": doubling | {"value": 0.03, "interval": [-0.02, 0.08]}}}) == ["unsure_data"]
    asked = {"difference": {"interval": [-0.02, 0.02]}, "data": {"questions": {"q": {"taught": 2, "looked_up": 40}}}}
    assert found(asked) == ["untaught"]
    assert found(asked | {"difference": {"interval": [0.01, 0.2]}}) == [], "what was gained needs no excuse"
    assert found(asked | {"data": {"questions": {"q": {"taught": 20, "looked_up": 40}}}}) == []
    for finding in diagnose(curves(1.0, 0.8, 0.9, 1.0, train=0.7)):
        assert "training.epochs" in finding.remedy("zh") and "training.epochs" in finding.remedy("en")


def test_a_curve_reaches_the_page(report: Report) -> None:
    points = [
        {"ratio": r, "num_rows": int(1000 * r), "accuracy": r, "interval": [r - 0.1, r + 0.1]}
        for r in (0.0, 0.25, 0.5, 1.0)
    ]
    told = with_curve(report, {"points": points, "doubling": {"value": 0.3, "interval": [0.2, 0.4], "from": 0.5}})
    for language, words in (("zh", "学习曲线"), ("en", "Learning curve")):
        assert words in render_html(Report.from_json(told.to_json()), language=language)
    assert "more_data" in [finding["code"] for finding in told.diagnosis]


@pytest.mark.parametrize(
    ("num", "told"), [(1, "on one document"), (2, "on 2 documents"), (7, "on 7 documents"), (8, ""), (0, "")]
)
def test_few_documents_speak_for_themselves_only(report: Report, num: int, told: str) -> None:
    """With fewer than eight documents the questions are the clusters, and the page did not say what that costs."""
    rows = [
        row | {"document": f"{place % num}.pdf" if num else ""} if row["task"] == "domain" else row
        for place, row in enumerate(report.items * 4)
    ]
    for language, word in (("en", "says nothing of others"), ("zh", "不代表其他文档")):
        text = said(replace(report, items=rows), language)
        assert (word in text) is bool(told)
        assert language == "zh" or told in text


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_fact_of_the_split_and_of_training_has_a_name(report: Report, language: Any) -> None:
    """The page showed the bare keys forms_across, tie and stage."""
    page = render_html(replace(report, training=report.training | {"stage": "1-sft"}), language=language)
    told = re.sub(r"<[^>]+>", " ", page)
    assert not re.search(r"forms_across|\btie\b|(?<!\w)stage\s+1-sft", told) and "1-sft" in told
