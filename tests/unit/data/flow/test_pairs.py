"""Rows of a question and an answer go a short way: what it gives is what the general way gives, bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from danlu.data.cleaners.cleaner import Batch
from danlu.data.flow.codec import pack_content, pack_pair
from danlu.data.flow.folds import Folds
from danlu.data.joined import Texts
from danlu.data.json_values import _BEHIND_KEYS, count_behind_keys
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Document, Message, Origin, Sample, replace
from danlu.data.sources import read
from danlu.data.texts import is_pair, texts_of, with_tags
from danlu.data.twins import signatures

SHARED = Path("../shared/data")
REAL = (
    "instruct/alpaca_zh_en_12k.jsonl.gz",
    "instruct/alpaca_zh_demo.json.gz",
    "medical_qa",
    "finance_qa",
    "reviews_en",
)
TROUBLE = 'ab12９+-#%.…， ：\n\t_Ａ好\u0301ß①½😀👍🏽𠀀🄰٣각ﾞﬁ\u200b\ud83d\ude00\ud840臺灣\x00"'
WORDS = st.text(st.sampled_from(TROUBLE), max_size=14) | st.text(max_size=8)
HERE = Origin("rows.jsonl", 1)


def chat(asked: str, answered: str) -> Conversation:
    return Conversation((Message("user", asked), Message("assistant", answered)), HERE)


PAIRS = st.builds(chat, WORDS, WORDS)


def test_a_pair_has_nothing_but_its_two_texts() -> None:
    plain = chat("q", "a")
    asked, answered = plain.messages
    assert is_pair(plain) and is_pair(replace(plain, group="g", tags={"level": "public"}))
    others: list[Sample | None] = [
        None,
        Document("q", HERE),
        replace(plain, messages=(answered, asked)),
        replace(plain, messages=(asked,)),
        replace(plain, messages=(asked, answered, asked)),
        replace(plain, tools=({"name": "f"},)),
    ]
    more = {"name": "x", "reasoning": "", "tool_calls": ({"name": "f"},), "tool_call_id": "", "train": False}
    for field, value in more.items():
        others += [replace(plain, messages=(replace(asked, **{field: value}), answered)),
                   replace(plain, messages=(asked, replace(answered, **{field: value})))]  # fmt: skip
    assert not any(map(is_pair, others))


@given(WORDS, WORDS)
def test_pairs_are_packed_like_any_row(asked: str, answered: str) -> None:
    packed = pack_pair(asked, answered)
    try:
        orjson.dumps([asked, answered])
    except TypeError:
        assert packed is None
    else:
        assert packed == pack_content(chat(asked, answered))


@given(st.lists(st.lists(PAIRS | st.none() | st.booleans(), max_size=5), max_size=2))
@example([[chat("甲" * 60, "乙1.5" * 80), None, chat("!", ""), True]])
def test_folds_of_pages_are_those_of_texts(pages: list[list[Conversation | bool | None]]) -> None:
    """None: dropped by a stage, True: changed by one, False: flagged by one."""
    assert_signed_alike([change for page in pages for change in page])


def assert_signed_alike(changes: list[Conversation | bool | None]) -> None:
    pytest.importorskip("numba", reason="the loops are optional")
    rows = [change if isinstance(change, Conversation) else chat("问 12", "答") for change in changes]
    texts = Texts(rows)
    for page in texts.pages():
        batch = Batch(rows[page.rows.start : page.rows.stop], page, are_pairs=texts.are_pairs(page), quick=True)
        plain = Batch(batch.samples, quick=False)
        assert (batch.asked, batch.body) == (plain.asked, plain.body)
        assert (batch.words.units == plain.words.units).all() and (batch.words.at == plain.words.at).all()
    for row, change in enumerate(changes):
        if not isinstance(change, Conversation):
            fresh = chat("改 1.5 and more\n", "９９% 好") if change else with_tags(rows[row], {"flags": ["x"]})
            texts.put(row, None if change is None else fresh)
    alive, folds = texts.alive(), Folds(texts)
    plain_columns, columns = signatures(alive, quick=False), signatures(alive, folds=folds, quick=True)
    for name, column in plain_columns.items():
        assert column.dtype == columns[name].dtype and np.array_equal(column, columns[name]), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
@pytest.mark.parametrize("name", REAL)
def test_real_rows_are_signed_and_packed_alike(name: str) -> None:
    rows = [sample for sample in read([SHARED / name], Ledger()) if is_pair(sample)]
    assert len(rows) > 300
    assert_signed_alike([row if at % 97 else (None, True, False)[at % 3] for at, row in enumerate(rows)])
    for row in rows:
        asked, answered = texts_of(row)
        assert pack_pair(asked, answered) == pack_content(row)


@given(st.lists(st.dictionaries(WORDS | st.sampled_from(['a":', "b :", ":"]), WORDS, max_size=3), min_size=1))
def test_colons_of_keys_are_counted_line_by_line(rows: list[dict[str, str]]) -> None:
    lines = [json.dumps(row, separators=(", ", " : " if at % 2 else ":")).encode() for at, row in enumerate(rows)]
    assert count_behind_keys(lines) == [sum(map(line.count, _BEHIND_KEYS)) for line in lines]


def test_nothing_is_counted_of_blank_lines() -> None:
    assert count_behind_keys([b"", b'{"a":1,"b" :2}', b"", b'{"a\\":":1}']) == [0, 2, 0, 2]
