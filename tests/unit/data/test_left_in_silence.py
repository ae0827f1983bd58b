"""What used to go without a word: rows inside an object, members of archives, the second of two answers."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.data.containers import path_to_rows, place_of
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation, Sample
from danlu.data.sources import SourceSpec, read

ROWS = [{"question": f"问 {number}?", "answer": f"答 {number}"} for number in range(3)]


def notes(ledger: Ledger) -> dict[str, dict[str, Any]]:
    return {entry.reason: entry.values for entry in ledger.remarks}


def read_all(path: Path, **spec: Any) -> tuple[list[Sample], Ledger]:
    ledger = Ledger()
    return list(read([SourceSpec(path, **spec)], ledger)), ledger


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("wrap", [
    lambda rows: {"data": {"items": rows}},
    lambda rows: {"status": "ok", "page": {"n": [1, 2], "of": {}}, "result": {"data": {"list": rows}}, "more": "]}"},
    lambda rows: {"train": rows, "columns": ["question", "answer"], "info": [{"name": "x"}]},
])  # fmt: skip
def test_the_one_list_of_rows_inside_an_object_is_read_and_said(tmp_path: Path, wrap: Any, indent: int | None) -> None:
    """The file was refused whole, though its rows stood there for all to see."""
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(wrap(ROWS), ensure_ascii=False, indent=indent))
    samples, ledger = read_all(path)
    assert [sample.messages[0].content for sample in samples if isinstance(sample, Conversation)] == [
        row["question"] for row in ROWS
    ]
    assert ledger.num_read == ledger.num_used == 3 and notes(ledger)["note_rows_inside"]["num"] == 3
    lines = [sample.origin.line for sample in samples]
    told = path.read_text().splitlines()
    assert lines == [1, 1, 1] if indent is None else all("{" in told[line - 1] for line in lines) and len({*lines}) == 3


@pytest.mark.parametrize("value", [
    {"train": ROWS, "test": ROWS}, {"data": [1, 2]}, {"data": {"items": []}}, {"items": [{"x": 1}]},
])  # fmt: skip
def test_two_lists_or_none_are_no_obvious_list(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "answer.json"
    path.write_text(json.dumps(value))
    samples, ledger = read_all(path)
    assert not samples and ledger.reasons == {"unknown_columns": 1} and not notes(ledger)


def test_a_row_that_holds_a_list_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}))
    samples, ledger = read_all(path)
    assert len(samples) == 1 and not notes(ledger)


def test_a_broken_row_inside_costs_itself_alone(tmp_path: Path) -> None:
    path = tmp_path / "answer.json"
    path.write_text('{"data": [\n{"question": "a", "answer": "b"},\n{"question": "c", "question": "d", "answer": "e"},\n'
                    '{"question": "", "answer": "x"}, 7]}\n')  # fmt: skip
    samples, ledger = read_all(path)
    assert len(samples) == 1 and ledger.num_read == 4
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [
        (3, "duplicate_key"), (4, "empty_question"), (4, "not_an_object"),
    ]  # fmt: skip


@given(st.recursive(
    st.one_of(st.text(max_size=5), st.integers(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
), st.booleans())  # fmt: skip
def test_the_list_stands_where_it_is_said_to(value: Any, is_indented: bool) -> None:
    whole = {"a": value, "b": {"rows": ROWS}}
    path = path_to_rows(whole, lambda row: "question" in row)
    assert path == ("b", "rows")
    text = json.dumps(whole, indent=1 if is_indented else None)
    place = place_of(text, path)
    assert place is not None and json.loads(text[slice(*place)]) == ROWS
    assert place_of(text[: len(text) // 2], path) is None or json.loads(text[slice(*place)]) == ROWS


def test_hidden_members_and_links_of_archives_are_named(tmp_path: Path) -> None:
    line = json.dumps(ROWS[0]).encode()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("rows.jsonl", ".secret.jsonl", "__MACOSX/rows.jsonl", "b/~$c.docx"):
            archive.writestr(name, line)
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        for name in ("rows.jsonl", ".git/config"):
            info = tarfile.TarInfo(name)
            info.size = len(line)
            tar.addfile(info, io.BytesIO(line))
        link = tarfile.TarInfo("link.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    samples, ledger = read_all(tmp_path / "a.zip")
    assert len(samples) == 1 and notes(ledger)["note_hidden_files"]["num"] == 3
    samples, ledger = read_all(tmp_path / "b.tar")
    assert len(samples) == 1 and notes(ledger)["note_hidden_files"] == {"num": 1, "names": ".git/config"}
    assert notes(ledger)["note_links_inside"] == {"num": 1, "names": "link.jsonl"}


@pytest.mark.parametrize(("row", "used", "left"), [
    ({"instruction": "q", "output": "one", "answer": "two"}, "output", "answer"),
    ({"question": "q", "answer": "one", "output": "two"}, "answer", "output"),
    ({"prompt": "q", "response": "one", "label": True, "target": "two"}, "response", "target"),
])  # fmt: skip
def test_a_second_answer_that_differs_is_named_once(tmp_path: Path, row: dict[str, Any], used: str, left: str) -> None:
    path = tmp_path / "rows.jsonl"
    same = row | {left: row[used]}
    path.write_text("\n".join(map(json.dumps, [same, row, same, row, row])))
    samples, ledger = read_all(path)
    assert len(samples) == 5 and [(entry.reason, entry.values) for entry in ledger.remarks] == [
        ("note_other_answer", {"used": used, "left": left})
    ]
    path.write_text("\n".join(map(json.dumps, [same, same])))
    assert not notes(read_all(path)[1]), "one answer written twice"


def test_letters_of_a_choice_are_no_answers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "q", "A": "x", "B": "y", "answer": "B"}))
    samples, ledger = read_all(path)
    assert len(samples) == 1 and not notes(ledger)
