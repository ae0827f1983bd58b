"""What models say around and instead of JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.synthesis.replies import parse_items, parse_object, text_at, texts_at

ITEM = {"question": "年假几天？", "answer": "10天"}


@pytest.mark.parametrize(
    "reply",
    [
        '{"items": [{"question": "年假几天？", "answer": "10天"}]}',
        '好的，以下是结果：\n```json\n{"items": [{"question": "年假几天？", "answer": "10天"}]}\n```\n希望有帮助！',
        '[{"question": "年假几天？", "answer": "10天"}]',
        '{"question": "年假几天？", "answer": "10天"}',
        "{'items': [{'question': '年假几天？', 'answer': '10天'}]}",
        '{"items": [{"question": "年假几天？", "answer": "10天",},]}',
        '{"items": [{"question": "年假几天？", "answer": "10天"}',
        '{"items": [{question: "年假几天？", answer: "10天"}]}',
        '```\n{"questions": [{"question": "年假几天？", "answer": "10天"}]}',
        '{"items": [{"question": "年假几天？" "answer": "10天"}]}',
    ],
)
def test_broken_json_is_mended(reply: str) -> None:
    assert parse_items(reply) == [ITEM]


@pytest.mark.parametrize("reply", ["", "抱歉，我不能完成这个请求。", "null", "42", "[" * 100_000, '{"a":' * 50_000])
def test_no_json_is_no_item(reply: str) -> None:
    assert not parse_items(reply) and parse_object(reply) in (None, {})


def test_the_last_item_of_a_cut_reply_is_not_believed() -> None:
    """Repair closes the string: "the allowance is 80" would stand where "80 euros a week" was meant."""
    cut = '{"items": [{"question": "a?", "answer": "one"}, {"question": "b?", "answer": "the allowance is 80'
    assert parse_items(cut, is_cut=True) == [{"question": "a?", "answer": "one"}]
    assert parse_items('[{"question": "b?", "answer": "the allowance is 80', is_cut=True) == []


def test_texts_in_many_shapes() -> None:
    assert texts_at({"evidence": [{"text": "a"}, "b", 3, None, {"quote": "c"}]}, "evidence") == ["a", "b", "c"]
    assert texts_at({"evidence": "alone"}, "quotes", "evidence") == ["alone"]
    assert text_at({"answer": 5}, "answer") == "5" and text_at({"answer": True}, "answer") == ""


@given(st.text(max_size=200))
def test_nothing_a_model_says_breaks_it(reply: str) -> None:
    for text in (reply, "{" + reply, '{"items": [' + reply):
        items = parse_items(text)
        assert items is None or all(isinstance(item, dict) for item in items)
        parse_object(text)
