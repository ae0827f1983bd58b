"""Every door of documents, with files cut, bits flipped, parts of their XML torn: rows or named faults, soon, always."""

from __future__ import annotations

import io
import random
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pdf_files import Page, lines_of, pdf
from test_sources_enclosed import NOTE, ROWS, letter, tarred, zipped
from test_sources_office import NUMBERING, RTF, STYLES, deck, epub, item, p, shape, word

from danlu.data.extracted import text_of_document
from danlu.data.ledger import Ledger
from danlu.data.sample import Document
from danlu.data.sources import read

DATA = Path(__file__).parents[3] / ".." / "shared" / "data" / "documents" / "office"
LONGEST_S = 10.0
"""CPU time, whatever else the machine does: far above what a file here takes, far below a hang."""


def account(path: Path, content: bytes) -> Ledger:
    """Read it; whatever comes, the account is whole and every document's range is where its text is."""
    path.write_bytes(content)
    ledger = Ledger()
    begin = time.process_time()
    samples = list(read([path], ledger))
    assert time.process_time() - begin < LONGEST_S
    ledger.check()
    assert ledger.num_read > 0, "a file went by without a word"
    assert len(samples) == ledger.num_used
    assert all(str(entry) for entry in (*ledger.rejects, *ledger.changes))
    for sample in samples:
        if isinstance(sample, Document) and sample.origin.document:
            assert sample.origin.start is not None
            assert sample.origin.end == sample.origin.start + len(sample.text)
    return ledger


def mail() -> bytes:
    message = letter()
    message.add_attachment(NOTE, maintype="text", subtype="markdown", filename="通知.md")
    message.add_attachment(zipped({"rows.jsonl": ROWS}), maintype="application", subtype="zip", filename="数据.zip")
    return message.as_bytes()


def good_files() -> dict[str, bytes]:
    report = [
        Page([*lines_of(f"{n} the quick brown fox " * 9), (60, 30, 9, "Header")], [(50, 70, 50, 300)], picture=n == 2)
        for n in range(4)
    ]
    body = (
        item("第一", 5)
        + item("第二", 5, 1)
        + p("题", '<w:pStyle w:val="a1"/>')
        + f"<w:tbl><w:tr><w:tc>{p('甲')}</w:tc></w:tr></w:tbl>"
    )
    begin = b"From a@b.c Thu Jan  1 00:00:00 2026\n"
    return {
        "a.pdf": pdf(report, title="T"), "a.docx": word(body, numbering=NUMBERING, styles=STYLES),
        "a.pptx": deck(shape("题", "title") + shape("一\n二", "body"), shape("三"), notes="注"),
        "a.epub": epub({"one.xhtml": "<h1>一</h1><p>二</p>", "two.xhtml": "<p>三</p>"}),
        "a.eml": mail(), "a.mbox": begin + mail() + b"\n" + begin + mail(), "a.zip": zipped({"a.md": NOTE, "b.eml": mail()}),
        "a.rtf": RTF.encode(),
        "a.tar.gz": tarred({"a.md": NOTE, "b.docx": word(p("字"))}),
    }  # fmt: skip


FILES = good_files()


@pytest.mark.parametrize("name", sorted(FILES))
@settings(max_examples=60)
@given(
    cut=st.floats(0.01, 1.0),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 7)), max_size=12),
    whole=st.booleans(),
)
def test_cut_and_with_flipped_bits(
    tmp_path: Path, name: str, cut: float, flips: list[tuple[float, int]], whole: bool
) -> None:
    content = FILES[name]
    damaged = bytearray(content if whole else content[: max(1, int(len(content) * cut))])
    for place, bit in flips:
        damaged[int(place * len(damaged))] ^= 1 << bit
    account(tmp_path / name, bytes(damaged))


def torn_xml(content: bytes, tear: Callable[[str], str]) -> bytes:
    """The archive with every XML part changed: what bit flips hardly reach, for checksums stand before it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            part = old.read(name)
            new.writestr(
                name,
                tear(part.decode()).encode("utf-8", "surrogatepass") if name.endswith(("xml", "rels", "opf")) else part,
            )
    return out.getvalue()


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.epub"])
@settings(max_examples=80)
@given(seed=st.integers(0, 1 << 30))
def test_xml_with_attributes_and_elements_torn(tmp_path: Path, name: str, seed: int) -> None:
    dice = random.Random(seed)

    def tear(text: str) -> str:
        for _ in range(dice.randrange(4)):
            if dice.random() < 0.6:  # another value
                text = re.sub(r'="[^"]*"', lambda found: f'="{dice.choice(["", "-1", "999999999999", "x", "%1%2%9", "∞", "../../x"])}"' if dice.random() < 0.1 else found[0], text)  # fmt: skip
            elif dice.random() < 0.5:  # an element gone
                text = re.sub(r"<(\w+:\w+)[^<>]*/>", lambda found: "" if dice.random() < 0.3 else found[0], text)
            else:  # cut
                text = text[: dice.randrange(len(text) + 1)]
        return text

    account(tmp_path / name, torn_xml(FILES[name], tear))


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["From: a@b.c\n", "Subject: =?utf-8?b?!!?=\n", "Subject: =?x?q?=C4?=\n", "MIME-Version: 1.0\n", "Message-ID: <1@x>\n",
                                 "Content-Type: multipart/mixed; boundary=b\n", "Content-Type: multipart/alternative; boundary=\n", "\n", "--b\n", "--b--\n",
                                 "Content-Type: text/html; charset=nonsense\n", "Content-Type: message/rfc822\n", "Content-Transfer-Encoding: base64\n",
                                 "Content-Disposition: attachment; filename*=utf-9''%ff\n", "Content-Disposition: inline; filename=\"../../x.zip\"\n", "====\n", "文字\n"]), max_size=25))  # fmt: skip
def test_pieces_of_letters_in_any_order(tmp_path: Path, parts: list[str]) -> None:
    account(tmp_path / "a.eml", "".join(["Message-ID: <1@x>\n", *parts]).encode())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.floats(-200, 900), st.floats(-200, 1000), st.sampled_from([0.01, 1, 9, 11, 40, 900]), st.text("ab -c()\\", max_size=30)), max_size=40),
       st.lists(st.tuples(*[st.floats(0, 800)] * 4), max_size=12), st.sampled_from([0, 90, 180, 270]))  # fmt: skip
def test_any_layout_keeps_its_letters(
    tmp_path: Path,
    texts: list[tuple[float, float, float, str]],
    lines: list[tuple[float, float, float, float]],
    rotate: int,
) -> None:
    """What PDFium sees on the page is in the text or in a named fault, whatever the order."""
    account(tmp_path / "a.pdf", pdf([Page(texts, lines, rotate=rotate)]))


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 500), st.floats(0, 700), st.text("ab天。-", min_size=1, max_size=20)), max_size=60)
)
def test_reading_order_loses_no_letter(pieces: list[tuple[float, float, str]]) -> None:
    from danlu.data.page.order import find_style, text_of_page
    from danlu.data.page.segments import Bar, Rule, Segment

    segments = [Segment(text, x, y, x + 6 * len(text), y + 11, 11) for x, y, text in pieces]
    rules = [Rule(x, y, y + 50) for x, y, _ in pieces[:5]]
    bars = [Bar(y, x, x + 90) for x, y, _ in pieces[:6]]
    found = text_of_page(segments, find_style([segments]), rules, bars)
    assert sorted(c for c in found if c in "ab天。") == sorted(
        c for _, _, text in pieces for c in text if c in "ab天。"
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="shared data is not on this machine")
@pytest.mark.parametrize(
    "name", ["test.docx", "test.pptx", "test.xlsx", "test.pdf", "REPAIR-2022-INV-001_multipage.pdf", "test.epub"]
)
def test_real_files_damaged(tmp_path: Path, name: str) -> None:
    content, dice = (DATA / name).read_bytes(), random.Random(11)
    for _ in range(6):
        damaged = bytearray(content[: dice.randrange(1, len(content))] if dice.random() < 0.4 else content)
        for _ in range(dice.choice([1, 8, 64])):
            damaged[dice.randrange(len(damaged))] ^= 1 << dice.randrange(8)
        account(tmp_path / name, bytes(damaged))


@pytest.mark.skipif(not DATA.is_dir(), reason="shared data is not on this machine")
def test_every_office_document_is_found_again_in_its_file() -> None:
    ledger = Ledger()
    documents = [sample for sample in read([DATA], ledger) if isinstance(sample, Document) and sample.origin.document]
    assert len({document.origin.document for document in documents}) > 25
    for digest in {document.origin.document for document in documents}:
        own = [
            document
            for document in documents
            if document.origin.document == digest
            and document.group == next(d.group for d in documents if d.origin.document == digest)
        ]
        again = text_of_document(own[0].group or "", digest)
        assert all(again.text[d.origin.start : d.origin.end] == d.text for d in own)
        assert all(d.origin.page is None or again.page_of(d.origin.start or 0) == d.origin.page for d in own)
