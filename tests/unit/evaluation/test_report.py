"""The report's JSON, HTML and Markdown, from one whole evaluation."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from evaluation_story import TableEngine, whole_report

from danlu.core.errors import EvaluationError
from danlu.core.files import read_json
from danlu.data.sample import Label, Origin
from danlu.evaluation.compare import compare_reports
from danlu.evaluation.gate import Gate
from danlu.evaluation.items import load_questions
from danlu.evaluation.report import Context, Report, build_report, stage_row, with_parity
from danlu.evaluation.report_html import render_html
from danlu.evaluation.report_markdown import render_markdown
from danlu.evaluation.runner import Assignment, run_tasks
from danlu.evaluation.tasks.domain import Domain


def test_the_keys_that_scripts_rely_on(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    json = read_json(tmp_path / "report.json")
    assert json["schema"] == "danlu.report/1"
    assert 0 <= json["base"]["accuracy"] < json["tuned"]["accuracy"] <= 1
    low, high = json["tuned"]["interval"]
    assert low <= json["tuned"]["accuracy"] <= high
    assert set(json["difference"]) >= {"value", "interval", "p", "test", "num_gained", "num_lost", "detectable"}
    assert set(json["edge"]["kinds"]) == {"sarcasm", "negation", "unanswerable"}
    assert json["forgetting"]["ratio"] > 1
    assert json["consistency"]["tuned"]["consistent_right"] == report.consistency_ratio
    row = json["items"][0]
    assert set(row) >= {"id", "task", "question", "reference", "group", "base", "tuned"}
    assert set(row["tuned"]) == {"answers", "right", "value", "details"}
    assert len(next(row for row in json["items"] if row["task"] == "consistency")["tuned"]["answers"]) == 3
    assert json["gate"]["decision"] in ("ship", "hold")
    assert set(json["tests"]) == {"domain", "consistency", "edge:sarcasm", "edge:negation", "edge:unanswerable"}
    assert all(test["p_holm"] >= test["p"] for test in json["tests"].values())


def test_a_report_reads_back_equal(report: Report, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    again = Report.load(tmp_path / "report.json")
    assert again.to_json() == read_json(tmp_path / "report.json") | {"schema": "danlu.report/1"}
    assert again.compare("base") == report.difference
    for language in ("zh", "en"):
        assert render_html(again, language=language) == render_html(report, language=language)


def test_another_schema_is_refused_by_name() -> None:
    with pytest.raises(EvaluationError) as caught:
        Report.from_json({"schema": "danlu.report/9"}, where="old.json")
    assert "old.json" in str(caught.value) and "danlu.report/9" in str(caught.value)


def test_the_html_loads_nothing_and_says_its_language(report: Report) -> None:
    for language, code in (("zh", "zh-CN"), ("en", "en")):
        page = render_html(report, language=language)
        assert page.startswith("<!doctype html>") and f'<html lang="{code}">' in page
        assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://", page)
        assert "default-src 'none'" in html.unescape(page)
        assert not re.search(r"\{[a-z_]+\}", re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL))


def test_languages_do_not_mix(report: Report) -> None:
    page = render_html(report, language="en")
    headings = re.findall(r"<h[23]>(.*?)</h[23]>|<th[^>]*>(.*?)</th>|<summary>(.*?)</summary>", page)
    assert headings and not any(re.search("[\u4e00-\u9fff]", "".join(found)) for found in headings)
    chinese = re.findall(r"<h2>(.*?)</h2>", render_html(report, language="zh"))
    assert all(re.search("[\u4e00-\u9fff]", heading) for heading in chinese)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"' onmouseover=alert(1) </style></title>{0}"


def test_a_script_in_an_answer_stays_text() -> None:
    rows = [{"question": f"q {EVIL}", "answer": EVIL, "value": EVIL, "kind": EVIL, "document": EVIL, "group": EVIL}]
    items = load_questions([*rows, {"question": "q2", "answer": "x", "kind": "k", "document": "d"}]).items
    base, tuned = TableEngine(EVIL, {}, fallback=EVIL), TableEngine(f"t{EVIL}", {}, fallback=EVIL * 9)
    sections = run_tasks(base, tuned, [Assignment(Domain(), items)])
    report = build_report(EVIL, sections, base=base, tuned=tuned, gate=Gate())
    for language in ("zh", "en"):
        page = render_html(report, language=language)
        assert page.count("<script") == 1 and "<img" not in page and page.count("</style>") == 1
        assert not re.search(r"<[^>]*\sonmouseover=", page)
        assert "<script" not in render_markdown(report, language=language).replace("\\<", "")


def test_only_domain_still_makes_a_page() -> None:
    items = load_questions([{"question": "q", "answer": "x"}]).items
    engine = TableEngine("m", {}, fallback="x")
    sections = run_tasks(engine, TableEngine("n", {}), [Assignment(Domain(), items)])
    report = build_report("small", sections, base=engine, tuned=TableEngine("n", {}))
    assert report.gate is None and report.verdict is None
    for language in ("zh", "en"):
        assert "small" in render_html(report, language=language)
        assert "small" in render_markdown(report, language=language)


def test_labels_are_shown_as_a_confusion_table() -> None:
    items = load_questions([Label(f"t{i}", "pos" if i % 2 else "neg", Origin("f", i)) for i in range(8)]).items
    base, tuned = (
        TableEngine("m", {}, fallback="?"),
        TableEngine("n", {"t1": "pos", "t3": "pos", "t5": "neg"}, fallback="neg"),
    )
    report = build_report("labels", run_tasks(base, tuned, [Assignment(Domain(), items)]), base=base, tuned=tuned)
    assert report.base["faults"] == {"parse_failure": 8}
    assert report.classes is not None and report.classes["tuned"]["confusion"] == {
        "neg": {"neg": 4},
        "pos": {"neg": 2, "pos": 2},
    }
    # F1 of neg 2*4/(6+4), of pos 2*2/(2+4)
    assert report.classes["tuned"]["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert "0.733" in render_html(report, language="zh")


def test_no_tasks_at_all_still_makes_a_page() -> None:
    engine = TableEngine("m", {})
    report = build_report("empty", {}, base=engine, tuned=engine, gate=Gate())
    assert report.verdict is not None and report.verdict.decision == "hold"
    assert "empty" in render_html(report, language="zh")


def test_parity_after_export_changes_the_verdict(report: Report) -> None:
    gate = Gate(min_consistency=0.7)
    assert report.verdict is not None and report.verdict.decision == "ship"
    failed = with_parity(report, {"verdict": "fail"}, gate)
    assert failed.verdict is not None and failed.verdict.decision == "hold"
    assert "未通过" in render_html(failed, language="zh")


def test_stages_are_told_in_one_table(report: Report) -> None:
    stages = [stage_row("base", report, side="base"), stage_row("sft", report)]
    assert stages[0]["accuracy"] == report.base["accuracy"] and stages[1]["perplexity"] > stages[0]["perplexity"]
    engine = TableEngine("m", {})
    staged = build_report("staged", {}, base=engine, tuned=engine, context=Context(stages=stages))
    page = render_html(Report.from_json(staged.to_json()), language="en")
    assert "What each stage added" in page and '<td class="">sft</td>' in page


def test_markdown_quotes_what_was_lost(report: Report) -> None:
    text = render_markdown(report, language="zh")
    assert "| 全部题目 |" in text and "变差" in text
    assert "可以上线" in text


def test_two_reports_are_compared_on_what_they_share(report: Report) -> None:
    same = compare_reports(report, whole_report())
    assert same.comparison.estimate.value == 0.0 and same.gained == same.lost == ()
    engine = TableEngine("m", {})
    other = build_report("other", {}, base=engine, tuned=engine)
    with pytest.raises(EvaluationError):
        compare_reports(report, other)
