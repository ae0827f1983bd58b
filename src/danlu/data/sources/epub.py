"""Books in EPUB: one passage a document of the spine, in Markdown; the page is its place in the spine, from 1."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from pathlib import PurePath

from danlu.data.encoding import CODECS
from danlu.data.markup import convert_page
from danlu.data.office.package import BrokenPartError, Package, attribute, local, open_package, resolved
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Fault, Item, Passage

PAGES = ("application/xhtml+xml", "text/html", "application/x-dtbook+xml")


def read_epub(source: Source, context: Context) -> Iterator[Item]:
    """Chapters in reading order (EPUB 2 and 3). A book under rights management is refused as encrypted."""
    try:
        with open_package(source) as package:
            root = _root_of(package)
            book = package.xml(root)
            title = next(((one.text or "").strip() for one in book.iter() if local(one) == "title"), "")
            spine = _spine(package, root)
            locked = _locked(package)
            num_used = 0
            for number, part in enumerate(spine, start=1):
                if part.lower() in locked:
                    yield Fault(number, "encrypted", {})
                    continue
                try:
                    page = convert_page(_decoded(package.bytes(part)))
                except BrokenPartError as error:
                    yield Fault(number, "broken_part", {"detail": str(error)[:200]})
                    continue
                if page.text.strip():
                    num_used += 1
                    yield Passage(number, page.text, title or page.title or PurePath(source.name).stem, number)
            if not num_used:
                yield Fault(0, "no_text", {})
    except BrokenPartError as error:
        yield Fault(0, "broken_part", {"detail": str(error)[:200]})


def _root_of(package: Package) -> str:
    for element in package.xml("META-INF/container.xml").iter():
        if local(element) == "rootfile" and (path := attribute(element, "full-path")):
            return resolved("", path)
    raise BrokenPartError("META-INF/container.xml names no book")


def _spine(package: Package, root: str) -> list[str]:
    """Parts of the book in reading order."""
    book, folder = package.xml(root), posixpath.dirname(root)
    items = {
        attribute(one, "id"): resolved(folder, attribute(one, "href") or "")
        for one in book.iter()
        if local(one) == "item" and (attribute(one, "media-type") or PAGES[0]) in PAGES
    }
    wanted = [attribute(one, "idref") for one in book.iter() if local(one) == "itemref"]
    return [items[key] for key in wanted if key in items] or list(items.values())


def _locked(package: Package) -> set[str]:
    """Parts that rights management encrypts; scrambled fonts are none of our business."""
    if not package.has("META-INF/encryption.xml"):
        return set()
    uris = (
        attribute(one, "URI")
        for one in package.xml("META-INF/encryption.xml").iter()
        if local(one) == "CipherReference"
    )
    return {resolved("", uri).lower() for uri in uris if uri}


def _decoded(content: bytes) -> str:
    """By byte order mark, else by what the page declares, else UTF-8, which the standard asks for."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    head = content[:200].partition(b'encoding="')[2].partition(b'"')[0].decode("ascii", "replace").lower()
    for name in ("utf-8-sig", CODECS.get(head, head), "gb18030"):
        try:
            return content.decode(name)
        except (UnicodeDecodeError, LookupError):
            continue
    raise BrokenPartError("a chapter is in no known encoding")
