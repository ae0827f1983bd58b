"""Web pages as documents: the article with its tables by trafilatura, or, where it finds none, all visible text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import PurePath

from danlu.core.errors import DataError
from danlu.data.encoding import CODECS, Decoder
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage

MAX_PAGE_BYTES = 32 << 20
MIN_ARTICLE_RATIO = 0.25
"""An extract shorter than this share of the visible text is distrusted on short pages."""
SHORT_PAGE_CHARS = 2000

_CHARSET = re.compile(rb"""charset=["']?([A-Za-z0-9_\-]+)""")
_BLOCKS = {
    "p",
    "div",
    "br",
    "li",
    "tr",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "table",
    "section",
    "article",
    "title",
    "pre",
}
_HIDDEN = {"script", "style", "noscript", "template", "svg"}


def read_html(source: Source, context: Context) -> Iterator[Item]:
    """One passage a page, in Markdown where the page has structure."""
    try:
        import trafilatura  # lazy: only web pages need the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="trafilatura", what="HTML") from error
    content = b""
    for chunk in source.chunks():
        content += chunk
        if len(content) > MAX_PAGE_BYTES:
            yield Fault(0, "document_too_large", {"limit": MAX_PAGE_BYTES >> 20})
            return
    markup = _decoded(content[source.mark_bytes :], source)
    if markup is None:
        yield Fault(0, "undecodable", {})
        return
    visible = visible_text(markup)
    article = trafilatura.extract(markup, output_format="markdown", include_tables=True, include_comments=False) or ""
    if not article.strip() or (len(visible) < SHORT_PAGE_CHARS and len(article) < MIN_ARTICLE_RATIO * len(visible)):
        article = visible
    if not article.strip():
        yield Fault(0, "no_text", {})
        return
    found = re.search(r"<title[^>]*>(.*?)</title>", markup, re.IGNORECASE | re.DOTALL)
    title = re.sub(r"\s+", " ", found[1]).strip() if found else ""
    yield Passage(1, article, title or PurePath(source.name).stem)
    if source.cut:
        yield Fault(0, "compressed_cut", {})


def _decoded(content: bytes, source: Source) -> str | None:
    """By byte order mark, by what the page declares of itself, by what it looks like."""
    if source.decoder.wide:
        text = content.decode(source.decoder.wide, "replace")
        return text if "�" not in text else None
    declared = _CHARSET.search(content[:4096])
    names = [declared[1].decode("ascii").lower()] if declared else []
    names = ["gb18030" if name in ("gb2312", "gbk") else CODECS.get(name, name) for name in names]
    for name in ["utf-8", *names]:
        try:
            text = content.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
        source.decoder = Decoder(bom=source.decoder.bom)
        source.decoder.seen[name] += 1
        return text
    lines = [source.decoder.decode(line)[0] for line in content.split(b"\n")]
    return "\n".join(line for line in lines if line is not None) if sum(line is None for line in lines) < 3 else None


class _Visible(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in _HIDDEN
        if tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" | ")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in _HIDDEN and self.hidden > 0
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


def visible_text(markup: str) -> str:
    """What a browser would show, a line a block."""
    parser = _Visible()
    parser.feed(markup)
    parser.close()
    lines = (re.sub(r"[ \t\r\f]+", " ", line).strip() for line in "".join(parser.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()
