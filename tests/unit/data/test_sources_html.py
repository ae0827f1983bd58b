"""A company's web pages keep their headings, lists and tables; menus and scripts stay out."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.data.ledger import Ledger
from danlu.data.markup import convert_page
from danlu.data.sources import read

PAGE = """<!DOCTYPE html><html><head><title>差旅 制度</title><script>var x = 1</script></head><body>
<nav><a href="/">首页</a></nav><h2>补贴</h2><p>标准见<a href="a">下表</a>。</p>
<table><tr><th>城市</th><th>每日</th></tr><tr><td><a href="b">北京</a></td><td>80 元<br>含餐</td></tr></table>
<ul><li>住宿上限 400 元<li>凭票报销</ul><p hidden>尾</p></body></html>"""
TEXT = "## 补贴\n\n标准见下表。\n\n| 城市 | 每日 |\n| --- | --- |\n| 北京 | 80 元<br>含餐 |\n\n- 住宿上限 400 元\n- 凭票报销\n\n尾"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("name", ["page.html", "page.htm", "page"])
def test_a_page_becomes_markdown(tmp_path: Path, encoding: str, name: str) -> None:
    (tmp_path / name).write_bytes(PAGE.encode(encoding))
    (document,) = read([tmp_path / name], Ledger())
    assert (document.title, document.text) == ("差旅 制度", TEXT)


def test_broken_markup_gives_what_can_be_seen() -> None:
    assert convert_page("<table><tr><td>一<td>二<table><tr><td>三</table><p>四").text.startswith("| 一 | 二")
    assert convert_page("</td></tr></table><<a>>b &amp; c").text


def test_a_page_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("<html><body><img src='a.png'></body></html>", encoding="utf-8")
    ledger = Ledger()
    assert list(read([tmp_path / "x.html"], ledger)) == []
    assert ledger.rejects[0].reason == "no_text"
