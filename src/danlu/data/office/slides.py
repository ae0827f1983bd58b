"""A presentation's slides as Markdown: titles, text, lists, tables, charts, diagrams and the speaker's notes.

Shapes are read from top to bottom and left to right, the title first. Slide numbers, dates and footers, which repeat
on every slide, are left out (ECMA-376 part 1, 19 and 21).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from danlu.data.office.alt import alt_text
from danlu.data.office.package import Package, attribute, child_of, local
from danlu.data.tables import markdown_table

TITLES = ("title", "ctrTitle")
FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")
BODIES = ("", "body", "obj")
NEAR = 150_000
"""EMU (914,400 an inch): shapes whose upper edges differ by less stand in one row."""


@dataclass(frozen=True, slots=True)
class Slide:
    """`number` counts from 1 as shown."""

    number: int
    text: str
    num_pictures: int
    furniture: str


def slides_of(package: Package) -> Iterator[Slide]:
    """In the order of the show. Raises BrokenPartError."""
    part = package.related("", "officeDocument") or "ppt/presentation.xml"
    relations = package.relations(part)
    slides = [one for one in package.xml(part).iter() if local(one) == "sldId"]
    for number, slide in enumerate(slides, start=1):
        key = next((value for name, value in slide.items() if name.endswith("}id")), "")
        _, name = relations.get(key, ("", ""))
        if package.has(name):
            yield _Reading(package, name).slide(number)


class _Reading:
    """One slide."""

    def __init__(self, package: Package, part: str) -> None:
        self.package, self.part = package, part
        self.relations = package.relations(part)
        self.num_pictures = 0
        self.furniture: list[str] = []
        layout = package.related(part, "slideLayout")
        self.places = _places_of(package.xml(layout)) if layout else {}

    def slide(self, number: int) -> Slide:
        tree = next((one for one in self.package.xml(self.part).iter() if local(one) == "spTree"), None)
        blocks = [block for block in self._shapes(tree) if block.strip()] if tree is not None else []
        notes = self.package.related(self.part, "notesSlide")
        if notes:
            said = [_lines(body) for shape, body in _bodies(self.package.xml(notes)) if _role(shape)[0] == "body"]
            blocks += [f"### Notes\n\n{text}" for text in said if text.strip()]
        return Slide(number, "\n\n".join(blocks), self.num_pictures, " / ".join(self.furniture))

    def _shapes(self, parent: Element) -> list[str]:
        shapes = [(self._place(shape), number, shape) for number, shape in enumerate(parent)]
        titles = [shape for _, _, shape in shapes if _role(shape)[0] in TITLES]
        others = sorted(
            (entry for entry in shapes if entry[2] not in titles),
            key=lambda entry: (entry[0][1] // NEAR, entry[0][0], entry[1]),
        )
        return [block for shape in [*titles, *(entry[2] for entry in others)] for block in self._shape(shape)]

    def _place(self, shape: Element) -> tuple[int, int]:
        """(left, top) in EMU; of a placeholder that does not say, its layout's."""
        offset = next((one for one in shape.iter() if local(one) == "off"), None)
        if offset is not None:
            return _number(offset, "x"), _number(offset, "y")
        role, index = _role(shape)
        return self.places.get((role, index)) or self.places.get((role, "")) or (0, 0)

    def _shape(self, shape: Element) -> list[str]:
        name = local(shape)
        if name == "grpSp":
            return self._shapes(shape)
        if name == "AlternateContent":
            options = list(shape)
            return self._shapes(options[0]) if options else []
        if name == "pic":
            self.num_pictures += 1
            told = next((one for one in shape.iter() if local(one) == "cNvPr"), None)
            return [alt_text(attribute(told, "descr"))] if told is not None else []
        if name == "graphicFrame":
            return self._frame(shape)
        body = child_of(shape, "txBody")
        if body is None:
            return []
        role, _ = _role(shape)
        if role in FURNITURE:
            self.furniture += [text] if (text := _lines(body).strip()) else []
            return []
        if role in TITLES:
            return [f"# {' '.join(_lines(body).split())}" if _lines(body).strip() else ""]
        return [_listed(body) if role in BODIES and _is_placeholder(shape) else _lines(body)]

    def _frame(self, frame: Element) -> list[str]:
        """A table, a chart or a diagram."""
        for element in frame.iter():
            name = local(element)
            if name == "tbl":
                return [_table(element)]
            if name == "chart" and (part := self._target(element, "id")):
                return [_chart(self.package.xml(part))]
            if name == "relIds" and (part := self._target(element, "dm")):
                texts = [_lines(one) for one in self.package.xml(part).iter() if local(one) == "t" and len(one)]
                return ["\n".join(f"- {' '.join(text.split())}" for text in texts if text.strip())]
        return []

    def _target(self, element: Element, name: str) -> str | None:
        _, part = self.relations.get(attribute(element, name) or "", ("", ""))
        return part if part and self.package.has(part) else None


def _places_of(layout: Element) -> dict[tuple[str, str], tuple[int, int]]:
    """Where a layout puts its placeholders, by (role, index)."""
    places: dict[tuple[str, str], tuple[int, int]] = {}
    for shape, _ in _bodies(layout):
        offset = next((one for one in shape.iter() if local(one) == "off"), None)
        if offset is not None and _is_placeholder(shape):
            role, index = _role(shape)
            places[role, index] = places[role, ""] = (_number(offset, "x"), _number(offset, "y"))
    return places


def _bodies(root: Element) -> list[tuple[Element, Element]]:
    """Shapes with text, and their text."""
    shapes = [(shape, child_of(shape, "txBody")) for shape in root.iter() if local(shape) == "sp"]
    return [(shape, body) for shape, body in shapes if body is not None]


def _placeholder(shape: Element) -> Element | None:
    return next((one for one in shape.iter() if local(one) == "ph"), None) if local(shape) == "sp" else None


def _is_placeholder(shape: Element) -> bool:
    return _placeholder(shape) is not None


def _role(shape: Element) -> tuple[str, str]:
    """A placeholder's type and index; ("", "") for any other shape."""
    place = _placeholder(shape)
    return ("", "") if place is None else (attribute(place, "type") or "", attribute(place, "idx") or "")


def _number(element: Element, name: str) -> int:
    text = attribute(element, name) or ""
    return int(text) if text.lstrip("-").isdigit() and len(text) < 15 else 0


def _text_of(paragraph: Element) -> str:
    out = []
    for child in paragraph:
        name = local(child)
        if name in ("r", "fld"):
            out += [part.text or "" for part in child if local(part) == "t"]
        elif name == "br":
            out.append("\n")
        else:  # formulas
            out += [part.text or "" for part in child.iter() if local(part) == "t"]
    return "".join(out).replace("\x0b", "\n").strip()


def _lines(body: Element) -> str:
    return "\n".join(text for one in body if local(one) == "p" and (text := _text_of(one)))


def _listed(body: Element) -> str:
    """A slide's body: several paragraphs are the points of a list, unless a point says that it is none."""
    points: list[tuple[int, bool, str]] = []
    for paragraph in body:
        if local(paragraph) == "p" and (text := _text_of(paragraph)):
            properties = child_of(paragraph, "pPr")
            depth = _number(properties, "lvl") if properties is not None else 0
            points.append((min(depth, 8), child_of(properties, "buNone") is None, text))
    if len(points) < 2:
        return "".join(text for _, _, text in points)
    return "\n".join(f"{'  ' * depth}- {text}" if marked else text for depth, marked, text in points)


def _table(table: Element) -> str:
    rows = []
    for row in table:
        if local(row) == "tr":
            cells = [cell for cell in row if local(cell) == "tc"]
            gone = [attribute(cell, "hMerge") == "1" or attribute(cell, "vMerge") == "1" for cell in cells]
            texts = ["\n".join(_lines(body) for body in cell if local(body) == "txBody") for cell in cells]
            rows.append(["" if merged else text for merged, text in zip(gone, texts, strict=True)])
    return markdown_table([row for row in rows if any(cell.strip() for cell in row)])


def _chart(root: Element) -> str:
    """A chart's numbers: a row for each category, a column for each series."""
    title = next((one for one in root.iter() if local(one) == "title"), None)
    heading = "".join(one.text or "" for one in title.iter() if local(one) == "t") if title is not None else ""
    names: list[str] = []
    columns: list[dict[int, str]] = []
    categories: dict[int, str] = {}
    for series in (one for one in root.iter() if local(one) == "ser"):
        names.append(" ".join(_points(child_of(series, "tx")).values()) or f"{len(names) + 1}")
        categories |= _points(child_of(series, "cat")) or _points(child_of(series, "xVal"))
        values = child_of(series, "val")
        columns.append(_points(values if values is not None else child_of(series, "yVal")))
    places = sorted({*categories, *(place for column in columns for place in column)})
    rows = [[categories.get(place, ""), *(column.get(place, "") for column in columns)] for place in places]
    table = markdown_table([["", *names], *rows]) if rows else ""
    return "\n\n".join(part for part in (f"### {heading.strip()}" if heading.strip() else "", table) if part)


def _points(element: Element | None) -> dict[int, str]:
    """A series' cached values by their place; dates and numbers as the file holds them."""
    if element is None:
        return {}
    found: dict[int, str] = {}
    for point in (one for one in element.iter() if local(one) == "pt"):
        value = child_of(point, "v")
        found[_number(point, "idx")] = ((value.text or "") if value is not None else "").strip()
    return found or {n: (one.text or "").strip() for n, one in enumerate(element.iter()) if local(one) == "v"}
