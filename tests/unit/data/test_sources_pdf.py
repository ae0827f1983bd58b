"""PDF pages: read in the order people read them, furniture off, scans and garbled pages queued and never silently empty."""

from __future__ import annotations

import gzip
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pdf_files import Page, lines_of, pdf

from danlu.core.errors import DataError, RecipeError
from danlu.data.extracted import text_of_document
from danlu.data.ledger import Ledger
from danlu.data.ocr import RECOGNISERS, choose
from danlu.data.ocr.recogniser import RecognitionError
from danlu.data.sample import Document
from danlu.data.sources import read

WORDS = "The quick brown fox jumps over the lazy dog while seven wizards quietly judge my boxing match. "


def documents(path: Path, content: bytes, **more: Any) -> tuple[list[Document], Ledger]:
    path.write_bytes(content)
    ledger = Ledger()
    found = list(read([path], ledger, **more))
    ledger.check()
    return found, ledger  # type: ignore[return-value]


def test_lines_become_paragraphs_and_large_type_headings(tmp_path: Path) -> None:
    texts = [(60, 60, 20, "Travel rules"), *lines_of(WORDS * 3, y=100), *lines_of("Second " + WORDS * 2, y=180)]
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(texts)], title="Rules"))
    assert found.text.split("\n\n") == ["# Travel rules", (WORDS * 3).strip(), ("Second " + WORDS * 2).strip()]
    assert (found.title, found.origin.page, found.origin.line) == ("Rules", 1, 1)


def test_two_columns_under_one_title_are_read_one_after_the_other(tmp_path: Path) -> None:
    left, right = "Left " + WORDS * 6, "Right " + WORDS * 6
    texts = [(60, 60, 11, "A title that runs over both of the columns of this page, as titles of papers do")]
    columns = zip(lines_of(left, x=60, y=100, width=40), lines_of(right, x=320, y=100, width=40), strict=False)
    texts += [line for pair in columns for line in pair]  # drawn line by line across the page
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(texts)]))
    text = " ".join(found.text.split())
    assert left.strip()[:300] in text
    assert right.strip()[:300] in text
    assert text.index("A title") < text.index("Left") < text.index("Right")


def test_three_columns_whose_lines_do_not_stand_side_by_side(tmp_path: Path) -> None:
    stories = [f"{name} {WORDS * 5}" for name in ("One", "Two", "Three")]
    columns = [lines_of(text, x=40 + 175 * n, y=100 + 5 * n, width=30, size=9) for n, text in enumerate(stories)]
    texts = [line for row in zip(*columns, strict=False) for line in row]
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(texts)]))
    text = " ".join(found.text.split())
    assert text.index("One") < text.index("Two") < text.index("Three")
    assert stories[1][:300] in text


@pytest.mark.parametrize("ruled", [True, False])
def test_tables_become_markdown(tmp_path: Path, ruled: bool) -> None:
    rows = [("City", "Hotel", "Meals"), ("Beijing", "500", "80"), ("Shanghai", "", "80"), ("Xi'an", "400", "60")]
    xs = (60, 160, 260)
    texts = [(xs[c] + 4, 100 + 20 * r, 11, cell) for r, row in enumerate(rows) for c, cell in enumerate(row) if cell]
    lines = [(x, 85, x, 165) for x in (*xs, 360)] + [(60, y, 360, y) for y in range(85, 170, 20)] if ruled else []
    texts += lines_of(WORDS * 2, y=220)
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(texts, lines)]))
    assert found.text.startswith(
        "| City | Hotel | Meals |\n| --- | --- | --- |\n| Beijing | 500 | 80 |\n| Shanghai |  | 80 |\n| Xi'an | 400 | 60 |"
    )
    assert found.text.endswith((WORDS * 2).strip())


def test_cells_of_several_lines_are_one_cell_where_lines_are_drawn(tmp_path: Path) -> None:
    lines = [(x, 80, x, 200) for x in (50, 150, 400)] + [(50, y, 400, y) for y in (80, 100, 150, 200)]
    texts = [(55, 95, 10, "Item"), (155, 95, 10, "Rule"), (55, 115, 10, "Hotel and"), (55, 127, 10, "meals")]
    texts += [
        (155, 115 + 12 * n, 10, line)
        for n, line in enumerate(("Choose a safe and", "cheap hotel; keep", "the receipt."))
    ]
    texts += [(55, 165, 10, "Trains"), (155, 165, 10, "Second class.")]
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(texts, lines)]))
    assert found.text.splitlines() == [
        "| Item | Rule |", "| --- | --- |", "| Hotel and meals | Choose a safe and cheap hotel; keep the receipt. |",
        "| Trains | Second class. |",
    ]  # fmt: skip


def test_a_hyphen_at_a_line_end_goes_only_where_the_word_is_one(tmp_path: Path) -> None:
    from danlu.data.page.segments import joined

    assert joined("con\u00ad", "firming it") == "confirming it"
    assert joined("chat\u00ad", "optimized", frozenset({"chat", "optimized"})) == "chat-optimized"
    assert joined("Anglo\u00ad", "Saxon") == "Anglo-Saxon"
    assert joined("出差补", "贴标准") == "出差补贴标准"
    assert joined("出差", "per diem") == "出差 per diem"


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_a_turned_page_is_read_as_it_is_seen(tmp_path: Path, rotate: int) -> None:
    matrix = {90: "0 1 -1 0 500 100", 180: "-1 0 0 -1 500 700", 270: "0 -1 1 0 100 700", 0: "1 0 0 1 100 700"}[rotate]
    extra = f"BT /F1 12 Tf {matrix} Tm (First line of the turned page, which has more than fifty letters) Tj ET "
    down = {90: "0 1 -1 0 520 100", 180: "-1 0 0 -1 500 720", 270: "0 -1 1 0 80 700", 0: "1 0 0 1 100 680"}[rotate]
    extra += f"BT /F1 12 Tf {down} Tm (Second line) Tj ET"
    (found,), _ = documents(tmp_path / "a.pdf", pdf([Page(rotate=rotate, extra=extra)]))
    assert found.text == "First line of the turned page, which has more than fifty letters Second line"


def report(number: int, body: str) -> Page:
    said = f"{'one two three four five'.split()[number - 1]} says. {body}"
    return Page([(60, 40, 9, "ACME internal report"), *lines_of(said), (290, 810, 9, f"- {number} -")])


def test_running_headers_and_page_numbers_go_and_are_told_of(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([report(n, WORDS) for n in range(1, 6)]))
    assert [document.text for document in found] == [
        f"{n} says. {WORDS}".strip() for n in "one two three four five".split()
    ]
    assert {entry.reason for entry in ledger.changes} == {"repeated_lines"}
    assert ledger.changes[0].values == {"num": 2, "pages": 5, "of": 5, "text": "ACME internal report / - 1 -"}


def test_what_stands_on_few_pages_stays(tmp_path: Path) -> None:
    pages = [report(1, WORDS), report(2, WORDS), *(Page(lines_of(f"{n} {WORDS}")) for n in "abcdef")]
    found, ledger = documents(tmp_path / "a.pdf", pdf(pages))
    assert found[0].text.startswith("ACME internal report")
    assert not ledger.changes


def test_a_scan_under_a_running_header_is_still_a_scan(tmp_path: Path) -> None:
    header = (60, 40, 9, "Confidential. Property of ACME Corporation, 12 Example Street, Example Town")
    found, ledger = documents(tmp_path / "a.pdf", pdf([Page([header], picture=True)] * 4))
    assert found == []
    assert [entry.reason for entry in ledger.rejects] == ["needs_ocr"] * 4


def test_pages_that_are_all_alike_are_a_form_and_stay(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([Page(lines_of(WORDS * 3, y=30))] * 4))
    assert len(found) == 4
    assert not ledger.changes


SCAN = Page(picture=True)
SOUND = Page(lines_of(WORDS))


def test_a_scanned_page_without_recogniser_is_refused_by_name(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([SOUND, SCAN, Page([(60, 60, 11, "Fig. 1")], picture=True)]))
    assert [document.origin.page for document in found] == [1]
    assert [(entry.line, entry.reason) for entry in ledger.rejects] == [(2, "needs_ocr"), (3, "needs_ocr")]
    assert ledger.rejects[1].raw == "Fig. 1", "what is there can be read in the rejects file"


def test_a_short_page_of_text_alone_is_no_scan_and_a_blank_one_is_named(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([Page([(60, 60, 24, "Chapter 2")]), Page(), SOUND]))
    assert [document.origin.page for document in found] == [1, 3]
    assert not ledger.rejects
    assert len(ledger.notes) == 1
    assert "2" in ledger.notes[0]


def test_a_file_of_blank_pages_is_no_success(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([Page(), Page()]))
    assert (found, [entry.reason for entry in ledger.rejects]) == ([], ["no_text"])


def test_a_page_whose_font_has_no_character_map_is_garbled(tmp_path: Path) -> None:
    names = " ".join(f"/g{number}" for number in range(32, 127))
    broken = f"/Encoding << /Type /Encoding /Differences [32 {names}] >>"
    found, ledger = documents(tmp_path / "a.pdf", pdf([SOUND], encoding=broken))
    assert found == []
    assert [entry.reason for entry in ledger.rejects] == ["garbled_page"]


class Reader:
    """A recogniser as a package outside would write it."""

    name = "told"

    def __init__(self, texts: dict[int, str], failure: str = "") -> None:
        self.texts, self.failure, self.asked = texts, failure, []

    def key(self) -> dict[str, Any]:
        return {"name": self.name}

    def recognise(self, file: Path, pages: Sequence[int]) -> dict[int, str]:
        assert file.read_bytes().startswith(b"%PDF")
        self.asked.append(list(pages))
        if self.failure:
            raise RecognitionError(self.failure)
        return {page: self.texts[page] for page in pages if page in self.texts}


@pytest.mark.parametrize("packed", [False, True])
def test_queued_pages_are_asked_for_once_and_take_their_place(tmp_path: Path, packed: bool) -> None:
    content = pdf([SCAN, SOUND, SCAN, SCAN])
    reader = Reader({1: "第一页", 3: " "})
    path = tmp_path / ("a.pdf.gz" if packed else "a.pdf")
    found, ledger = documents(path, gzip.compress(content) if packed else content, recogniser=reader)
    assert reader.asked == [[1, 3, 4]]
    assert [(document.origin.page, document.text[:3]) for document in found] == [(1, "第一页"), (2, "The")]
    assert [(entry.reason, entry.line) for entry in ledger.changes] == [("recognised", 1)]
    assert [(entry.reason, entry.line) for entry in ledger.rejects] == [("ocr_empty", 3), ("ocr_empty", 4)]
    again = text_of_document(path.as_posix(), found[0].origin.document, recogniser=Reader({1: "第一页", 3: " "}))
    assert all(again.text[d.origin.start : d.origin.end] == d.text for d in found)
    assert again.page_of(found[1].origin.start) == 2


def test_a_recogniser_that_fails_fails_by_name(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pdf", pdf([SOUND, SCAN]), recogniser=Reader({}, "out of memory"))
    assert len(found) == 1
    assert ledger.rejects[0].reason == "ocr_failed"
    assert ledger.rejects[0].values["detail"] == "out of memory"


def test_any_command_may_read_a_page(tmp_path: Path) -> None:
    script = tmp_path / "my ocr.py"
    script.write_text(
        "import pathlib, struct, sys\nhead = pathlib.Path(sys.argv[1]).read_bytes()[:24]\n"
        "assert head.startswith(b'\\x89PNG'), head\nprint('page', sys.argv[2], *struct.unpack('>II', head[16:24]))\n",
        encoding="utf-8",
    )
    reader = choose("command", f"{sys.executable} '{script}' {{image}} {{page}}")
    assert reader is not None
    found, _ = documents(tmp_path / "a.pdf", pdf([SOUND, SCAN]), recogniser=pickle.loads(pickle.dumps(reader)))
    assert found[1].text == "page 2 2480 3509", "an A4 page at 300 dpi"
    failing = choose("command", f"{sys.executable} -c 'import sys; sys.exit(3)' {{file}}")
    _, ledger = documents(tmp_path / "a.pdf", pdf([SCAN]), recogniser=failing)
    assert ledger.rejects[0].reason == "ocr_failed"
    assert "ended with 3" in ledger.rejects[0].values["detail"]


def test_a_command_that_cannot_work_is_refused_before_any_page(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no-such-program"):
        choose("command", "no-such-program {image}")
    for command in ("", "cat", "cat 'x", "{image}"):
        with pytest.raises(DataError):
            choose("command", command)
    with pytest.raises(RecipeError, match="docling"):
        choose("doclin")
    assert choose(None) is None


@pytest.mark.parametrize("name", ["docling", "mineru"])
def test_a_recogniser_that_is_not_installed_says_what_to_install(tmp_path: Path, name: str) -> None:
    recogniser = RECOGNISERS.load(name)("no-such-mineru")
    (tmp_path / "a.pdf").write_bytes(pdf([SCAN]))
    with pytest.raises(DataError, match=r"docling|no-such-mineru"):
        list(read([tmp_path / "a.pdf"], Ledger(), recogniser=recogniser))


def test_mineru_blocks_become_markdown_of_their_pages(tmp_path: Path) -> None:
    """A program that writes what MinerU documents as its content list."""
    script = tmp_path / "mineru.py"
    script.write_text(
        "import json, pathlib, sys\nout = pathlib.Path(sys.argv[sys.argv.index('-o') + 1], 'queue', 'ocr')\n"
        "out.mkdir(parents=True)\n"
        "blocks = [{'type': 'text', 'text': 'Title', 'text_level': 1, 'page_idx': 0}, {'type': 'image', 'page_idx': 0},\n"
        "          {'type': 'table', 'table_body': '<table><tr><td>a</td><td>b</td></tr></table>', 'page_idx': 1}]\n"
        "(out / 'queue_content_list.json').write_text(json.dumps(blocks))\n",
        encoding="utf-8",
    )
    recogniser = RECOGNISERS.load("mineru")(f"{sys.executable} {script}")
    found, _ = documents(tmp_path / "a.pdf", pdf([SCAN, SOUND, SCAN]), recogniser=recogniser)
    assert [document.text for document in found][::2] == ["# Title", "| a | b |\n| --- | --- |"]


def test_pages_and_characters_beyond_measure_are_cut_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from danlu.data.sources import pdf as reader

    monkeypatch.setattr(reader, "MAX_PAGES", 2)
    monkeypatch.setattr(reader, "MAX_PAGE_CHARACTERS", 60)
    found, ledger = documents(tmp_path / "a.pdf", pdf([SOUND, SOUND, SOUND]))
    assert [document.origin.page for document in found] == [1, 2]
    assert [(entry.reason, entry.line) for entry in ledger.rejects] == [("too_many_pages", 3)]
    assert [entry.reason for entry in ledger.changes] == ["page_cut", "page_cut"]


def test_a_locked_pdf_says_so(tmp_path: Path) -> None:
    lock = "<< /Filter /Standard /V 1 /R 2 /O (12345678901234567890123456789012) /U (12345678901234567890123456789012) /P -4 >>"
    content = pdf([SOUND]).replace(b"trailer\n<<", f"trailer\n<< /Encrypt {lock} /ID [(a) (b)]".encode())
    found, ledger = documents(tmp_path / "a.pdf", content)
    assert found == []
    assert [entry.reason for entry in ledger.rejects] == ["encrypted"]
