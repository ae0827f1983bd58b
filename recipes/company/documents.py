"""The policy documents: each fact's sentence in its section, in the format that the document's file name asks for.

Bytes repeat where the format allows: archives are rewritten with a fixed date, PDF files carry no date of their own.
"""

from __future__ import annotations

import datetime
import html
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from source import Company, Fact

Book = dict[str, Any]
MADE = datetime.datetime(2026, 1, 1)  # a mark in the file, not a moment
COLUMNS = {"zh": ["类别", "项目", "标准", "说明"], "en": ["Category", "Item", "Value", "Details"]}
SUMMARY = {"zh": "附：标准速查", "en": "Quick reference"}


def write_documents(company: Company, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for book in company.documents:
        facts = [fact for fact in company.facts if fact.document == book["id"]]
        suffix = book["file"].rsplit(".", 1)[1]
        (folder / book["file"]).write_bytes(WRITERS[suffix](book, sections(facts)))


def sections(facts: list[Fact]) -> dict[str, list[Fact]]:
    found: dict[str, list[Fact]] = {}
    for fact in facts:
        found.setdefault(fact.section, []).append(fact)
    return found


def clauses(book: Book, parts: dict[str, list[Fact]]) -> list[tuple[str, list[str]]]:
    """The note of each section, then its rules, numbered through the whole document as rules are cited: 第3条 / 3."""
    number = 0
    chapters = []
    for title, facts in parts.items():
        lines = [book["notes"][title]]
        for fact in facts:
            number += 1
            mark = f"第{number}条　" if book["language"] == "zh" else f"{number}. "
            lines.append(mark + fact.says)
        chapters.append((title, lines))
    return chapters


def summary(book: Book, parts: dict[str, list[Fact]]) -> list[tuple[str, str]]:
    """The table at the end: item and value, under its heading row."""
    facts = [fact for facts in parts.values() for fact in facts]
    head = COLUMNS[book["language"]]
    return [(head[1], head[2]), *((item_of(fact), fact.value) for fact in facts)]


def item_of(fact: Fact) -> str:
    name = fact.names[0].removeprefix("the ")
    return name[0].upper() + name[1:]


def markdown(book: Book, parts: dict[str, list[Fact]]) -> bytes:
    lines = [f"# {book['title']}", "", book["intro"], ""]
    for title, facts in parts.items():
        lines += [f"## {title}", "", book["notes"][title], "", *(f"- {fact.says}" for fact in facts), ""]
    head, *rest = [f"| {item} | {value} |" for item, value in summary(book, parts)]
    lines += [f"## {SUMMARY[book['language']]}", "", head, "|---|---|", *rest, ""]
    return "\n".join([*lines, book["closing"], ""]).encode()


def web(book: Book, parts: dict[str, list[Fact]]) -> bytes:
    def text(value: str) -> str:
        return html.escape(value, quote=False)

    language = {"zh": "zh-CN", "en": "en"}[book["language"]]
    lines = ["<!DOCTYPE html>", f'<html lang="{language}">', "<head>", '<meta charset="utf-8">']
    lines += [f"<title>{text(book['title'])}</title>", "</head>", "<body>", "<article>"]
    lines += [f"<h1>{text(book['title'])}</h1>", f"<p>{text(book['intro'])}</p>"]
    for title, facts in parts.items():
        lines += [f"<h2>{text(title)}</h2>", f"<p>{text(book['notes'][title])}</p>"]
        lines += [f"<p>{text(fact.says)}</p>" for fact in facts]
    head, *rest = summary(book, parts)
    lines += [f"<h2>{text(SUMMARY[book['language']])}</h2>", "<table>"]
    lines.append(f"<tr><th>{text(head[0])}</th><th>{text(head[1])}</th></tr>")
    lines += [f"<tr><td>{text(item)}</td><td>{text(value)}</td></tr>" for item, value in rest]
    lines.append("</table>")
    lines += [f"<p>{text(book['closing'])}</p>", "</article>", "</body>", "</html>", ""]
    return "\n".join(lines).encode()


def word(book: Book, parts: dict[str, list[Fact]]) -> bytes:
    import docx  # for this format only

    document = docx.Document()
    document.add_heading(book["title"], level=0)
    document.add_paragraph(book["intro"])
    for title, lines in clauses(book, parts):
        document.add_heading(title, level=1)
        for line in lines:
            document.add_paragraph(line)
    document.add_heading(SUMMARY[book["language"]], level=1)
    rows = summary(book, parts)
    table = document.add_table(rows=len(rows), cols=2, style="Table Grid")
    for line, texts in zip(table.rows, rows, strict=True):
        for cell, text in zip(line.cells, texts, strict=True):
            cell.text = text
    document.add_paragraph(book["closing"])
    about = document.core_properties
    about.title, about.author, about.comments = book["title"], "", "CC0-1.0"
    about.created = about.modified = MADE
    about.last_modified_by = ""
    return saved(document.save)


def sheet(book: Book, parts: dict[str, list[Fact]]) -> bytes:
    import openpyxl  # for this format only
    from openpyxl.styles import Alignment, Font

    workbook = openpyxl.Workbook()
    table = workbook.active
    table.title = {"zh": "一览", "en": "List"}[book["language"]]
    table.append(COLUMNS[book["language"]])
    for title, facts in parts.items():
        for fact in facts:
            table.append([title, item_of(fact), fact.value, fact.says])
    for cell in table[1]:
        cell.font = Font(bold=True)
    for letter, width in zip("ABCD", (14, 32, 14, 60), strict=True):
        table.column_dimensions[letter].width = width
    for row in table.iter_rows(min_row=2):
        row[3].alignment = Alignment(wrap_text=True)
    notes = workbook.create_sheet({"zh": "说明", "en": "Notes"}[book["language"]])
    for line in (
        book["title"],
        book["intro"],
        *(f"{title}: {note}" for title, note in book["notes"].items()),
        book["closing"],
    ):
        notes.append([line])
    workbook.properties.title, workbook.properties.creator = book["title"], ""
    workbook.properties.created = MADE
    return saved(workbook.save)


def saved(save: Callable[[io.BytesIO], None]) -> bytes:
    """An office archive whose members all carry one date, so that the same content is the same bytes."""
    raw = io.BytesIO()
    save(raw)
    fixed = io.BytesIO()
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in sorted(source.namelist(), key=lambda name: (name != "[Content_Types].xml", name)):
            content = source.read(name)
            if name == "docProps/core.xml":
                stamp = f"{MADE.isoformat()}Z".encode()
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            member = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            target.writestr(member, content)
    return fixed.getvalue()


def pdf(book: Book, parts: dict[str, list[Fact]]) -> bytes:
    """A real text layer: Chinese in the reader's own Song face (a CID font), so that nothing need be embedded."""
    from reportlab import rl_config
    from reportlab.lib import colors
    from reportlab.lib.enums import TA_CENTER  # for this format only
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.platypus import KeepTogether, Paragraph, SimpleDocTemplate, Spacer, Table

    rl_config.useA85 = 0  # plain binary streams: smaller, and never taken for text by version control
    is_chinese = book["language"] == "zh"
    font = "STSong-Light" if is_chinese else "Helvetica"
    if is_chinese:
        pdfmetrics.registerFont(UnicodeCIDFont(font))
    wrap = "CJK" if is_chinese else None
    body = ParagraphStyle("body", fontName=font, fontSize=11, leading=18, spaceAfter=5, wordWrap=wrap)
    head = ParagraphStyle("head", parent=body, fontSize=13, leading=20, spaceBefore=9)
    top = ParagraphStyle("top", parent=body, fontSize=18, leading=28, alignment=TA_CENTER, spaceAfter=12)
    flow = [Paragraph(html.escape(book["title"]), top), Paragraph(html.escape(book["intro"], quote=False), body)]
    for title, lines in clauses(book, parts):
        flow.append(Paragraph(html.escape(title), head))
        flow += [Paragraph(html.escape(line, quote=False), body) for line in lines]
    table = Table(summary(book, parts), hAlign="LEFT", style=[("FONT", (0, 0), (-1, -1), font, 10)])
    table.setStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey)])
    flow.append(KeepTogether([Paragraph(SUMMARY[book["language"]], head), table]))
    flow += [Spacer(1, 8), Paragraph(html.escape(book["closing"], quote=False), body)]
    raw = io.BytesIO()
    pages = SimpleDocTemplate(raw, pagesize=A4, title=book["title"], author="", invariant=1)
    pages.build(flow)
    return raw.getvalue()


WRITERS: dict[str, Callable[[Book, dict[str, list[Fact]]], bytes]] = {
    "md": markdown,
    "html": web,
    "docx": word,
    "xlsx": sheet,
    "pdf": pdf,
}
