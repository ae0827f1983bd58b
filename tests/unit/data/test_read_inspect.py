"""The JSON of `danlu inspect`, the rejects file and the threshold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import DataError
from danlu.core.messages import set_language
from danlu.data.inspect import inspect
from danlu.data.ledger import Ledger
from danlu.data.rejects import check_threshold, write_rejects
from danlu.data.sources import read


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    good = json.dumps({"instruction": "问", "output": "答"}, ensure_ascii=False)
    bad = json.dumps({"instruction": "问", "output": ""}, ensure_ascii=False)
    (tmp_path / "a.jsonl").write_text(f"{good}\n{good}\n{bad}\n", encoding="utf-8")
    (tmp_path / "b.csv").write_bytes("评论,标签\n味道很好,1\n太慢了,0\n".encode("gb18030"))
    return tmp_path


def test_the_contract_that_scripts_rely_on(mixed: Path) -> None:
    facts = inspect([mixed])
    assert {"format", "encoding", "rows", "rejects"} <= set(facts)
    assert facts["rows"] == {"read": 5, "used": 4, "changed": 0, "rejected": 1}
    assert set(facts["rejects"][0]) >= {"file", "line", "reason"}
    assert facts["rejects"][0]["file"].endswith("a.jsonl")
    assert facts["rejects"][0]["line"] == 3
    assert facts["format"] == facts["encoding"] == "mixed"
    assert json.loads(json.dumps(facts)) == facts


def test_facts_of_each_file_and_of_all(mixed: Path) -> None:
    facts = inspect([mixed])
    first, second = facts["files"]
    assert (first["format"], first["container"], first["encoding"]) == ("alpaca", "json", "utf-8")
    assert (second["format"], second["container"], second["encoding"]) == ("label", "csv", "gb18030")
    assert first["columns"] == {"instruction": "instruction", "output": "output", "answer": "output"}
    assert second["columns"] == {"text": "评论", "label": "标签"}
    assert facts["kinds"] == {"conversation": 2, "label": 2}
    assert facts["duplicates"] == 1
    assert sum(bar["rows"] for bar in facts["lengths"]["histogram"]) == 4
    assert facts["samples"][0]["messages"][1] == {"role": "assistant", "content": "答"}


def test_one_format_and_encoding_are_said_plainly(mixed: Path) -> None:
    facts = inspect([mixed / "b.csv"], show=lambda sample: f"<{sample.kind}>", num_samples=1)
    assert (facts["format"], facts["encoding"]) == ("label", "gb18030")
    assert facts["samples"][0]["rendered"] == "<label>"


def test_nothing_usable_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("", encoding="utf-8")
    facts = inspect([tmp_path / "x.jsonl"])
    assert facts["usable"] is False
    assert facts["rows"]["read"] == facts["rows"]["rejected"] == 1


def accounted(path: Path) -> Ledger:
    ledger = Ledger()
    list(read([path], ledger))
    return ledger


def test_rejected_rows_go_to_a_file_as_they_stood(mixed: Path, tmp_path: Path) -> None:
    write_rejects(accounted(mixed / "a.jsonl"), tmp_path / "out" / "rejects.jsonl")
    lines = (tmp_path / "out" / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    entry: dict[str, Any] = json.loads(lines[0])
    assert (entry["line"], entry["code"], json.loads(entry["row"])["output"]) == (3, "empty_answer", "")
    write_rejects(accounted(mixed / "b.csv"), tmp_path / "none.jsonl")
    assert (tmp_path / "none.jsonl").read_bytes() == b""


def test_a_run_stops_above_the_threshold_and_says_why(mixed: Path) -> None:
    ledger = accounted(mixed / "a.jsonl")
    check_threshold(ledger, 0.34)
    set_language("en")
    with pytest.raises(DataError, match=r"1 of 3 rows \(33\.3%\)") as caught:
        check_threshold(ledger, 0.05, "runs/1/rejects.jsonl")
    set_language(None)
    assert "a.jsonl:3" in caught.value.values["reasons"]
    assert caught.value.values["rejects_file"] == "runs/1/rejects.jsonl"


def test_nothing_usable_stops_whatever_the_threshold(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        check_threshold(accounted(tmp_path / "x.jsonl"), 1.0)
    assert caught.value.key == "data.no_usable_rows"
