"""HTML to Markdown for pages that are documents: headings, lists, tables and text in order, nothing that browsers hide.

Not an extractor of articles from portals: it keeps all that is visible, and tells how much of it is links and menus, so
that the reader can send such pages to one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from danlu.data.tables import markdown_table

BLOCKS = {
    "p",
    "div",
    "section",
    "article",
    "main",
    "blockquote",
    "dl",
    "dt",
    "dd",
    "figure",
    "figcaption",
    "address",
    "ul",
    "ol",
}
HIDDEN = {"script", "style", "noscript", "template", "svg", "head", "select", "button", "iframe"}
MENUS = {"nav", "header", "footer", "aside", "form"}
HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SPACES = re.compile(r"[ \t\r\n\f\xa0]+")


@dataclass(slots=True)
class Page:
    """A page as Markdown, its title, and what share (0-1) of its visible text is links or stands in menus."""

    text: str
    title: str
    menu_ratio: float


@dataclass(slots=True)
class _Table:
    rows: list[list[str]] = field(default_factory=list)
    cell: list[str] | None = None


class _Converter(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self.line: list[str] = []
        self.prefix = ""
        self.tables: list[_Table] = []
        self.title = ""
        self.open: dict[str, int] = {}
        self.num_chars = self.num_menu_chars = 0

    def _inside(self, tags: set[str]) -> bool:
        return any(self.open.get(tag, 0) > 0 for tag in tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HIDDEN | MENUS | {"a", "title", "pre"}:
            self.open[tag] = self.open.get(tag, 0) + 1
        if tag == "table":
            self._end_block()
            self.tables.append(_Table())
        elif self.tables:
            self._in_table(tag)
        elif tag in HEADINGS:
            self._end_block()
            self.prefix = "#" * HEADINGS[tag] + " "
        elif tag == "li":
            self._end_block()
            self.prefix = "- "
        elif tag in BLOCKS | MENUS or tag in ("pre", "hr"):
            self._end_block()
        elif tag == "br":
            self.line.append("\n")

    def _in_table(self, tag: str) -> None:
        table = self.tables[-1]
        if tag == "tr":
            self._end_cell()
            table.rows.append([])
        elif tag in ("td", "th"):
            self._end_cell()
            if not table.rows:
                table.rows.append([])
            table.cell = []
        elif tag in BLOCKS or tag in ("br", "li"):
            self.handle_text("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            self.open[tag] = max(0, self.open[tag] - 1)
        if tag == "table" and self.tables:
            self._end_cell()
            table = self.tables.pop()
            self._add(markdown_table([row for row in table.rows if any(cell.strip() for cell in row)]))
        elif self.tables and tag in ("td", "th", "tr"):
            self._end_cell()
        elif not self.tables and (tag in HEADINGS or tag in BLOCKS | MENUS or tag in ("li", "pre")):
            self._end_block()

    def handle_data(self, data: str) -> None:
        if self.open.get("title"):
            self.title += data
        elif not self._inside(HIDDEN):
            num = len(data.strip())
            self.num_chars += num
            self.num_menu_chars += num if self._inside(MENUS | {"a"}) else 0
            if not self.open.get("nav"):  # a menu is told of in the ratio, not in the text
                self.handle_text(data if self.open.get("pre") else _SPACES.sub(" ", data))

    def handle_text(self, text: str) -> None:
        if not self.tables:
            self.line.append(text)
        elif self.tables[-1].cell is not None:
            self.tables[-1].cell.append(text)

    def _end_cell(self) -> None:
        table = self.tables[-1]
        if table.cell is not None:
            table.rows[-1].append(_tidy("".join(table.cell)))
        table.cell = None

    def _add(self, block: str) -> None:
        if self.tables and self.tables[-1].cell is not None:
            self.tables[-1].cell.append(block)
        elif block:
            self.blocks.append(block)

    def _end_block(self) -> None:
        text = _tidy("".join(self.line))
        self.line.clear()
        if text:
            self._add(f"{self.prefix}{text}")
        self.prefix = ""

    def finish(self) -> None:
        """Whatever the page left open."""
        self.close()
        while self.tables:
            self.handle_endtag("table")
        self._end_block()


def _tidy(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().split("\n") if line.strip())


def convert_page(markup: str) -> Page:
    """Never fails: broken markup gives what can be seen of it."""
    converter = _Converter()
    converter.feed(markup)
    converter.finish()
    text = ""
    for block in converter.blocks:  # items of one list stand close together
        close = block.startswith("- ") and text.rsplit("\n", 1)[-1].startswith("- ")
        text += f"\n{block}" if close else f"\n\n{block}"
    menu_ratio = converter.num_menu_chars / converter.num_chars if converter.num_chars else 0.0
    return Page(text.strip(), _SPACES.sub(" ", converter.title).strip(), menu_ratio)
