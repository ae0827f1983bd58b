"""Rules of form, strict and loose, on answers as models really give them, in both languages."""

from __future__ import annotations

from json import dumps
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.errors import EvaluationError
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.evaluation.form import RULES, broken_rules, loosened, num_sentences
from danlu.evaluation.items import Item, load_questions
from danlu.evaluation.jsons import NoJsonError, find_json, read_json
from danlu.evaluation.metrics import METRICS


def verdict(answer: str, **rules: object):
    return METRICS.load("format")().score(answer, Item("1", (), "", rules=rules))


JSON = '{"姓名": "李雷", "金额": 80}'
BULLETS_ZH = "- 提交发票\n- 经理审批\n- 财务付款"

KEPT = [
    (JSON, {"json": True}),
    (f"  {JSON}\n", {"json": "object"}),
    ("[1, 2]", {"json": "array"}),
    (JSON, {"keys": ["金额", "姓名"]}),
    (f"[{JSON}, {JSON}]", {"keys": ["姓名", "金额"]}),
    (JSON, {"schema": {"type": "object", "required": ["金额"], "properties": {"金额": {"type": "integer"}}}}),
    (BULLETS_ZH, {"bullets": 3}),
    ("1. a\n2. b", {"bullets": 2, "numbered": 2}),
    ("一、提交\n二、审批", {"numbered": 2}),
    ("• one\n• two\n• three", {"bullets": 3}),
    ("①甲\n②乙", {"numbered": 2}),
    ("出差每天补贴80元。", {"language": "zh", "max_chars": 10, "min_chars": 3, "sentences": 1}),
    ("The allowance is 3.5 percent. Ask finance.", {"language": "en", "sentences": 2}),
    ("请使用 Python 的 pandas 库读取文件。", {"language": "zh"}),
    ("one two three", {"words": 3, "max_words": 3}),
    ("年假 seven 天", {"words": 4}),
    ("是", {"one_of": ["是", "否"]}),
    ("**Yes.**", {"one_of": ["Yes", "No"]}),
    ("A-2024-001", {"regex": r"[A-Z]-\d{4}-\d{3}"}),
    ("答：可以", {"starts_with": "答：", "ends_with": "可以"}),
    ("80 yuan per day", {"includes": ["80", "Yuan"], "excludes": ["180", "dollar"]}),
    ("plain words", {"plain": True, "lower": True, "no_extra": True}),
    ("| a | b |\n|---|---|\n| 1 | 2 |", {"table": True}),
    ("第一段。\n\n第二段。", {"paragraphs": 2, "lines": 2}),
]

BROKEN = [
    (f"好的，结果如下：\n{JSON}", {"json": True}, True),
    (f"```json\n{JSON}\n```", {"json": True}, True),
    (f"Sure, here is the JSON:\n```json\n{JSON}\n```\nHope this helps!", {"json": True, "no_extra": True}, True),
    ('{"a": 1,}', {"json": True}, False),
    ('{"a": NaN}', {"json": True}, False),
    ('{"a": 1, "a": 2}', {"json": True}, False),
    ("{'a': 1}", {"json": True}, False),
    ("[1]", {"json": "object"}, False),
    (JSON, {"keys": ["姓名"]}, False),
    (JSON, {"schema": {"properties": {"金额": {"type": "string"}}}}, False),
    (BULLETS_ZH, {"bullets": 4}, False),
    ("以下是要点：\n" + BULLETS_ZH, {"bullets": 3, "lines": 3}, True),
    ("出差每天补贴80元，住宿另计。", {"max_chars": 10}, False),
    ("The allowance is 80 yuan.", {"language": "zh"}, False),
    ("Yes, of course.", {"one_of": ["Yes", "No"]}, False),
    ("# Title", {"plain": True}, False),
    ("", {"max_chars": 10}, False),
]


@pytest.mark.parametrize(("answer", "rules"), KEPT)
def test_kept_to_the_letter(answer: str, rules: dict[str, object]) -> None:
    found = verdict(answer, **rules)
    assert found.right and found.value == 1, found.details


@pytest.mark.parametrize(("answer", "rules", "is_loose"), BROKEN)
def test_broken_and_whether_a_patient_reader_minds(answer: str, rules: dict[str, object], is_loose: bool) -> None:
    found = verdict(answer, **rules)
    assert not found.right and found.details["broken"]
    assert found.details["loose"] is is_loose


def test_value_is_the_share_of_rules_kept() -> None:
    assert verdict("- a\n- b", bullets=2, language="zh").value == 0.5
    assert verdict("<think>hm</think>- a\n- b", bullets=2).right  # a thinking trace is no part of the answer


def test_every_rule_can_be_kept_and_broken() -> None:
    """No rule that always says yes."""
    kept = {name for _, rules in KEPT for name in rules}
    texts = [answer for answer, *_ in (*KEPT, *BROKEN)] + [
        "UPPER",
        "lower",
        "a b c",
        "1. a\n2. b\n3. c",
        "A b. C d. E f.",
        "a\n\nb\n\nc",
    ]
    wanted: dict[str, object] = {
        "json": True, "schema": {"type": "object"}, "keys": ["姓名", "金额"], "language": "zh", "no_extra": True, "plain": True,
        "table": True, "starts_with": "答", "ends_with": "可以", "includes": ["80"], "excludes": ["80"], "regex": "[A-Z]+",
        "one_of": ["是"], "upper": True, "lower": True,
    }  # fmt: skip
    for name in RULES:
        results = {not broken_rules(text, {name: wanted.get(name, 3)}, where="test") for text in texts}
        assert results == {True, False}, name
    assert kept | {"chars", "max_sentences", "min_words", "upper"} == set(RULES)


def test_faulty_rules_name_the_nearest_and_the_item() -> None:
    for rules in ({"bulets": 3}, {"bullets": "three"}, {"regex": "("}, {"schema": {"type": "objekt"}}, {"keys": 3}, {}):
        with pytest.raises(EvaluationError) as caught:
            verdict(JSON, **rules)
        assert "item 1" in str(caught.value)
    with pytest.raises(EvaluationError, match="bullets"):
        verdict("x", bulets=3)


def test_a_schema_fetches_nothing() -> None:
    with pytest.raises(EvaluationError):
        verdict("1", schema={"$ref": "http://127.0.0.1:9/schema.json"})
    assert verdict("1", schema={"$defs": {"n": {"type": "integer"}}, "$ref": "#/$defs/n"}).right
    assert verdict("1", schema={"$schema": "http://json-schema.org/draft-07/schema#", "type": "integer"}).right


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "1" * 10_000, "{" * 3000, "```json\n" * 500, ""])
def test_hostile_json_is_no_json_and_ends_soon(text: str) -> None:
    for reader in (read_json, find_json):
        with pytest.raises(NoJsonError):
            reader(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=5), part, max_size=3),
        max_leaves=8,
    )
)
def test_json_in_prose_and_fences_is_found_again(value: object) -> None:
    written = dumps(value, ensure_ascii=False, indent=1)
    assert read_json(written) == value
    assert find_json(f"当然，如下：\n```json\n{written}\n```\n希望有用。") == value
    if isinstance(value, dict | list) and value:
        assert find_json(f"Here it is: {written} as asked.") == value


@given(st.text(max_size=200))
def test_loosening_never_adds(text: str) -> None:
    assert len(loosened(text)) <= len(text)


def test_sentences_in_both_languages() -> None:
    assert num_sentences("补贴是3.5%。请问财务！好吗？") == 3
    assert num_sentences("It is 3.5 percent. See A.4 for more… Really?") == 3
    assert num_sentences("报销款每周四打款。（《报销细则》）") == num_sentences("Paid on Thursday. (Handbook)") == 1
    assert num_sentences("no end") == 1 and num_sentences("") == 0 and num_sentences("。。。") == 0


def test_rules_arrive_from_rows_and_from_cells() -> None:
    rows = [
        {"question": "三点？", "answer": "x", "match": "format", "rules": {"bullets": 3}},
        {"question": "三点？", "answer": "x", "match": "format", "rules": '{"bullets": 3}'},
    ]
    for item in load_questions(rows).items:
        assert METRICS.load("format")().score(BULLETS_ZH, item).right
    with pytest.raises(EvaluationError, match="rules"):
        load_questions([{"question": "?", "answer": "x", "rules": '{"bullets": }'}])
    assert load_questions([{"question": "?", "answer": "x", "rules": "see the handbook"}]).items[0].rules == {}


def fields(answer: str, reference: str):
    return METRICS.load("json_fields")().score(answer, Item("1", (), reference))


def test_fields_are_compared_leaf_by_leaf() -> None:
    reference = '{"name": "李雷", "amount": 80, "tags": ["a", "b"], "ok": true, "note": null}'
    assert fields(
        '```json\n{"ok": true, "note": null, "amount": 80.0, "name": " 李雷 ", "tags": ["A", "b"]}\n```', reference
    ).right
    wrong = fields('{"name": "李雷", "amount": 180, "tags": ["a", "b"], "ok": 1}', reference)
    assert (
        not wrong.right
        and wrong.details["missing"] == ["amount", "ok", "note"]
        and wrong.details["extra"] == ["amount", "ok"]
    )
    assert wrong.value == pytest.approx(2 * 3 / (6 + 5))
    assert fields("80 yuan", reference).details["parse_failure"] is True
    assert not fields('{"tags": ["b", "a"]}', '{"tags": ["a", "b"]}').right
    assert not fields("{}", "[]").right and fields("[]", "[]").right
    with pytest.raises(EvaluationError, match="no JSON"):
        fields("{}", "eighty")


def test_json_says_why_it_failed() -> None:
    metric = METRICS.load("json")()
    assert metric.score(JSON, Item("1", (), "")).right
    fenced = metric.score(f"```\n{JSON}\n```", Item("1", (), ""))
    assert fenced.details["parse_failure"] and fenced.details["loose"]
    item = Item("1", (), "", rules={"schema": {"properties": {"金额": {"type": "string"}}}})
    assert metric.score(JSON, item).details == {"schema_faults": ["$.金额: type"]}


def test_rules_survive_the_readers_of_files(tmp_path: Path) -> None:
    """A schema is longer than the short columns that are carried along, and an object."""
    schema = {"type": "object", "properties": {f"field_{i}": {"type": "string"} for i in range(12)}}
    rows = tmp_path / "questions.jsonl"
    rows.write_text(
        dumps({"question": "JSON?", "answer": "-", "match": "format", "rules": {"schema": schema}}), "utf-8"
    )
    table = tmp_path / "questions.csv"
    table.write_text('question,answer,match,rules\n三点？,-,format,"{""bullets"": 3}"\n', "utf-8")
    items = load_questions(read([rows, table], Ledger())).items
    assert sorted(map(dumps, (item.rules for item in items))) == sorted(
        [dumps({"schema": schema}), dumps({"bullets": 3})]
    )
    assert {item.metric for item in items} == {"format"}
