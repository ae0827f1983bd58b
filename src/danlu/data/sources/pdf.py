"""PDF pages by their text layer, in reading order, one passage a page. Pages whose text layer is no use are queued for
text recognition; without a recogniser each is refused by name, and a blank page is named as blank.

A page is queued when fewer than 50 characters stand on it beside pictures or drawings, or when more than 5 % of its
characters are garbled (no character map). A short page of text alone (a chapter's title) is whole as it is.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_float
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from danlu.core.errors import DataError
from danlu.data.ocr.recogniser import RecognitionError
from danlu.data.opening import Source
from danlu.data.page.furniture import take_off
from danlu.data.page.order import find_style, text_of_page
from danlu.data.page.segments import SOFT_HYPHEN, Bar, Rule, Segment
from danlu.data.sources.source import Change, Context, Fault, Item, Passage

NO_TITLES = ("", "untitled", "(untitled)", "(anonymous)", "anonymous")
MIN_CHARACTERS = 50
MAX_GARBLED_RATIO = 0.05
MAX_PAGE_CHARACTERS = 1_000_000
MAX_PAGES = 20_000
CELL_GAP = 1.3
"""A gap of more than this many font heights parts two cells or columns; spaces of justified text are narrower."""
ALMOST_EMPTY = 1000
"""Characters below which a page is looked at for pictures: running headers may be all the text that a scan has."""
MIN_RULE = 5.0
MAX_STROKE = 2.5
MAX_RULES = 4000

_RADICALS = re.compile("[\u2e80-\u2fd5]")
_SYMBOL_BULLETS = dict.fromkeys(map(ord, "\uf0b7\uf0a7\uf0d8\uf0fc\uf06e\uf076\uf0a8\uf071\uf075"), "•")


@dataclass(slots=True)
class _Page:
    segments: list[Segment]
    rules: list[Rule]
    bars: list[Bar]
    height: float
    num_characters: int
    num_garbled: int
    is_drawn: bool
    """Holds pictures or drawings."""
    is_cut: bool = False
    """Holds more characters than any page that people read."""

    text: str = ""
    changes: tuple[Change, ...] = ()

    @property
    def garbled_ratio(self) -> float:
        return self.num_garbled / self.num_characters if self.num_characters else 0.0

    @property
    def is_garbled(self) -> bool:
        return self.garbled_ratio > MAX_GARBLED_RATIO

    @property
    def is_blank(self) -> bool:
        return not self.text and not self.is_drawn and not self.is_garbled

    @property
    def needs_recognition(self) -> bool:
        return self.is_garbled or (self.is_drawn and sum(map(len, self.text.split())) < MIN_CHARACTERS)


def read_pdf(source: Source, context: Context) -> Iterator[Item]:
    """`line` is the page number too, so that `file:line` names the page."""
    try:
        import pypdfium2  # lazy: only PDFs need the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="pypdfium2", what="PDF") from error
    with _file_of(source) as path:
        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as error:
            secret = "password" in str(error).lower() or "security" in str(error).lower()
            yield Fault(0, "encrypted" if secret else "unreadable", {} if secret else {"detail": str(error)[:120]})
            return
        try:
            title = str(document.get_metadata_dict().get("Title") or "").strip()
            num_pages = len(document)
            pages = [_load(document, number, pypdfium2) for number in range(min(num_pages, MAX_PAGES))]
        finally:
            document.close()
        title = PurePath(source.name).stem if title.lower() in NO_TITLES else title
        yield from _items(path, pages, title, context)
        if num_pages > MAX_PAGES:
            yield Fault(MAX_PAGES + 1, "too_many_pages", {"limit": MAX_PAGES, "pages": num_pages})


def _items(path: Path, pages: list[_Page | str], title: str, context: Context) -> Iterator[Item]:
    _lay_out([page for page in pages if isinstance(page, _Page) and not page.is_garbled])
    blank = [str(number) for number, page in enumerate(pages, 1) if isinstance(page, _Page) and page.is_blank]
    if blank and len(blank) < len(pages):
        context.note("note_blank_pages", pages=", ".join(blank[:50]) + (", ..." if len(blank) > 50 else ""))
    elif blank or not pages:
        yield Fault(0, "no_text", {})
    queue = [n for n, page in enumerate(pages, 1) if isinstance(page, _Page) and page.needs_recognition]
    read, failure = _recognised(path, queue, context)
    for number, page in enumerate(pages, 1):
        if isinstance(page, str):
            yield Fault(number, "unreadable_page", {"page": number, "detail": page})
        elif page.needs_recognition:
            if text := read.get(number, "").strip():
                name = context.recogniser.name if context.recogniser else ""
                yield Passage(number, text, title, number, (("recognised", {"name": name}),))
            else:
                yield _refusal(number, page, context, failure)
        elif page.text:
            yield Passage(number, page.text, title, number, page.changes)


def _lay_out(pages: list[_Page]) -> None:
    """Fill in the pages' texts: furniture off, in reading order, in the document's own style."""
    kept, lost = take_off([page.segments for page in pages], [page.height for page in pages])
    style = find_style(kept)
    for page, segments, furniture in zip(pages, kept, lost, strict=True):
        changes: list[Change] = []
        if furniture:
            values = {"num": len(furniture.lines), "pages": furniture.num_pages, "of": len(pages)}
            changes.append(("repeated_lines", values | {"text": " / ".join(furniture.lines)[:200]}))
        text, num = _RADICALS.subn(_unified, text_of_page(segments, style, page.rules, page.bars))
        changes += [("radicals", {"num": num})] if num else []
        changes += [("page_cut", {"limit": MAX_PAGE_CHARACTERS})] if page.is_cut else []
        page.text, page.changes = text.strip(), tuple(changes)


def _recognised(path: Path, queue: list[int], context: Context) -> tuple[dict[int, str], str]:
    """What the recogniser reads on the queued pages, and how it failed where it did."""
    if not queue or context.recogniser is None:
        return {}, ""
    try:
        return context.recogniser.recognise(path, queue), ""
    except RecognitionError as error:
        return {}, str(error)


def _refusal(number: int, page: _Page, context: Context, failure: str) -> Fault:
    raw = " ".join(segment.text for segment in page.segments)[:2000]
    if context.recogniser is not None:
        name = context.recogniser.name
        if failure:
            return Fault(number, "ocr_failed", {"name": name, "detail": failure}, raw)
        return Fault(number, "ocr_empty", {"name": name, "page": number}, raw)
    if page.is_garbled:
        return Fault(number, "garbled_page", {"page": number, "ratio": f"{page.garbled_ratio:.0%}"}, raw)
    return Fault(number, "needs_ocr", {"page": number, "characters": page.num_characters}, raw)


@contextmanager
def _file_of(source: Source) -> Iterator[Path]:
    """The PDF as a plain file: recognisers are programs, which read no gzip."""
    if source.compression is None:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="danlu-pdf-") as folder:
        path = Path(folder, "document.pdf")
        with source.seekable() as packed, path.open("wb") as file:
            while piece := packed.read(1 << 20):
                file.write(piece)
        yield path


def _unified(match: re.Match[str]) -> str:
    """Some fonts map characters to the radicals that look like them: ⼈ for 人."""
    return unicodedata.normalize("NFKC", match[0])


def _load(document: Any, index: int, pypdfium2: Any) -> _Page | str:
    """One page's segments, or what is wrong with it."""
    raw = pypdfium2.raw
    try:
        page = document[index]
        layer = page.get_textpage()
    except pypdfium2.PdfiumError as error:
        return str(error)[:120]
    width, height = page.get_size()
    turn = _turn(page.get_rotation(), width, height)
    rules, bars = _rules(page, raw, turn)
    segments, num, num_garbled = _segments(layer.raw, raw, turn, rules)
    kinds = (raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH, raw.FPDF_PAGEOBJ_SHADING)
    is_drawn = num < ALMOST_EMPTY and any(True for _ in page.get_objects(filter=kinds, max_depth=4))
    is_cut = layer.count_chars() > MAX_PAGE_CHARACTERS
    layer.close()
    page.close()
    return _Page(segments, rules, bars, height, num, num_garbled, is_drawn, is_cut)


def _rules(page: Any, raw: Any, turn: Any) -> tuple[list[Rule], list[Bar]]:
    """Lines of tables, upright and level: thin strokes, and the sides of boxes. Of drawings with thousands of lines,
    none."""
    rules: list[Rule] = []
    bars: list[Bar] = []
    for drawn in page.get_objects(filter=(raw.FPDF_PAGEOBJ_PATH,), max_depth=3):
        for left, top, right, bottom in _boxes(drawn, raw, turn):
            if bottom - top >= MIN_RULE:
                rules += [Rule(x, top, bottom) for x in ((left, right) if right - left > MAX_STROKE else (left,))]
            if right - left >= MIN_RULE:
                bars += [Bar(y, left, right) for y in ((top, bottom) if bottom - top > MAX_STROKE else (top,))]
        if len(rules) + len(bars) > MAX_RULES:
            return [], []
    return rules, bars


def _boxes(drawn: Any, raw: Any, turn: Any) -> Iterator[tuple[float, float, float, float]]:
    """A path's own box; of a path with many strokes (a whole grid drawn at once), each stroke's box."""
    num = raw.FPDFPath_CountSegments(drawn.raw)
    if num <= 5:
        yield turn(*drawn.get_bounds())
        return
    matrix = drawn.get_matrix()
    x, y, before = c_float(), c_float(), None
    for index in range(min(num, MAX_RULES)):
        stroke = raw.FPDFPath_GetPathSegment(drawn.raw, index)
        if not raw.FPDFPathSegment_GetPoint(stroke, byref(x), byref(y)):
            continue
        here = matrix.on_point(x.value, y.value)
        if before and raw.FPDFPathSegment_GetType(stroke) == raw.FPDF_SEGMENT_LINETO:
            left, right = sorted((before[0], here[0]))
            low, high = sorted((before[1], here[1]))
            if min(right - left, high - low) < 1:
                yield turn(left, low, right, high)
        before = here


def _turn(degrees: int, width: float, height: float) -> Any:
    """From the page's own coordinates (y upwards, before its rotation) to what is seen (y downwards). `width` and
    `height` are of the page as seen."""
    return {
        0: lambda left, bottom, right, top: (left, height - top, right, height - bottom),
        90: lambda left, bottom, right, top: (bottom, left, top, right),
        180: lambda left, bottom, right, top: (width - right, bottom, width - left, top),
        270: lambda left, bottom, right, top: (width - top, height - right, width - bottom, height - left),
    }[degrees]


def _segments(layer: Any, raw: Any, turn: Any, rules: list[Rule]) -> tuple[list[Segment], int, int]:
    """Runs of glyphs on one line without a wide gap; number of characters without spaces, and of garbled ones."""
    segments: list[Segment] = []
    current: Segment | None = None
    space, num, num_garbled = False, 0, 0
    box = raw.FS_RECTF()
    for index in range(min(raw.FPDFText_CountChars(layer), MAX_PAGE_CHARACTERS)):
        code = raw.FPDFText_GetUnicode(layer, index)
        if code in (10, 13):
            current = None
        elif code in (9, 32, 0xA0, 0x3000):
            space = True
            continue
        elif code in (2, 0xFFFE, 0xAD):
            if current is not None:
                current.text += SOFT_HYPHEN
        else:
            num += 1
            char = chr(code) if 0 < code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF else "\ufffd"
            char = _SYMBOL_BULLETS.get(code, char)
            num_garbled += _is_garbled(char) or bool(raw.FPDFText_HasUnicodeMapError(layer, index))
            raw.FPDFText_GetLooseCharBox(layer, index, byref(box))
            left, top, right, bottom = turn(box.left, box.bottom, box.right, box.top)
            if current is not None and not _is_apart(current, left, top, bottom, rules):
                current.text += f" {char}" if space else char
                current.right, current.bottom = max(current.right, right), max(current.bottom, bottom)
                current.top = min(current.top, top)
            else:
                current = Segment(char, left, top, right, bottom, max(bottom - top, 0.1))
                segments.append(current)
        space = False
    return segments, num, num_garbled


def _is_apart(segment: Segment, left: float, top: float, bottom: float, rules: list[Rule]) -> bool:
    """Does a glyph stand on another line, or in another cell of the same line?"""
    size = max(segment.size, bottom - top)
    middle, gap = (top + bottom) / 2, left - segment.right
    if abs(middle - segment.middle) > 0.6 * size or gap > CELL_GAP * size or gap < -1.5 * size:
        return True
    return gap > 0.1 * size and any(
        segment.right - 1 <= rule.x <= left + 1 and rule.is_beside(middle) for rule in rules
    )


def _is_garbled(char: str) -> bool:
    return char == "\ufffd" or unicodedata.category(char) in ("Co", "Cn", "Cc")
