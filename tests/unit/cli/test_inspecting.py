"""`danlu inspect`: a table whose columns have names of their own, said without writing a recipe first."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli.inspecting import show_inspection, sources_of
from danlu.cli.voice import Voice
from danlu.core.errors import DataError, RecipeError
from danlu.data.ledger import Ledger
from danlu.data.sample import Conversation
from danlu.data.sources import read

ROWS = [
    ["编号", "甲", "乙"],
    [1, "头痛应该挂哪个科？", "请先到内科就诊。"],
    [2, "脚痛应该挂哪个科？", "请到骨科就诊。"],
]


def table(path: Path, rows: list[list[object]]) -> Path:
    import openpyxl

    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_columns_of_any_name_are_given_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "faq.xlsx", ROWS)
    show_inspection(
        sources_of([path], None, ["question=甲", "answer=乙"]), Voice(), base="ember", num_samples=1, context=512
    )
    said = capsys.readouterr().out
    assert "question ← 甲 · answer ← 乙" in said and "头痛应该挂哪个科？" in said


def test_what_is_no_column_and_no_format_is_refused() -> None:
    with pytest.raises(RecipeError, match="names no column"):
        sources_of([Path("a.csv")], None, ["甲"])
    with pytest.raises(DataError, match="no part of a row"):
        sources_of([Path("a.csv")], None, ["frage=甲"])
    with pytest.raises(RecipeError, match="alpaca"):
        sources_of([Path("a.csv")], "alpca", [])
    (plain,) = sources_of([Path("a.csv")], "alpaca", [])
    assert (plain.format, plain.columns) == ("alpaca", None)


def test_a_sheet_of_sentences_that_is_read_as_a_document_says_so(tmp_path: Path) -> None:
    """Sixty questions of a hospital became one document, and nothing was said: CSV told it, XLSX did not."""
    ledger = Ledger()
    (sample,) = read([table(tmp_path / "faq.xlsx", ROWS)], ledger)
    assert not isinstance(sample, Conversation)
    assert any("编号" in note and "columns" in note for note in ledger.notes)
    ledger = Ledger()
    prices = [["品名", "单价"], ["甲型试剂", 12.5], ["乙型试剂", 8]]
    list(read([table(tmp_path / "prices.xlsx", prices)], ledger))
    assert ledger.notes == []


@pytest.mark.parametrize(
    "names", [("患者问题", "标准答复"), ("问题描述", "医生回复"), ("Customer Question", "Agent Reply")]
)
def test_names_that_business_staff_give_to_questions_and_answers(tmp_path: Path, names: tuple[str, str]) -> None:
    path = table(tmp_path / "faq.xlsx", [["门诊问答（内部资料）"], [], ["序号", *names], [1, "头痛？", "内科。"]])
    (sample,) = read([path], Ledger())
    assert isinstance(sample, Conversation) and [m.content for m in sample.messages] == ["头痛？", "内科。"]


def test_the_folder_of_all_files_stands_once_and_no_file_is_left_out_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At eighty columns `data/behaviour.js` and `onl` were two lines of a table; the sixty-first file was nowhere."""
    folder = tmp_path / "a-long-name-of-a-folder"
    folder.mkdir()
    for number in range(62):
        (folder / f"f{number:02}.jsonl").write_text('{"question": "a?", "answer": "b"}\n', "utf-8")
    show_inspection(sources_of([folder], None, []), Voice(), base="ember", num_samples=0, context=512)
    lines = capsys.readouterr().out.splitlines()
    assert sum(str(folder) in line for line in lines) == 1
    assert any("f59.jsonl" in line for line in lines) and any("2 more" in line for line in lines)
    monkeypatch.setenv("COLUMNS", "400")  # the way from here to there may be long
    apart = [folder / "f00.jsonl", Path(os.path.relpath(folder / "f01.jsonl"))]
    show_inspection(sources_of(apart, None, []), Voice(), base="ember", num_samples=0, context=512)
    assert "f01.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["-", "/dev/stdin"])
def test_a_pipe_is_told_to_be_put_into_a_file_first(given: str) -> None:
    """`cat rows | danlu inspect /dev/stdin` was answered: there is no such file, did you mean /dev/stdin?"""
    done = subprocess.run([sys.executable, "-m", "danlu", "inspect", given, "--json"], input=b'{"text": "a"}\n',
                          capture_output=True, check=False)  # fmt: skip
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 2 and told["error"] == "data.no_plain_file" and "rows.jsonl" in told["fix"]
