"""Rows as people write them: aliases, dialects, faults with their reasons."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.data.formats import choose
from danlu.data.rows import RowError
from danlu.data.sample import Conversation, Feedback, Label, Message, Origin, Preference

HERE = Origin("rows.jsonl", 7)


def parsed(row: dict[str, Any]) -> Any:
    fmt = choose(row)
    assert fmt is not None, "no format knows the row"
    return fmt.parse(row, HERE, [])


def turns(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in parsed(row).messages]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "问", "output": "答"},
        {"instruction": "问", "input": "", "output": "答"},
        {"指令": "问", "输出": "答"},
        {"问题": "问", "答案": "答"},
        {"Question": "问", "Answer": "答"},
        {"prompt": "问", "completion": "答"},
        {"input": "问", "output": "答"},
        {"kind": "QA", "input": "问", "target": "答"},
        {"human": "问", "bot": "答"},
        {"query": "问", "response": "答", "history": []},
        {"用户提问": "问", "标准答案": "答"},
        {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]},
        {"messages": [{"from": "user", "value": "问"}, {"from": "bot", "value": "答"}]},
        {"conversation": [{"role": "human", "content": "问"}, {"role": "助手", "content": "答"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "问"}]}, {"role": "assistant", "content": "答"}]},
        {"prompt": [{"role": "user", "content": "问"}], "completion": [{"role": "assistant", "content": "答"}]},
        {"messages": '[{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]'},
    ],
)  # fmt: skip
def test_many_ways_to_write_one_question_and_answer(row: dict[str, Any]) -> None:
    assert turns(row) == [("user", "问"), ("assistant", "答")]


def test_alpaca_history_and_system_become_turns() -> None:
    row = {"instruction": "三", "input": "四", "output": "五", "system": "零", "history": [["一", "二"]]}
    assert turns(row) == [
        ("system", "零"),
        ("user", "一"),
        ("assistant", "二"),
        ("user", "三\n四"),
        ("assistant", "五"),
    ]


def test_turns_inside_one_string_are_taken_apart() -> None:
    row = {"instruction": " <user>: 一？ <bot>: 二。 <user>: 三？", "output": "四。", "input": ""}
    assert turns(row) == [("user", "一？"), ("assistant", "二。"), ("user", "三？"), ("assistant", "四。")]


def test_a_text_that_only_mentions_the_marks_stays_plain() -> None:
    row = {"instruction": "解释 <user>: 与 <bot>: 的区别", "output": "标记。"}
    assert turns(row)[0] == ("user", "解释 <user>: 与 <bot>: 的区别")


def test_a_sharegpt_tool_call_becomes_a_call_with_an_object_of_arguments() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "天气？"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
            {"from": "observation", "value": '{"t": 28}'},
            {"from": "gpt", "value": "28 度"},
        ],
        "tools": '[{"name": "weather", "parameters": {}}]',
    }
    sample = parsed(row)
    assert sample.messages[1].tool_calls == (
        {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}},
    )
    assert sample.messages[2].role == "tool"
    assert sample.tools == ({"type": "function", "function": {"name": "weather", "parameters": {}}},)


def test_weights_of_turns_are_kept() -> None:
    row = {"messages": [
        {"role": "user", "content": "a", "loss_weight": 0.0}, {"role": "assistant", "content": "b", "weight": 0},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d", "train": True},
    ]}  # fmt: skip
    assert [message.train for message in parsed(row).messages] == [False, False, None, True]


def test_reasoning_is_kept_apart_and_inline_thinking_is_left_alone() -> None:
    row = {"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>x</think>b", "reasoning_content": "y"},
    ]}  # fmt: skip
    assert parsed(row).messages[1] == Message("assistant", "<think>x</think>b", reasoning="y")


def test_an_hh_transcript_is_split_at_the_last_answers() -> None:
    head = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: joke?\n\nAssistant:"
    pair = parsed({"chosen": f"{head} sure", "rejected": f"{head} no"})
    assert isinstance(pair, Preference)
    assert [turn.content for turn in pair.prompt] == ["hi", "hello", "joke?"]
    assert (pair.chosen[0].content, pair.rejected[0].content) == ("sure", "no")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "问", "chosen": "好", "rejected": "坏"},
        {"prompt": "\n\nHuman: 问\n\nAssistant:", "chosen": "好", "rejected": "坏"},
        {"prompt": "问", "messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "好"}],
         "chosen": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "好"}],
         "rejected": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "坏"}]},
        {"question": "问", "response_chosen": "好", "response_rejected": "坏"},
        {"instruction": "问", "input": "", "chosen": "好", "rejected": "坏"},
        {"conversations": [{"from": "human", "value": "问"}], "chosen": {"from": "gpt", "value": "好"},
         "rejected": {"from": "gpt", "value": "坏"}},
        {"chosen": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "好"}],
         "rejected": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "坏"}]},
        {"prompt": "问", "chosen": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "好"}],
         "rejected": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "坏"}]},
    ],
)  # fmt: skip
def test_many_ways_to_write_one_preference(row: dict[str, Any]) -> None:
    pair = parsed(row)
    assert isinstance(pair, Preference)
    assert [turn.content for turn in (*pair.prompt, *pair.chosen, *pair.rejected)] == ["问", "好", "坏"]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"question": ["a", "b"], "answer": "c"}, "question"),
        ({"question": "a", "answer": ["b", "c"]}, "answer"),
        ({"prompt": ["a", "b"], "chosen": "c", "rejected": "d"}, "question"),
        ({"prompt": "a", "chosen": ["c"], "rejected": "d"}, "chosen"),
    ],
)
def test_a_list_where_a_text_belongs_is_named_by_its_column(row: dict[str, Any], part: str) -> None:
    """A list of questions was called messages of the type text."""
    with pytest.raises(RowError) as caught:
        parsed(row)
    told = caught.value.values
    assert (caught.value.reason, told["part"], told["kind"]) == ("wrong_type", part, "list")


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"messages": "hello"}, "messages"),
        ({"instruction": "a", "output": "b", "history": "hello"}, "history"),
    ],
)
def test_a_text_where_a_list_belongs_is_not_called_a_tool(row: dict[str, Any], part: str) -> None:
    with pytest.raises(RowError) as caught:
        parsed(row)
    assert (caught.value.reason, caught.value.values["part"]) == ("wrong_type", part)


@pytest.mark.parametrize(("value", "liked"), [(0, False), (1, True), ("0", False), ("1", True), (1.0, True)])
def test_numbers_in_a_column_that_can_only_judge_are_judgements(value: Any, liked: bool) -> None:
    """Else an answer that people disliked would be learnt as a good one."""
    sample = parsed({"prompt": "a", "completion": "b", "kto_tag": value})
    assert isinstance(sample, Feedback)
    assert sample.desirable is liked


@pytest.mark.parametrize("value", [None, 2, "maybe", 0.5, []])
def test_a_judgement_nobody_understands_refuses_the_row(value: Any) -> None:
    with pytest.raises(RowError) as caught:
        parsed({"prompt": "a", "completion": "b", "kto_tag": value})
    assert caught.value.reason == "bad_flag"


@pytest.mark.parametrize("flag", [{"label": True}, {"kto_tag": True}, {"label": "true"}, {"desirable": True}])
def test_kto_flags(flag: dict[str, Any]) -> None:
    sample = parsed({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], **flag})
    assert isinstance(sample, Feedback)
    assert sample.desirable is True
    assert isinstance(parsed({"prompt": "a", "completion": "b", **flag}), Feedback)
    assert [turn.content for turn in parsed({"input": "a", "output": "b", **flag}).messages] == ["a", "b"]


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"review": "好", "label": 1}, "1"),
        ({"text": "好", "sentiment": "positive"}, "positive"),
        ({"评论": "好", "标签": "正面"}, "正面"),
        ({"reviewbody": "好", "star": 4.0}, "4.0"),
    ],
)
def test_labels_are_kept_as_written(row: dict[str, Any], label: str) -> None:
    sample = parsed(row)
    assert isinstance(sample, Label)
    assert (sample.text, sample.label) == ("好", label)


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"{role}{place}"} for place, role in enumerate(roles)]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("assistant", "user", "assistant"), "role_order"),
        (chat("user", "system", "assistant"), "role_order"),
        (chat("user", "tool", "assistant"), "role_order"),
        (chat("user"), "no_answer"),
        ({"messages": []}, "empty_conversation"),
        ({"messages": "nothing"}, "wrong_type"),
        ({"messages": 3}, "wrong_type"),
        ({"messages": ["hi"]}, "wrong_type"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown_role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, "not_text"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}]},
            "partial_weight",
        ),
        ({"instruction": "a", "output": "  "}, "empty_answer"),
        ({"instruction": "", "output": "b"}, "empty_question"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "identical_pair"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "empty_side"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}, "prompts_differ"),
        ({"text": "", "label": 1}, "empty_text"),
        ({"text": "a", "label": ""}, "empty_label"),
    ],
)
def test_a_fault_has_its_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parsed(row)
    assert caught.value.reason == reason
    assert caught.value.text


def test_turns_behind_the_last_answer_are_cut_and_told() -> None:
    changes: list[tuple[str, dict[str, Any]]] = []
    fmt = choose(chat("user", "assistant", "user"))
    assert fmt is not None
    sample = fmt.parse(chat("user", "assistant", "user"), HERE, changes)
    assert isinstance(sample, Conversation)
    assert len(sample.messages) == 2
    assert changes == [("open_end_dropped", {"num": 1})]


def test_two_questions_in_a_row_are_joined_and_told() -> None:
    changes: list[tuple[str, dict[str, Any]]] = []
    fmt = choose(chat("user", "user", "assistant"))
    assert fmt is not None
    sample = fmt.parse(chat("user", "user", "assistant"), HERE, changes)
    assert sample.messages[0].content == "user0\nuser1"
    assert changes == [("turns_joined", {"role": "user"})]
