"""Files as companies have them: every compression, encoding and container; folders and globs; the user's own columns."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zstandard

from danlu.core.errors import DataError, RecipeError
from danlu.core.files import dump_json
from danlu.data.ledger import Ledger
from danlu.data.rejects import write_rejects
from danlu.data.sources import FileReport, SourceSpec, read

ROWS = [{"问题": f"第{number}条怎么报销？", "答案": f"每天{number * 10}元。"} for number in range(1, 6)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
EXPECTED = [(row["问题"], row["答案"]) for row in ROWS]


def pairs(*paths: Any) -> tuple[list[tuple[str, str]], Ledger, list[FileReport]]:
    ledger, reports = Ledger(), []
    samples = list(read(paths, ledger, reports=reports))
    ledger.check()
    return [tuple(message.content for message in sample.messages) for sample in samples], ledger, reports


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("gb18030", "gb18030"), ("utf-16", "utf-16-le"),
        ("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("utf-32", "utf-32-le"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("shape", ["jsonl", "json", "csv", "txt"])
def test_every_encoding_and_line_ending_in_every_text_container(
    tmp_path: Path, encoding: str, name: str, ending: str, shape: str
) -> None:
    text = {
        "jsonl": LINES, "txt": LINES, "json": json.dumps(ROWS, ensure_ascii=False, indent=1),
        "csv": "问题,答案\n" + "".join(f"{row['问题']},{row['答案']}\n" for row in ROWS),
    }[shape]  # fmt: skip
    path = tmp_path / f"qa.{shape}"
    path.write_bytes(text.replace("\n", ending).encode(encoding))
    found, ledger, reports = pairs(path)
    assert found == EXPECTED
    assert reports[0].encoding == name
    assert ledger.num_changed == 0


COMPRESS = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("name", ["qa.jsonl", "qa.jsonl.gz", "qa", "qa.csv"])
def test_compression_is_known_by_content_even_when_the_name_lies(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(COMPRESS[kind](LINES.encode()))
    found, _, reports = pairs(tmp_path / name)
    assert found == EXPECTED
    assert reports[0].compression == kind


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_cut_archive_gives_the_rows_before_the_cut_and_says_so(tmp_path: Path, kind: str) -> None:
    content = COMPRESS[kind](
        "".join(json.dumps({"q": f"{i * 7919 % 10007}", "a": f"{i}"}) + "\n" for i in range(20000)).encode()
    )
    (tmp_path / "qa.jsonl").write_bytes(content[: len(content) // 2])
    found, ledger, _ = pairs(tmp_path / "qa.jsonl")
    assert Counter(entry.reason for entry in ledger.rejects) == {"compressed_cut": 1}
    assert found == [(f"{i * 7919 % 10007}", f"{i}") for i in range(len(found))]
    assert kind == "bzip2" or found


def test_two_gzip_streams_in_one_file_are_both_read(tmp_path: Path) -> None:
    (tmp_path / "qa.gz").write_bytes(gzip.compress(LINES.encode()) * 2)
    assert pairs(tmp_path / "qa.gz")[0] == EXPECTED * 2


def test_xlsx_rows_with_numbers_dates_and_a_title_above_the_header(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    for row in (
        ["常见问题汇总"],
        [],
        ["编号", "问题", "答案"],
        [1, "几天？", 80],
        [2, "多少？", 80.5],
        [3, None, "无"],
    ):
        sheet.append(row)
    notes = book.create_sheet("补贴标准")
    for row in (["城市", "上限"], ["北京", 500.0], ["上海|浦东", 450]):
        notes.append(row)
    book.save(tmp_path / "faq.xlsx")
    ledger = Ledger()
    samples = list(read([tmp_path / "faq.xlsx"], ledger))
    assert [m.content for s in samples[:2] for m in s.messages] == ["几天？", "80", "多少？", "80.5"]
    assert samples[2].text == "# 补贴标准\n\n| 城市 | 上限 |\n| --- | --- |\n| 北京 | 500 |\n| 上海\\|浦东 | 450 |"
    assert [(entry.reason, entry.line) for entry in ledger.rejects] == [("empty_question", 6)]
    assert samples[0].origin.line == 4
    assert samples[0].origin.file.endswith("faq.xlsx#Sheet")


def workbook(path: Path, cells: dict[str, Any]) -> Ledger:
    import openpyxl

    book = openpyxl.Workbook()
    for place, value in cells.items():
        book.active[place] = value
    book.save(path)
    return Ledger()


def test_a_title_above_a_sheet_is_text_and_empty_columns_go(tmp_path: Path) -> None:
    ledger = workbook(tmp_path / "a.xlsx", {"A1": "补贴一览", "A3": "城市", "C3": "上限", "A4": "北京", "C4": 500})
    (table,) = read([tmp_path / "a.xlsx"], ledger)
    assert table.text == "# Sheet\n\n补贴一览\n\n| 城市 | 上限 |\n| --- | --- |\n| 北京 | 500 |"


def test_a_cell_at_the_end_of_the_world_costs_nothing(tmp_path: Path) -> None:
    """A single value in XFD1048576 made readers fill sixteen thousand million cells."""
    ledger = workbook(tmp_path / "a.xlsx", {"A1": "城市", "B1": "上限", "XFD1048576": "远"})
    (table,) = read([tmp_path / "a.xlsx"], ledger)
    assert table.text.endswith("|  |  | 远 |")


def test_a_sheet_that_fills_the_world_is_cut_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.data.sources import xlsx

    monkeypatch.setattr(xlsx, "MAX_CELLS", 50_000)
    ledger = workbook(tmp_path / "a.xlsx", {f"XFD{row}": "远" for row in range(1, 9)})
    found = list(read([tmp_path / "a.xlsx"], ledger))
    assert len(found) == 1
    assert [(entry.reason, entry.line) for entry in ledger.rejects] == [("table_too_large", 4)]


def test_formulas_that_nobody_computed_are_told_of(tmp_path: Path) -> None:
    ledger = workbook(tmp_path / "a.xlsx", {"A1": "项目", "B1": "金额", "A2": "合计", "B2": "=1+1"})
    assert len(list(read([tmp_path / "a.xlsx"], ledger))) == 1
    assert "1" in ledger.notes[0].rpartition("a.xlsx")[2]


def test_an_empty_workbook_is_refused(tmp_path: Path) -> None:
    ledger = workbook(tmp_path / "a.xlsx", {})
    assert list(read([tmp_path / "a.xlsx"], ledger)) == []
    assert [entry.reason for entry in ledger.rejects] == ["no_text"]


def test_parquet_with_nested_messages(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in EXPECTED]
    pq.write_table(pa.table({"messages": chats}), tmp_path / "chats.parquet")
    assert pairs(tmp_path / "chats.parquet")[0] == EXPECTED


def test_a_folder_is_walked_in_a_stable_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.jsonl", "a/1.jsonl", "c.txt", ".git/x.jsonl", "a/.hidden.jsonl", "~$lock.docx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINES, encoding="utf-8")
    _, _, reports = pairs(tmp_path)
    assert [Path(report.file).relative_to(tmp_path).as_posix() for report in reports] == [
        "a/1.jsonl",
        "b/2.jsonl",
        "c.txt",
    ]
    again = pairs(tmp_path / "c.txt", tmp_path)[2]
    assert len(again) == 3, "a file reached twice is read once"


def test_globs(tmp_path: Path) -> None:
    for name in ("a/1.jsonl", "b/2.jsonl", "b/3.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(LINES, encoding="utf-8")
    assert len(pairs(f"{tmp_path}/**/*.jsonl")[2]) == 2
    assert len(pairs(f"{tmp_path}/[ab]")[2]) == 3
    with pytest.raises(DataError, match=r"\*\.csv"):
        pairs(f"{tmp_path}/*.csv")


def test_a_path_that_does_not_exist_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "policies.jsonl").write_text(LINES, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        pairs(tmp_path / "polices.jsonl")
    assert str(tmp_path / "policies.jsonl") in str(caught.value.values["hint"])


def test_columns_the_user_names_win_over_sniffing(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text("标题,用户原话,坐席话术,答案\n报销,怎么报销？,按制度。,内部\n", encoding="utf-8")
    spec = SourceSpec(path, columns={"question": "用户原话", "answer": "坐席话术"})
    found, _, reports = pairs(spec)
    assert found == [("怎么报销？", "按制度。")]
    assert reports[0].columns == {"question": "用户原话", "answer": "坐席话术"}
    missing = pairs(SourceSpec(path, columns={"question": "没有这列", "answer": "坐席话术"}))[1]
    assert missing.rejects[0].reason == "named_column_missing"
    with pytest.raises(DataError) as caught:
        SourceSpec(path, columns={"qestion": "用户原话"})
    assert caught.value.values["nearest"] == "question"


def test_an_explicit_format_decides(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "很好", "label": 1}\n', encoding="utf-8")
    assert next(read([path], Ledger())).kind == "label"
    assert next(read([SourceSpec(path, format="text")], Ledger())).kind == "document"
    with pytest.raises(RecipeError) as caught:
        pairs(SourceSpec(path, format="alpacca"))
    assert caught.value.values["nearest"] == "alpaca"


def test_a_file_format_can_be_told_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.dat"
    path.write_text("text;label\n很好，下次再来;1\n太差，不会再来;0\n", encoding="utf-8")
    assert [sample.kind for sample in read([SourceSpec(path, format="csv")], Ledger())] == ["label", "label"]


def test_a_document_of_unknown_bytes_is_refused_and_never_garbled(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("正常的一行\n".encode() + b"\xff\xfe\xfd\x81\x20 broken\n" * 3)
    ledger = Ledger()
    assert list(read([path], ledger)) == []
    assert ledger.rejects[0].reason == "undecodable"
    assert "\\xff" in ledger.rejects[0].raw


def test_accents_of_windows_1252_are_read_and_told(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    good = '{"q": "plain", "a": "ascii"}\n{"q": "naïve", "a": "utf-8 ✓"}\n'.encode()
    path.write_bytes(good + '{"q": "café", "a": "crème brûlée"}\n'.encode("cp1252"))
    found, ledger, reports = pairs(path)
    assert found[2] == ("café", "crème brûlée")
    assert ledger.changes[0].values == {"encoding": "windows-1252"}
    assert reports[0].encoding == "mixed"


def test_a_big_text_comes_in_pieces_of_one_group(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text(("天" * 999 + "\n\n") * 10_000, encoding="utf-8")
    documents = list(read([path], Ledger()))
    assert len(documents) == 3
    assert {document.group for document in documents} == {path.as_posix()}
    assert sum(document.text.count("天") for document in documents) == 9_990_000
    assert documents[1].origin.line > 1


def test_a_file_name_in_gb18030_bytes_can_be_written_down(tmp_path: Path) -> None:
    try:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + "制度.jsonl".encode("gb18030")))
        path.write_text('{"x": 1}\n', encoding="utf-8")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 names only")
    _, ledger, reports = pairs(tmp_path)
    assert reports[0].file.endswith("制度.jsonl")
    write_rejects(ledger, tmp_path / "out.jsonl")


def test_excerpts_of_half_surrogates_can_be_written_down(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"\\ud800": 1, "\\ud800": 2}\n{"a": "\\ud800", "b": 1', encoding="utf-8")
    _, ledger, _ = pairs(tmp_path / "x.jsonl")
    assert [entry.reason for entry in ledger.rejects] == ["duplicate_key", "json_cut"]
    write_rejects(ledger, tmp_path / "out.jsonl")
    dump_json(ledger.to_json())


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "gone.jsonl")
    (tmp_path / "y.jsonl").write_text(LINES, encoding="utf-8")
    assert pairs(tmp_path)[0] == EXPECTED
    with pytest.raises(DataError):
        pairs(tmp_path / "x.jsonl")
