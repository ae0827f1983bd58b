"""Broken, cut and hostile bytes: `read` raises nothing but our own errors, and the account is kept."""

from __future__ import annotations

import gzip
import io
import json
import random
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.core.errors import DanluError
from danlu.data.ledger import Ledger
from danlu.data.sources import read

SUFFIXES = [
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".md",
    ".html",
    ".xlsx",
    ".docx",
    ".pdf",
    ".parquet",
    ".jsonl.gz",
    ".pptx",
    ".epub",
    ".eml",
    ".mbox",
    ".zip",
    ".tar",
    ".png",
    "",
]


def account(path: Path, content: bytes) -> Ledger:
    path.write_bytes(content)
    ledger = Ledger()
    try:
        num_samples = sum(1 for _ in read([path], ledger))
    except DanluError:
        return ledger
    ledger.check()
    assert ledger.num_read > 0, "a file went by without a word"
    assert num_samples == ledger.num_used
    assert all(str(entry) for entry in (*ledger.rejects, *ledger.changes))
    return ledger


@settings(max_examples=150)
@given(st.binary(max_size=400), st.sampled_from(SUFFIXES))
def test_random_bytes(tmp_path: Path, content: bytes, suffix: str) -> None:
    account(tmp_path / f"file{suffix}", content)


pieces = st.sampled_from(['{"q": "a", "a": "b"}', "[", "]", "{", "}", ",", '"', "'", "\\", "\n", ":", "null", "//", "\ufeff", "\x00",
                          "问题,答案\n", "a;b\n", "\ud800", "\\ud83d", '"a', 'b"', "\t", "|", "<html>", "锟斤拷", "1e999", "用"])  # fmt: skip


@settings(max_examples=250)
@given(st.lists(pieces, max_size=40), st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".html"]),
       st.sampled_from(["utf-8", "gb18030", "utf-16", "utf-16-be"]))  # fmt: skip
def test_pieces_of_syntax_in_any_order(tmp_path: Path, parts: list[str], suffix: str, encoding: str) -> None:
    account(tmp_path / f"file{suffix}", "".join(parts).encode(encoding, "ignore"))


def good_files() -> dict[str, bytes]:
    import docx
    import openpyxl
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": f"问{i}", "answer": "答" * i} for i in range(1, 30)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    document, word = docx.Document(), io.BytesIO()
    document.add_heading("差旅制度", 1)
    document.add_paragraph("每天八十元。")
    document.add_table(2, 2)
    document.save(word)
    book, sheet = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(list(row.values()))
    book.save(sheet)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    return {
        "a.jsonl": lines, "a.json": json.dumps(rows, indent=1).encode(), "a.jsonl.gz": gzip.compress(lines),
        "gb.csv": "问题,答案\n".encode("gb18030") + "".join(f'"问{i}",答\n' for i in range(30)).encode("gb18030"),
        "w.docx": word.getvalue(), "b.xlsx": sheet.getvalue(), "t.parquet": table.getvalue(),
        "p.html": "<html><body><h1>制度</h1><table><tr><td>一</td></tr></table></body></html>".encode(),
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(good_files()))
def test_good_files_cut_and_with_flipped_bits(tmp_path: Path, name: str) -> None:
    content = good_files()[name]
    assert account(tmp_path / name, content).num_used > 0
    dice = random.Random(7)
    for _ in range(25):
        damaged = bytearray(content[: dice.randrange(1, len(content))] if dice.random() < 0.5 else content)
        for _ in range(dice.choice([0, 1, 8])):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        account(tmp_path / name, bytes(damaged))


def test_a_zip_bomb_inside_a_workbook_is_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"<x/>" + b" " * (8 << 20))
    ledger = account(tmp_path / "bomb.xlsx", bomb.getvalue())
    assert ledger.num_used == 0
    assert len(ledger.rejects) == 1
