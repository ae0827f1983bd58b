"""CSV as spreadsheets, databases and people write it. A lone quote once swallowed the rest of a file: never again."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.ledger import Ledger
from danlu.data.sources import FileReport, SourceSpec, read


def read_csv(tmp_path: Path, text: str, name: str = "rows.csv") -> tuple[list[tuple[str, ...]], Ledger]:
    (tmp_path / name).write_bytes(text.encode())
    ledger = Ledger()
    rows = [tuple(m.content for m in sample.messages) for sample in read([tmp_path / name], ledger)]
    ledger.check()
    return rows, ledger


HEAD = "question,answer\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_sniffed(tmp_path: Path, delimiter: str) -> None:
    lines = ["问题,答案", "多少钱？,八十元", "几天？,三天"]
    rows, _ = read_csv(tmp_path, "\n".join(lines).replace(",", delimiter))
    assert rows == [("多少钱？", "八十元"), ("几天？", "三天")]


def test_quoted_cells_hold_delimiters_quotes_and_line_breaks(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + '"a, ""b""\nc",d\ne,"f\r\ng"\n')
    assert rows == [('a, "b"\nc', "d"), ("e", "f\ng")]
    assert not ledger.changes


def test_a_quote_that_is_never_closed_costs_one_line_only(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + 'a,b\n"c,d\ne,f\n' + "g,h\n" * 50)
    assert rows == [("a", "b"), ("e", "f")] + [("g", "h")] * 50
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(3, "unbalanced_quote")]


def test_an_open_quote_does_not_swallow_up_to_the_next_quoted_cell(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + 'a,"b\nc,d\ne,"f, g"\nh,i\n')
    assert rows == [("c", "d"), ("e", "f, g"), ("h", "i")]
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(2, "unbalanced_quote")]


def test_ragged_rows_are_refused_by_line(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + "a,b\nc\nd,e,f\ng,h,,\n")
    assert rows == [("a", "b"), ("g", "h")]
    assert [(entry.line, entry.values["found"]) for entry in ledger.rejects] == [(3, 1), (4, 3)]


def test_a_quote_inside_a_quoted_cell_that_was_not_doubled(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + '"she said "hi" to me",ok\n')
    assert rows == [('she said "hi" to me', "ok")]
    assert ledger.changes[0].reason == "stray_quote"


def test_inches_keep_their_mark(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD + 'how big?,a monitor of 27"\n')
    assert rows == [("how big?", 'a monitor of 27"')]
    assert not ledger.changes


def test_quotes_in_tab_separated_text_are_text(tmp_path: Path) -> None:
    rows, _ = read_csv(tmp_path, 'question\tanswer\n"a\tb "c"\n"d"\te\n', "rows.tsv")
    assert rows == [('"a', 'b "c"'), ("d", "e")]


def test_a_table_without_header_says_what_it_took_for_what(tmp_path: Path) -> None:
    rows, ledger = read_csv(
        tmp_path, "出差一天补贴多少钱？,每天八十元人民币。\n住宿标准上限是多少？,北京五百元一晚。\n"
    )
    assert rows[0] == ("出差一天补贴多少钱？", "每天八十元人民币。")
    assert len(ledger.notes) == 1


def test_labels_without_header(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("".join(f"{i % 2},这家店的味道真的很不错{i}\n" for i in range(12)), encoding="utf-8")
    labels = list(read([path], Ledger()))
    assert [(label.label, label.text[:2]) for label in labels[:2]] == [("0", "这家"), ("1", "这家")]


def test_columns_that_fit_nothing_are_a_table_and_a_note_says_so(tmp_path: Path) -> None:
    path = tmp_path / "名册.csv"
    path.write_text("姓名,工号,备注\n张三,001,\n李四,002,a|b,多\n", encoding="gb18030")
    ledger = Ledger()
    (table,) = read([path], ledger)
    assert (
        table.text
        == "| 姓名 | 工号 | 备注 |  |\n| --- | --- | --- | --- |\n| 张三 | 001 |  |  |\n| 李四 | 002 | a\\|b | 多 |"
    )
    assert (table.title, table.origin.document is not None) == ("名册", True)
    assert "姓名, 工号, 备注" in ledger.notes[0]


def test_columns_that_the_user_named_stay_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("姓名,工号\n张三,001\n", encoding="utf-8")
    ledger = Ledger()
    assert list(read([SourceSpec(path, columns={"question": "问"})], ledger)) == []
    assert ledger.rejects[0].reason == "named_column_missing"


def test_a_long_table_comes_in_pieces_under_the_same_head(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("编号,名称\n" + "".join(f"{n},物{n}\n" for n in range(12_000)) + '9,"坏\n', encoding="utf-8")
    ledger = Ledger()
    found = list(read([path], ledger))
    assert [piece.origin.line for piece in found] == [1, 5001, 10001]
    assert all(piece.text.startswith("| 编号 | 名称 |\n| --- | --- |\n") for piece in found)
    assert sum(piece.text.count("物") for piece in found) == 12_000
    assert [entry.reason for entry in ledger.rejects] == ["unbalanced_quote"]


cells = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\x00\ufeff", exclude_categories=["Cc", "Cs", "Cf"]),
    min_size=1,
    max_size=20,
)
cells = (cells | cells.map(lambda cell: f'{cell}"\n,{cell}')).filter(lambda cell: bool(cell.strip()))


@settings(max_examples=100)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_whatever_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("question", "answer"), *rows])
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_bytes(buffer.getvalue().encode())
    ledger = Ledger()
    reports: list[FileReport] = []
    back = [tuple(m.content for m in sample.messages) for sample in read([path], ledger, reports=reports)]
    assert ledger.rejects == []
    if not ledger.changes:
        assert back == rows


def test_excel_unicode_text_is_a_table_under_a_txt_name(tmp_path: Path) -> None:
    path = tmp_path / "导出.txt"
    path.write_text("问题\t答案\r\n几天？\t三天\r\n多少？\t八十\r\n", encoding="utf-16", newline="")
    rows = [tuple(m.content for m in sample.messages) for sample in read([path], Ledger())]
    assert rows == [("几天？", "三天"), ("多少？", "八十")]


def test_a_header_alone_is_accounted_for(tmp_path: Path) -> None:
    rows, ledger = read_csv(tmp_path, HEAD)
    assert rows == []
    assert ledger.rejects[0].reason == "no_rows"
