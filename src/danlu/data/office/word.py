"""A Word document's text as Markdown: headings, numbered and bulleted lists, tables, text boxes, foot- and endnotes.

Told, not silently dropped: deletions of tracked changes, hidden text, tables of contents, running headers, pictures,
comments. Insertions of tracked changes, content controls and formulas are text (ECMA-376 part 1, 17).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from danlu.data.office.alt import alt_text
from danlu.data.office.numbering import Numbering, read_numbering
from danlu.data.office.package import Package, attribute, child_of, local
from danlu.data.tables import markdown_table

_HEADING = re.compile(r"^(?:heading|标题|標題|überschrift|titre|見出し)\s*([1-9])$", re.IGNORECASE)
_CONTENTS = re.compile(r"^(?:toc|目录|目錄)\s*\d$", re.IGNORECASE)
MAX_POINT_CHARS = 2
"""A longer label (第十二条) begins a paragraph rather than a point of a list."""
TITLES = ("title", "标题", "標題")
TRANSPARENT = {"hyperlink", "ins", "moveTo", "smartTag", "customXml", "fldSimple", "sdt", "sdtContent", "dir", "bdo",
               "rubyBase", "ruby", "Choice"}  # fmt: skip
GONE = {"del", "moveFrom"}
SIGNS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-", "ptab": "\t"}


class _Point(str):
    """A block that stands close to its neighbours: a list's point."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Style:
    name: str = ""
    based_on: str | None = None
    outline: int | None = None
    list_id: str | None = None
    depth: int | None = None


@dataclass(slots=True)
class Word:
    """One document while it is read. `left_out` counts what is there and not in the text."""

    package: Package
    part: str
    styles: dict[str, Style] = field(default_factory=dict)
    numbering: Numbering = field(default_factory=Numbering)
    notes: dict[str, str] = field(default_factory=dict)
    """Foot- and endnotes that were referred to, in that order."""
    known_notes: dict[str, str] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def markdown(self) -> str:
        """The whole text. Raises BrokenPartError."""
        root = self.package.xml(self.part)
        if part := self.package.related(self.part, "styles"):
            self.styles = dict(map(_style, (one for one in self.package.xml(part) if local(one) == "style")))
        if part := self.package.related(self.part, "numbering"):
            self.numbering = read_numbering(self.package.xml(part))
        for kind in ("footnote", "endnote"):
            if part := self.package.related(self.part, f"{kind}s"):
                for note in self.package.xml(part):
                    if attribute(note, "type") is None:
                        self.known_notes[f"{kind}{attribute(note, 'id')}"] = " ".join(self._blocks(note)).strip()
        body = next((child for child in root if local(child) == "body"), root)
        blocks = self._blocks(body)
        blocks += [_Point(f"[^{number}]: {text}") for number, text in enumerate(self.notes.values(), start=1)]
        return _spaced(blocks)

    def furniture(self) -> str:
        """Texts of running headers and footers, each once."""
        texts: dict[str, None] = {}
        for kind, part in self.package.relations(self.part).values():
            if kind in ("header", "footer") and self.package.has(part):
                for text in self._blocks(self.package.xml(part)):
                    texts[" ".join(text.split())] = None
        return " / ".join(text for text in texts if text and any(map(str.isalpha, text)))

    def _blocks(self, parent: Element) -> list[str]:
        """Paragraphs and tables, in order, whatever wraps them."""
        blocks: list[str] = []
        for child in parent:
            name = local(child)
            if name == "p":
                blocks += self._paragraph(child)
            elif name == "tbl":
                blocks.append(self._table(child))
            elif name == "AlternateContent":
                blocks += self._blocks(_chosen(child))
            elif name in GONE:
                self.left_out["deleted"] += 1
            elif name in TRANSPARENT or name == "txbxContent":
                blocks += self._blocks(child)
        return [block for block in blocks if block.strip()]

    def _paragraph(self, element: Element) -> list[str]:
        """The paragraph, and what stands in text boxes anchored in it."""
        boxes: list[str] = []
        text = "".join(self._inline(element, boxes)).strip("\n")
        properties = child_of(element, "pPr")
        style = self._style_of(properties)
        if _CONTENTS.match(style.name) and text.strip():
            self.left_out["contents"] += 1
            return boxes
        label, depth = self._label(properties, style) if text.strip() else ("", 0)
        level = _level(style, properties)
        if level:
            title = " ".join(f"{label if label != '-' else ''} {text}".split())
            return [f"{'#' * level} {title}" if title else "", *boxes]
        if label:
            text = f"{'  ' * depth}{label} {text.strip()}"
            return [_Point(text) if depth or len(label) <= MAX_POINT_CHARS else text, *boxes]
        return [text.strip("\n\t "), *boxes]

    def _style_of(self, properties: Element | None) -> Style:
        """The paragraph's style with what it inherits."""
        name = _value(properties, "pStyle")
        style = self.styles.get(name or "", Style(name or ""))
        merged, seen = style, {name}
        while style.based_on and style.based_on not in seen:
            seen.add(style.based_on)
            style = self.styles.get(style.based_on, Style())
            merged = Style(
                merged.name,
                style.based_on,
                style.outline if merged.outline is None else merged.outline,
                style.list_id if merged.list_id is None else merged.list_id,
                style.depth if merged.depth is None else merged.depth,
            )
            if _HEADING.match(style.name) and not _HEADING.match(merged.name) and merged.outline is None:
                merged = Style(style.name, style.based_on, None, merged.list_id, merged.depth)
        return merged

    def _label(self, properties: Element | None, style: Style) -> tuple[str, int]:
        """A list item's label and how deep it stands; ("", 0) for what is none."""
        numbered = child_of(properties, "numPr")
        list_id, depth = style.list_id, style.depth or 0
        if numbered is not None:
            list_id = _value(numbered, "numId") or list_id
            told = _value(numbered, "ilvl")
            depth = int(told) if told and told.isdigit() else depth
        depth = min(depth, 8)
        if list_id not in (None, "0"):
            label = self.numbering.label(list_id or "", depth)
            if label is not None:
                return label, depth
        return ("-", 0) if style.name.lower().startswith("list bullet") else ("", 0)

    def _inline(self, parent: Element, boxes: list[str]) -> list[str]:
        out: list[str] = []
        for child in parent:
            name = local(child)
            if name == "r":
                out += self._run(child, boxes)
            elif name in ("oMath", "oMathPara"):
                out.append("".join(part.text or "" for part in child.iter() if local(part) == "t"))
            elif name in GONE:
                self.left_out["deleted"] += 1
            elif name == "AlternateContent":
                out += self._inline(_chosen(child), boxes)
            elif name in TRANSPARENT:
                out += self._inline(child, boxes)
        return out

    def _run(self, run: Element, boxes: list[str]) -> list[str]:
        out: list[str] = []
        properties = child_of(run, "rPr")
        if properties is not None and any(
            local(one) == "vanish" and attribute(one, "val") not in ("0", "false") for one in properties
        ):
            self.left_out["hidden"] += 1
            return out
        for child in run:
            name = local(child)
            if name == "t":
                out.append(child.text or "")
            elif name in SIGNS:
                out.append(SIGNS[name])
            elif name == "sym":
                out.append(_symbol(attribute(child, "char")))
            elif name in ("footnoteReference", "endnoteReference"):
                out.append(self._note(name.removesuffix("Reference") + (attribute(child, "id") or "")))
            elif name in ("drawing", "pict", "object", "AlternateContent"):
                self._drawn(_chosen(child) if name == "AlternateContent" else child, boxes)
            elif name == "ruby":
                out += self._inline(child, boxes)
        return out

    def _drawn(self, element: Element, boxes: list[str]) -> None:
        """Text boxes among drawings; pictures are counted."""
        for child in element:
            name = local(child)
            if name == "txbxContent":
                boxes += self._blocks(child)
            elif name == "AlternateContent":
                self._drawn(_chosen(child), boxes)
            else:
                self.left_out["pictures"] += name in ("blip", "imagedata")
                if name == "docPr" and (text := alt_text(attribute(child, "descr"))):
                    boxes.append(text)
                self._drawn(child, boxes)

    def _note(self, key: str) -> str:
        text = self.known_notes.get(key)
        if not text:
            return ""
        self.notes.setdefault(key, text)
        return f"[^{list(self.notes).index(key) + 1}]"

    def _table(self, table: Element) -> str:
        """A cell over several columns or rows is told once, at its upper left."""
        rows: list[list[str]] = []
        for row in _inside(table, "tr"):
            cells = [""] * _span(row, "gridBefore", 0)
            for cell in _inside(row, "tc"):
                properties = child_of(cell, "tcPr")
                merge = (
                    next((one for one in properties if local(one) == "vMerge"), None)
                    if properties is not None
                    else None
                )
                goes_on = merge is not None and attribute(merge, "val") in (None, "continue")
                cells.append("" if goes_on else "\n".join(_flat(block) for block in self._blocks(cell)))
                cells += [""] * (_span(properties, "gridSpan", 1) - 1)
            rows.append(cells)
        if all(len(row) <= 1 for row in rows):  # a frame around text
            return "\n\n".join(cell for row in rows for cell in row if cell.strip())
        return markdown_table([row for row in rows if any(cell.strip() for cell in row)])


def _style(element: Element) -> tuple[str, Style]:
    values = {local(child): child for child in element}
    paragraph = values.get("pPr")
    numbered = child_of(paragraph, "numPr")
    outline, depth = _value(paragraph, "outlineLvl"), _value(numbered, "ilvl")
    return attribute(element, "styleId") or "", Style(
        (attribute(values["name"], "val") or "") if "name" in values else "",
        attribute(values["basedOn"], "val") if "basedOn" in values else None,
        int(outline) if outline and outline.isdigit() else None,
        _value(numbered, "numId"),
        int(depth) if depth and depth.isdigit() else None,
    )


def _level(style: Style, properties: Element | None) -> int:
    """1-6 for a heading, 0 for none. Outline level 9 is body text."""
    if style.name.lower() in TITLES:
        return 1
    told = _value(properties, "outlineLvl")
    outline = int(told) if told and told.isdigit() else style.outline
    if outline is not None:
        return min(outline + 1, 6) if outline < 9 else 0
    named = _HEADING.match(style.name)
    return min(int(named[1]), 6) if named else 0


def _value(parent: Element | None, name: str) -> str | None:
    """`w:val` of a child."""
    child = child_of(parent, name)
    return attribute(child, "val") if child is not None else None


def _span(parent: Element | None, name: str, default: int) -> int:
    if parent is not None and name == "gridBefore":
        parent = child_of(parent, "trPr")
    told = _value(parent, name)
    return min(int(told), 200) if told and told.isdigit() else default


def _inside(parent: Element, name: str) -> list[Element]:
    """Rows of a table, cells of a row: also inside content controls and tracked insertions."""
    found: list[Element] = []
    for child in parent:
        if local(child) == name:
            found.append(child)
        elif local(child) in TRANSPARENT:
            found += _inside(child, name)
    return found


def _chosen(element: Element) -> Element:
    """Of alternative contents the first choice; the fallback says the same for old programs."""
    options = list(element)
    return next((one for one in options if local(one) == "Choice"), options[0] if options else element)


def _symbol(code: str | None) -> str:
    """A sign of a symbol font: bullets and arrows live in the private area, whose meaning only the font knows."""
    value = int(code, 16) if code and re.fullmatch("[0-9A-Fa-f]{1,6}", code) else 0
    return "•" if 0xF000 <= value <= 0xF0FF else chr(value) if 31 < value < 0xD800 else ""


def _flat(block: str) -> str:
    """A block inside a cell: of a table in the table, its cells in a line."""
    lines = [line for line in block.split("\n") if not re.fullmatch(r"\|(?: --- \|)+", line)]
    return "\n".join(line.strip("| ").replace(" | ", "; ") if line.startswith("| ") else line for line in lines)


def _spaced(blocks: list[str]) -> str:
    """Blocks with a blank line between them; items of a list stand close together."""
    parts: list[str] = []
    was_point = False
    for block in blocks:
        is_point = isinstance(block, _Point)
        if parts:
            parts.append("\n" if is_point and was_point else "\n\n")
        parts.append(block)
        was_point = is_point
    return "".join(parts).strip("\n")
