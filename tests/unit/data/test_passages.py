"""Passages are exact slices: nothing lost, nothing twice, cut where a reader would cut, under the right headings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.data.extracted import text_of_document
from danlu.data.ledger import Ledger
from danlu.data.passages import cut_documents, heading_level
from danlu.data.sample import BETWEEN, Document, Origin
from danlu.data.sources import read

DATA = Path(__file__).parents[3] / ".." / "shared" / "data" / "documents"


def pages(*texts: str) -> list[Document]:
    found, start = [], 0
    for number, text in enumerate(texts, start=1):
        found.append(Document(text, Origin("a.pdf", number, number, start, start + len(text), "d" * 64), "a", "a.pdf"))
        start += len(text) + len(BETWEEN)
    return found


pieces = st.sampled_from(
    ["# 标题", "## Two", "第一章 总则", "一、范围", "（一）", "\n", "\n\n", "每天补贴八十元。", "“好。”他说", "e.g. 3.5 kg. Next",
     "| a | b |\n| --- | --- |\n| 1 | 2 |", "无标点" * 30, " ", "x" * 70, "；", "A word. ", "\u3000\u3000", "。。", "\r"]
)  # fmt: skip


@settings(max_examples=300)
@given(
    st.lists(st.lists(pieces, max_size=12).map("".join), min_size=1, max_size=3), st.integers(1, 60), st.integers(0, 60)
)
def test_passages_are_slices_that_miss_and_repeat_nothing(texts: list[str], limit: int, least: int) -> None:
    documents = pages(*texts)
    whole = BETWEEN.join(texts)
    position = 0
    for passage in cut_documents(documents, max_tokens=limit, min_tokens=min(least, limit), count=len):
        origin = passage.origin
        assert 0 < len(passage.text) <= limit
        assert whole[origin.start : origin.end] == passage.text
        assert not whole[position : origin.start].strip(), "only white space lies between passages"
        position = origin.end
    assert not whole[position:].strip()


def test_a_passage_says_its_headings_pages_and_parents() -> None:
    documents = pages(
        "# 制度\n\n前言。\n\n## 第一章 差旅\n\n每天八十元。住宿四百元", "一晚。\n\n## 第二章 采购\n\n三家比价。"
    )
    first, second, third = cut_documents(documents, max_tokens=40, min_tokens=1, count=len)
    assert (first.tags["headings"], first.text) == (["制度"], "# 制度\n\n前言。")
    assert second.tags["headings"] == ["制度", "第一章 差旅"]
    assert second.tags["pages"] == [1, 2]
    assert second.origin.page == 1
    assert len(second.tags["parents"]) == 2
    assert third.tags["headings"] == ["制度", "第二章 采购"]
    assert (third.origin.page, "pages" in third.tags) == (2, False)


def test_a_heading_never_closes_a_passage() -> None:
    text = "话。" * 15 + "\n\n## 附则\n\n" + "本办法自发布之日起施行。" * 3
    found = list(cut_documents(pages(text), max_tokens=40, count=len))
    assert not any(passage.text.endswith("附则") for passage in found)
    assert found[1].tags["headings"] == ["附则"]


def test_long_paragraphs_are_cut_at_chinese_sentence_ends() -> None:
    text = "凡出差人员，须事先申请。" * 40
    found = list(cut_documents(pages(text), max_tokens=100, count=len))
    assert all(passage.text.endswith("。") for passage in found)
    assert len(found) == 5


def test_what_a_cleaner_shortened_keeps_the_range_of_its_page() -> None:
    first, second = pages("张三的电话是一三八。住在北京。", "第二页。")
    masked = Document("张三的电话是<手机>。", first.origin, "a", "a.pdf", {"level": "restricted", "flags": ["pii"]})
    (passage,) = cut_documents([masked, second], max_tokens=100, count=len)
    assert (passage.origin.start, passage.origin.end) == (0, second.origin.end)
    assert passage.tags["level"] == "restricted"
    assert passage.tags["flags"] == ["pii"]


def test_the_strictest_level_of_all_pages_is_inherited() -> None:
    first, second = pages("一。", "二。")
    graded = [
        Document(p.text, p.origin, "a", "a.pdf", {"level": level})
        for p, level in ((first, "internal"), (second, "restricted"))
    ]
    (passage,) = cut_documents(graded, max_tokens=100, count=len)
    assert passage.tags["level"] == "restricted"


@pytest.mark.parametrize(
    ("line", "level"),
    [("# A", 1), ("###### F", 6), ("#标签", 0), ("第三章 处罚", 11), ("第十二条 员工应当遵守", 0), ("一、总则", 13), ("一、员工应当遵守公司制度。", 0),
     ("1.2 Scope", 13), ("3.5 kg of flour, sifted.", 0), ("Chapter IV", 11), ("第一章程序", 0), ("<篇名>卷一", 11)],
)  # fmt: skip
def test_what_is_a_heading(line: str, level: int) -> None:
    assert heading_level(line) == level


@pytest.mark.skipif(not DATA.is_dir(), reason="shared data is not on this machine")
@pytest.mark.parametrize("name", ["tcm_gb18030/457-伤寒论.txt", "laws_md/民法商法__公司法(2018-10-26).md"])
def test_every_passage_of_a_real_book_is_found_again_in_its_file(name: str) -> None:
    documents = list(read([DATA / name], Ledger()))
    again = text_of_document(documents[0].origin.file, documents[0].origin.document)
    found = list(cut_documents(documents, max_tokens=600, min_tokens=200, count=len))
    assert len(found) > 20
    assert all(again.text[passage.origin.start : passage.origin.end] == passage.text for passage in found)
    assert "".join("".join(passage.text for passage in found).split()) == "".join(again.text.split())
