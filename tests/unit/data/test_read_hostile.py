"""Rows that break a quick way: keys twice in escapes, thousands of keys, numbers that JSON cannot hold, deep nesting."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from danlu.data.flow.codec import pack_content, unpack
from danlu.data.flow.kept import keep, open_kept
from danlu.data.flow.piece import Piece, Row
from danlu.data.flow.store import Store
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Sample
from danlu.data.sources import read
from danlu.data.twins import signatures

FIRST = '{"question": "q?", "answer": "a:b"}'
NUMBER = 12345678901234567890123


def rows_of(tmp_path: Path, *lines: str) -> tuple[list[Sample], Ledger]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    ledger = Ledger()
    return list(read([path], ledger)), ledger


@pytest.mark.parametrize("again", ['"answer"', '"\\u0061nswer"', '"ans\\u0077er"'])
def test_a_key_given_twice_is_found_in_whatever_letters(tmp_path: Path, again: str) -> None:
    rows, ledger = rows_of(tmp_path, FIRST, f'{{"question": "q: ?", "answer": "a", {again}: "b"}}', FIRST)
    assert len(rows) == 2
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(2, "duplicate_key")]


def test_escapes_in_texts_are_no_reason_to_refuse(tmp_path: Path) -> None:
    told = {"question": 'say {"a": 1, "a": "\\u0061"}: \n', "answer": '"b": \\ "c\u4e2d"'}
    rows, ledger = rows_of(tmp_path, FIRST, json.dumps(told), json.dumps(told, ensure_ascii=False))
    assert not ledger.rejects
    assert [one.messages[0].content for one in rows[1:] if isinstance(one, Conversation)] == [told["question"]] * 2


def test_thousands_of_keys_are_not_sought_one_by_one(tmp_path: Path) -> None:
    wide = {"question": "q?", "answer": "a: b", **{f"k{number}": "v" * 100 for number in range(12_000)}}
    begin = time.process_time()
    rows, ledger = rows_of(tmp_path, FIRST, json.dumps(wide), json.dumps(wide)[:-1] + ', "k7": "w"}')
    assert time.process_time() - begin < 10, "each of the keys is sought in all of the row: half a minute"
    assert len(rows) == 2
    assert [entry.reason for entry in ledger.rejects] == ["duplicate_key"]


@pytest.mark.parametrize("depth", [900, 1000, 1023, 5000])
def test_deep_nesting_costs_its_row_at_most(tmp_path: Path, depth: int) -> None:
    deep = f'{{"question": "q", "answer": "a", "x": {"[" * depth}{"]" * depth}}}'
    shallow = '{"question": "q", "answer": "a", "x": []}'
    for lines in ((deep, deep, shallow), (shallow, deep, shallow)):
        rows, ledger = rows_of(tmp_path, *lines)
        assert len(rows) + len(ledger.rejects) == 3
        assert lines[-1] == shallow and len(rows) >= lines.count(shallow)


def called(arguments: str) -> str:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "", "tool_calls": []},
             {"role": "tool", "content": "ok"}, {"role": "assistant", "content": "done"}]  # fmt: skip
    calls = f'[{{"name": "pay", "arguments": {arguments}}}]'
    return f'{{"messages": {json.dumps(turns)}, "score": NaN}}'.replace("[]", calls)


@pytest.mark.parametrize("score", ["NaN", "0.5"])
def test_numbers_in_calls_stay_what_they_are(tmp_path: Path, score: str) -> None:
    """An account of 23 digits became 1.2e22, or ended the whole reading; NaN became null in the store."""
    line = called(f'{{"account": {NUMBER}, "rate": {score}}}').replace("NaN}", score + "}")
    (sample,), _ = rows_of(tmp_path, line)
    assert isinstance(sample, Conversation)
    assert sample.messages[1].tool_calls[0]["function"]["arguments"]["account"] == NUMBER
    columns = signatures([sample, *rows_of(tmp_path, line.replace(str(NUMBER), str(NUMBER + 1)))[0]])
    assert columns["exact"][0].tolist() != columns["exact"][1].tolist()
    packed, name = pack_content(sample)
    back = unpack(packed, sample.origin, None, dict(sample.tags))
    assert repr(back) == repr(sample) and pack_content(back) == (packed, name)
    assert (math.nan if score == "NaN" else 0.5) == pytest.approx(_rate(back), nan_ok=True)


def _rate(sample: Any) -> float:
    found: float = sample.messages[1].tool_calls[0]["function"]["arguments"]["rate"]
    return found


def test_tags_that_json_cannot_hold_stay_with_the_run(tmp_path: Path) -> None:
    (sample,), _ = rows_of(tmp_path, f'{{"question": "q", "answer": "a", "account": {NUMBER}, "score": NaN}}')
    assert sample.tags["account"] == NUMBER
    piece = Piece([Row(sample, sample.origin, "s_1")], {})
    keep(tmp_path / "run", [piece], {}, "")
    kept = open_kept(tmp_path / "run", Store(tmp_path / "store"))
    assert kept is not None
    ((_, row),) = kept.rows()
    assert row.sample is not None and repr(row.sample.tags) == repr(sample.tags)
