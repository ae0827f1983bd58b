"""Alpaca, ShareGPT, messages and the others hold the same sample, or say what they cannot hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.formats import FORMATS, choose, convert, load_format
from danlu.data.rows import RowError
from danlu.data.sample import Conversation, Document, Feedback, Label, Message, Origin, Preference, Sample, replace

HERE = Origin("rows.jsonl", 1)
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(lambda text: bool(text.strip()))
names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=5,
)
schemas = st.builds(
    lambda name, properties: {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": {"type": "object", "properties": properties}},
    },
    names, st.dictionaries(names, st.just({"type": "string"}), max_size=3),
)  # fmt: skip


@st.composite
def plain_conversations(draw: st.DrawFn) -> Conversation:
    """System (or none), then question and answer in turn."""
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        turns += [Message("user", draw(texts)), Message("assistant", draw(texts))]
    group = draw(st.none() | names)
    return Conversation(tuple(turns), HERE, (), group)


@st.composite
def rich_conversations(draw: st.DrawFn) -> Conversation:
    """Tools, calls with results, reasoning, loss masks."""
    turns = [Message("system", draw(texts))] if draw(st.booleans()) else []
    masks = st.none() | st.booleans()
    for _ in range(draw(st.integers(1, 3))):
        turns.append(Message("user", draw(texts)))
        if draw(st.booleans()):
            call: dict[str, Any] = {
                "type": "function",
                "function": {"name": draw(names), "arguments": draw(st.dictionaries(names, values, max_size=3))},
            }
            call = {"id": "call_1", **call} if draw(st.booleans()) else call
            turns.append(Message("assistant", "", tool_calls=(call,), train=draw(masks)))
            turns.append(Message("tool", draw(texts), tool_call_id=call.get("id")))
        turns.append(Message("assistant", draw(texts), reasoning=draw(st.none() | texts), train=draw(masks)))
    tools = tuple(draw(st.lists(schemas, max_size=2)))
    return Conversation(tuple(turns), HERE, tools)


def back(row: dict[str, Any], name: str) -> Sample:
    """Through JSON on disk and the sniffer, without a change recorded."""
    row = json.loads(json.dumps(row, ensure_ascii=False))
    fmt = choose(row)
    assert fmt is not None
    assert fmt.name == name
    changes: list[tuple[str, dict[str, Any]]] = []
    sample = fmt.parse(row, HERE, changes)
    assert changes == []
    return sample


@settings(max_examples=80)
@given(plain_conversations())
def test_plain_chats_survive_every_chat_format(sample: Conversation) -> None:
    for name in ("alpaca", "sharegpt", "messages", "prompt_completion"):
        assert back(convert(sample, name), name) == sample


@settings(max_examples=80)
@given(rich_conversations())
def test_tool_calls_reasoning_and_masks_survive_sharegpt_and_messages(sample: Conversation) -> None:
    for name in ("sharegpt", "messages"):
        assert back(convert(sample, name), name) == sample


@settings(max_examples=40)
@given(rich_conversations())
def test_alpaca_holds_all_of_a_chat_or_refuses_it(sample: Conversation) -> None:
    try:
        row = convert(sample, "alpaca")
    except RowError as error:
        assert error.reason == "cannot_hold"
    else:
        assert back(row, "alpaca") == sample


@settings(max_examples=40)
@given(plain_conversations(), texts, texts)
def test_pairs_and_judgements_come_back(sample: Conversation, better: str, worse: str) -> None:
    prompt = sample.messages[:-1]
    if better == worse:
        return
    pair = Preference(prompt, (Message("assistant", better),), (Message("assistant", worse),), HERE, (), sample.group)
    assert back(convert(pair, "preference"), "preference") == pair
    judged = Feedback(sample.messages, better < worse, HERE, (), sample.group)
    assert back(convert(judged, "kto"), "kto") == judged


@settings(max_examples=40)
@given(texts, texts)
def test_labels_and_documents_come_back(text: str, label: str) -> None:
    for sample, name in ((Label(text, label, HERE), "label"), (Document(text, HERE, title=label), "text")):
        assert back(convert(sample, name), name) == sample


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
PLAIN = Conversation((Message("user", "你好"), Message("assistant", "您好")), HERE)


@pytest.mark.parametrize(
    ("sample", "name", "what"),
    [
        (replace(PLAIN, tools=({"type": "function", "function": {"name": "weather"}},)), "alpaca", "tools"),
        (replace(PLAIN, messages=(Message("user", "a"), Message("assistant", "b", train=False))), "alpaca", "train"),
        (replace(PLAIN, messages=(Message("user", "a"), Message("assistant", "b", tool_calls=(CALL,)))), "sharegpt", "text beside a tool call"),
        (replace(PLAIN, messages=(Message("user", "<user>: a <bot>: b <user>: c"), Message("assistant", "d"))), "alpaca", "messages"),
        (Label("好", "1", HERE), "sharegpt", "label"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_an_error_that_says_so(sample: Sample, name: str, what: str) -> None:
    with pytest.raises(RowError) as caught:
        convert(sample, name)
    assert caught.value.reason == "cannot_hold"
    assert what in str(caught.value)


def test_every_format_on_the_shelf_writes_or_refuses_every_kind() -> None:
    kinds: list[Sample] = [PLAIN, Label("好", "1", HERE), Document("文", HERE), Feedback(PLAIN.messages, True, HERE)]
    for name in FORMATS.names():
        for sample in kinds:
            try:
                row = load_format(name).write(sample)
            except RowError as error:
                assert error.reason == "cannot_hold"
            else:
                assert load_format(name).parse(row, HERE, []) == sample


def test_extra_columns_travel_as_tags() -> None:
    fmt = load_format("alpaca")
    sample = fmt.parse({"instruction": "a", "output": "b", "source": "手册", "score": 3}, HERE, [])
    assert sample.tags == {"source": "手册", "score": 3}
    assert convert(sample, "messages")["source"] == "手册"
