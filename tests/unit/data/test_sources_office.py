"""Word, PowerPoint and EPUB: what people see on the page is in the text, numbers that only Word knows included."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest

from danlu.data.ledger import Ledger
from danlu.data.office.numbering import chinese, letters, numeral, roman
from danlu.data.sample import Document
from danlu.data.sources import read

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def rels(*pairs: tuple[str, str]) -> str:
    inner = "".join(
        f'<Relationship Id="r{n}" Type="{R}/{kind}" Target="{to}"/>' for n, (kind, to) in enumerate(pairs, 1)
    )
    return (
        f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{inner}</Relationships>'
    )


def package(parts: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in ({"[Content_Types].xml": "<Types/>"} | parts).items():
            archive.writestr(name, content)
    return out.getvalue()


def word(body: str, **parts: str) -> bytes:
    """A document with this body; further parts (styles, numbering, footnotes, header) by name."""
    pairs = [
        (name if name in ("styles", "numbering", "footnotes") else name.rstrip("123"), f"{name}.xml") for name in parts
    ]
    return package(
        {
            "_rels/.rels": rels(("officeDocument", "word/document.xml")),
            "word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>",
            "word/_rels/document.xml.rels": rels(*pairs),
            **{f"word/{name}.xml": content for name, content in parts.items()},
        }
    )


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def documents(path: Path, content: bytes) -> tuple[list[Document], Ledger]:
    path.write_bytes(content)
    ledger = Ledger()
    found: list[Any] = list(read([path], ledger))
    ledger.check()
    return found, ledger


NUMBERING = f"""<w:numbering {W}>
<w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="chineseCountingThousand"/><w:lvlText w:val="第%1条"/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:isLgl/><w:lvlText w:val="%1.%2"/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="2"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val=""/></w:lvl></w:abstractNum>
<w:num w:numId="5"><w:abstractNumId w:val="1"/></w:num><w:num w:numId="6"><w:abstractNumId w:val="2"/></w:num>
<w:num w:numId="7"><w:abstractNumId w:val="1"/><w:lvlOverride w:ilvl="0"><w:startOverride w:val="9"/></w:lvlOverride></w:num></w:numbering>"""


def item(text: str, list_id: int, depth: int = 0) -> str:
    return p(text, f'<w:numPr><w:ilvl w:val="{depth}"/><w:numId w:val="{list_id}"/></w:numPr>')


def test_articles_that_word_numbers_keep_their_numbers(tmp_path: Path) -> None:
    body = (
        item("甲方付款。", 5) + item("预付款", 5, 1) + item("尾款", 5, 1) + item("乙方交货。", 5) + item("验收", 5, 1)
    )
    body += item("无关条款。", 7) + item("苹果", 6) + item("梨", 6)
    (found,), _ = documents(tmp_path / "a.docx", word(body, numbering=NUMBERING))
    assert found.text.split("\n") == [
        "第一条 甲方付款。", "", "  1.1 预付款", "  1.2 尾款", "", "第二条 乙方交货。", "", "  2.1 验收", "", "第九条 无关条款。", "", "- 苹果", "- 梨",
    ]  # fmt: skip


STYLES = f"""<w:styles {W}>
<w:style w:styleId="a1"><w:name w:val="heading 1"/><w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>
<w:style w:styleId="a2"><w:name w:val="公司二级"/><w:basedOn w:val="b"/></w:style>
<w:style w:styleId="b"><w:name w:val="标题 2"/></w:style>
<w:style w:styleId="t"><w:name w:val="toc 1"/></w:style>
<w:style w:styleId="loop"><w:name w:val="loop"/><w:basedOn w:val="loop"/></w:style></w:styles>"""


def test_headings_by_outline_and_by_inherited_name(tmp_path: Path) -> None:
    body = (
        p("总则", '<w:pStyle w:val="a1"/>')
        + p("范围", '<w:pStyle w:val="a2"/>')
        + p("正文", '<w:pStyle w:val="loop"/>')
    )
    body += p("附录", '<w:outlineLvl w:val="2"/>') + p("总则……1", '<w:pStyle w:val="t"/>')
    (found,), ledger = documents(tmp_path / "a.docx", word(body, styles=STYLES))
    assert found.text == "# 总则\n\n## 范围\n\n正文\n\n### 附录"
    assert [(entry.reason, entry.values) for entry in ledger.changes] == [("contents_left_out", {"num": 1})]


def test_tracked_changes_controls_links_formulas_and_notes(tmp_path: Path) -> None:
    run = "<w:r><w:t>{}</w:t></w:r>".format
    body = f"""<w:p>{run("每天")}<w:del><w:r><w:delText>六十</w:delText></w:r></w:del><w:ins>{run("八十")}</w:ins>{run("元")}
<w:r><w:footnoteReference w:id="2"/></w:r></w:p>
<w:sdt><w:sdtContent><w:p><w:hyperlink>{run("见附件")}</w:hyperlink><w:fldSimple>{run("三")}</w:fldSimple></w:p></w:sdtContent></w:sdt>
<w:p><m:oMath><m:r><m:t>E=mc²</m:t></m:r></m:oMath><w:r><w:rPr><w:vanish/></w:rPr><w:t>隐</w:t></w:r></w:p>
<w:p><w:r><mc:AlternateContent><mc:Choice><w:drawing><w:txbxContent>{p("框中字")}</w:txbxContent></w:drawing></mc:Choice>
<mc:Fallback><w:pict><w:txbxContent>{p("框中字")}</w:txbxContent></w:pict></mc:Fallback></mc:AlternateContent></w:r></w:p>"""
    notes = f'<w:footnotes {W}><w:footnote w:type="separator" w:id="0"/><w:footnote w:id="2">{p("自二〇二六年起。")}</w:footnote></w:footnotes>'
    header = f"<w:hdr {W}>{p('内部资料')}</w:hdr>"
    (found,), ledger = documents(tmp_path / "a.docx", word(body, footnotes=notes, header1=header))
    assert found.text == "每天八十元[^1]\n\n见附件三\n\nE=mc²\n\n框中字\n\n[^1]: 自二〇二六年起。"
    assert {entry.reason for entry in ledger.changes} == {"tracked_deletions", "hidden_text", "furniture_left_out"}


def test_what_authors_say_of_their_pictures_is_text(tmp_path: Path) -> None:
    said = ("组织结构图 [新]", "图形, AI 生成的内容可能不正确。", "image1.png", "")
    body = "".join(f'<w:p><w:r><w:drawing><docPr descr="{text}"/><blip/></w:drawing></w:r></w:p>' for text in said)
    (found,), ledger = documents(tmp_path / "a.docx", word(body))
    assert found.text == "![组织结构图 (新)]()"
    assert len(ledger.notes) == 1


def cell(text: str, properties: str = "") -> str:
    return f"<w:tc><w:tcPr>{properties}</w:tcPr>{p(text)}</w:tc>"


def test_merged_cells_are_told_once_and_nested_tables_stay_in_their_cell(tmp_path: Path) -> None:
    inner = f"<w:tc><w:tbl><w:tr>{cell('x')}{cell('y')}</w:tr></w:tbl>{p('z')}</w:tc>"
    rows = [
        cell("城市") + cell("标准", '<w:gridSpan w:val="2"/>'),
        cell("北京", '<w:vMerge w:val="restart"/>') + cell("住") + cell("500"),
        cell("", "<w:vMerge/>") + cell("吃|喝") + inner,
    ]
    (found,), _ = documents(
        tmp_path / "a.docx", word(f"<w:tbl>{''.join(f'<w:tr>{row}</w:tr>' for row in rows)}</w:tbl>")
    )
    assert found.text == "| 城市 | 标准 |  |\n| --- | --- | --- |\n| 北京 | 住 | 500 |\n|  | 吃\\|喝 | x; y<br>z |"


@pytest.mark.parametrize(
    ("number", "text"),
    [(1, "一"), (10, "十"), (12, "十二"), (20, "二十"), (105, "一百零五"), (110, "一百一十"), (1003, "一千零三"), (10000, "一万"), (10010, "一万零一十")],
)  # fmt: skip
def test_chinese_numbers(number: int, text: str) -> None:
    assert chinese(number) == text


def test_other_numbers() -> None:
    assert [letters(number) for number in (1, 26, 27, 53)] == ["a", "z", "aa", "aaa"]
    assert [roman(number) for number in (4, 9, 1994)] == ["iv", "ix", "mcmxciv"]
    assert numeral(12, "chineseLegalSimplified") == "壹拾贰"
    assert [
        numeral(3, name) for name in ("decimalEnclosedCircle", "ideographTraditional", "ordinal", "thaiLetters")
    ] == ["③", "丙", "3rd", "3"]
    assert numeral(-5, "upperRoman") == "-5"


A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'


def shape(text: str, kind: str = "", at: tuple[int, int] | None = None) -> str:
    place = f"<a:xfrm><a:off x='{at[0]}' y='{at[1]}'/></a:xfrm>" if at else ""
    role = f"<p:nvPr><p:ph type='{kind}'/></p:nvPr>" if kind else ""
    lines = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in text.split("\n"))
    return f"<p:sp><p:nvSpPr>{role}</p:nvSpPr><p:spPr>{place}</p:spPr><p:txBody>{lines}</p:txBody></p:sp>"


def deck(*slides: str, notes: str = "") -> bytes:
    parts: dict[str, str | bytes] = {
        "_rels/.rels": rels(("officeDocument", "ppt/presentation.xml")),
        "ppt/presentation.xml": f"<p:presentation {A}><p:sldIdLst>"
        + "".join(f'<p:sldId id="{256 + n}" r:id="r{n}"/>' for n in range(len(slides), 0, -1))
        + "</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": rels(
            *(("slide", f"slides/slide{n}.xml") for n in range(1, len(slides) + 1))
        ),
    }
    for number, slide in enumerate(slides, start=1):
        parts[f"ppt/slides/slide{number}.xml"] = f"<p:sld {A}><p:cSld><p:spTree>{slide}</p:spTree></p:cSld></p:sld>"
    if notes:
        parts["ppt/slides/_rels/slide1.xml.rels"] = rels(("notesSlide", "../notes.xml"))
        parts["ppt/notes.xml"] = (
            f"<p:notes {A}><p:cSld><p:spTree>{shape(notes, 'body')}{shape('1', 'sldNum')}</p:spTree></p:cSld></p:notes>"
        )
    return package(parts)


def test_slides_come_in_the_order_of_the_show_with_title_places_and_notes(tmp_path: Path) -> None:
    table = "<p:graphicFrame><a:tbl>" + "".join(f"<a:tr><a:tc><p:txBody><a:p><a:r><a:t>{a}</a:t></a:r></a:p></p:txBody></a:tc><a:tc><p:txBody><a:p><a:r><a:t>{b}</a:t></a:r></a:p></p:txBody></a:tc></a:tr>" for a, b in (("城市", "标准"), ("北京", "80"))) + "</a:tbl></p:graphicFrame>"  # fmt: skip
    first = (
        shape("右", at=(900, 5_000_000))
        + shape("左", at=(100, 5_010_000))
        + shape("差旅制度", "title", (0, 9_000_000))
        + table
    )
    found, ledger = documents(
        tmp_path / "a.pptx", deck(first, shape("要点一\n要点二", "body") + shape("3", "sldNum"), notes="先讲背景")
    )
    assert [document.origin.page for document in found] == [1, 2]
    assert found[0].text == "- 要点一\n- 要点二"
    assert (
        found[1].text
        == "# 差旅制度\n\n| 城市 | 标准 |\n| --- | --- |\n| 北京 | 80 |\n\n左\n\n右\n\n### Notes\n\n先讲背景"
    )
    assert not ledger.rejects


def test_a_deck_of_pictures_is_refused_and_a_wordless_slide_named(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.pptx", deck("<p:pic/>"))
    assert (found, [entry.reason for entry in ledger.rejects]) == ([], ["no_text"])
    found, ledger = documents(tmp_path / "b.pptx", deck("<p:pic/>", shape("字")))
    assert [document.text for document in found] == ["字"]
    assert len(ledger.notes) == 2


def epub(chapters: dict[str, str], extra: dict[str, str] | None = None) -> bytes:
    items = "".join(
        f'<item id="i{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="i{n}"/>' for n in reversed(range(len(chapters))))
    book = f'<package xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata><dc:title>本草</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>'
    parts = {
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
        "OEBPS/book.opf": book,
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in (
            {"mimetype": "application/epub+zip"}
            | parts
            | {f"OEBPS/{n}": c for n, c in chapters.items()}
            | (extra or {})
        ).items():
            archive.writestr(name, content)
    return out.getvalue()


def test_a_book_is_read_along_its_spine(tmp_path: Path) -> None:
    content = epub(
        {
            "two%20.xhtml": "<h2>卷二</h2><p>甘草</p>",
            "one.xhtml": "<?xml version='1.0'?><!DOCTYPE html><html><body><h2>卷一</h2></body></html>",
        }
    )
    found, ledger = documents(tmp_path / "a.epub", content)
    assert [(one.origin.page, one.text, one.title) for one in found] == [(1, "## 卷一", "本草")]
    assert [entry.reason for entry in ledger.rejects] == ["broken_part"], (
        "the part is named `two%20`, the book asks for `two `"
    )


def test_a_book_under_rights_management_is_encrypted(tmp_path: Path) -> None:
    lock = '<encryption><CipherReference URI="OEBPS/one.xhtml"/></encryption>'
    found, ledger = documents(tmp_path / "a.epub", epub({"one.xhtml": "x"}, {"META-INF/encryption.xml": lock}))
    assert found == []
    assert [entry.reason for entry in ledger.rejects] == ["encrypted", "no_text"]


BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("encode", ["utf-8", "utf-16"])
def test_entities_are_refused_before_they_are_expanded(tmp_path: Path, encode: str) -> None:
    parts = {
        "_rels/.rels": rels(("officeDocument", "word/document.xml")),
        "word/document.xml": f"{BOMB}<d>&b;</d>".encode(encode),
    }
    found, ledger = documents(tmp_path / "a.docx", package(parts))
    assert found == []
    assert [(entry.reason, entry.values["detail"]) for entry in ledger.rejects] == [
        ("broken_part", "word/document.xml declares entities")
    ]


def test_a_document_behind_a_password_says_so(tmp_path: Path) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 600 + "EncryptedPackage".encode("utf-16-le") + b"\x00" * 600
    for name in ("a.docx", "b.xlsx", "c.pptx"):
        found, ledger = documents(tmp_path / name, ole)
        assert (found, [entry.reason for entry in ledger.rejects]) == ([], ["encrypted"])


def test_old_office_files_are_told_what_to_become(tmp_path: Path) -> None:
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 1200
    for name, better in (("a.doc", "docx"), ("b.xls", "xlsx"), ("c.wps", "docx")):
        _, ledger = documents(tmp_path / name, ole)
        assert [(entry.reason, entry.values["better"]) for entry in ledger.rejects] == [("old_office", better)]


def test_a_part_that_breaks_off_ends_the_file_by_name(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.docx", word(p("一") + "<w:p>"))
    assert found == []
    assert ledger.rejects[0].reason == "broken_part"
    found, ledger = documents(tmp_path / "b.pptx", deck(shape("好"), "<broken>"))
    assert ledger.rejects[-1].reason == "broken_part"


RTF = (
    r"{\rtf1\ansi\ansicpg936\deff0{\fonttbl{\f0\fcharset0 Times;}{\f1\fnil\fcharset134 SimSun;}{\f2\fcharset128 Mincho;}}"
    r"{\*\generator x;}{\info{\title y}}{\header \f1 \'c4\'da\'b2\'bf}{\pict\bin3 }{\}"
    r"\pard\outlinelevel0\f1 \'b2\'ee\'c2\'c3\'d6\'c6\'b6\'c8\par\pard\plain\f1 \'c3\'bf\'cc\'ec\u20843?\'ca\'ae\'d4\'aa\'a1\'a3{\v hidden}\f2\'93\'8c\'8b\'9e\par "
    r"\trowd\pard\intbl a\cell b|c\cell\row\trowd\intbl {\f0 d}\cell\cell\row\pard \ldblquote end\rdblquote\u-10179?\u-8704?\{\}\par}"
)


def test_rich_text_in_the_code_pages_of_its_fonts(tmp_path: Path) -> None:
    (found,), ledger = documents(tmp_path / "a.rtf", RTF.encode("ascii"))
    assert found.text == "# 差旅制度\n\n每天八十元。東京\n\n| a | b\\|c |\n| --- | --- |\n| d |  |\n\n“end”😀{}"
    assert {entry.reason for entry in ledger.changes} == {"furniture_left_out", "hidden_text"}
    assert ledger.changes[0].values["text"] == "内部"
    assert len(ledger.notes) == 1


def test_rich_text_without_text_is_refused(tmp_path: Path) -> None:
    found, ledger = documents(tmp_path / "a.rtf", b"{\\rtf1{\\pict 00ff}}")
    assert (found, [entry.reason for entry in ledger.rejects]) == ([], ["no_text"])
