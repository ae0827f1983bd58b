"""Web pages as documents: all visible text as Markdown; of portals, the article that trafilatura finds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from danlu.core.errors import DataError
from danlu.data.encoding import CODECS, Decoder
from danlu.data.markup import convert_page
from danlu.data.opening import Source
from danlu.data.sources.source import Change, Context, Fault, Item, Passage

MAX_PAGE_BYTES = 32 << 20
MAX_MENU_RATIO = 0.2
"""Above this share of links and menus in its text a page is a portal, whose article has to be found."""
MIN_ARTICLE_RATIO = 0.25
"""An article shorter than this share of the visible text is distrusted."""

_CHARSET = re.compile(rb"""charset=["']?([A-Za-z0-9_\-]+)""")


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
    page = convert_page(markup)
    text = page.text
    changes: tuple[Change, ...] = ()
    if page.menu_ratio > MAX_MENU_RATIO:
        article = trafilatura.extract(
            markup, output_format="markdown", include_tables=True, include_comments=False, favor_recall=True
        )
        if article and len(article) > MIN_ARTICLE_RATIO * len(text):
            changes = (("article_only", {"kept": len(article), "of": len(text)}),)
            text = article
    if not text.strip():
        yield Fault(0, "no_text", {})
        return
    yield Passage(1, text, page.title or PurePath(source.name).stem, None, changes)
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
