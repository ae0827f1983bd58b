"""JSON in every shape people save it: a value per line, an array, one object, objects glued together; any suffix.

Streams: a few hundred elements are in memory. A broken element costs itself alone; what is written wrongly and has one
clear meaning is read and recorded (json_values.py). Not a validator of JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import orjson

from danlu.data.containers import at_path, path_to_rows, place_of
from danlu.data.json_values import DECODER, count_behind_keys, needs_care, parse_values
from danlu.data.opening import HEAD_BYTES, MAX_LINE_BYTES, Line, Source
from danlu.data.sources.source import Change, Context, Fault, Item, Row, Rows, changes_of, fault_of

MAX_ELEMENT_CHARS = 64 << 20
COMMENT = ("//", "#")
PEEKED_LINES = 20
MAX_GATHERED, GATHERED_CHARS = 256, 1 << 18
"""Rows of an array taken together, and their text: what is more waits for the next ones."""

_MARK = re.compile(r'["{}\[\],]')
_MARK_BOTH = re.compile(r"[\"'{}\[\],]")
_FLAT = re.compile(r"""\{(?:[^"'{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+\}""", re.DOTALL)
"""A whole object without another one or a list inside, as most rows of an array are."""
_STRING_END = {'"': re.compile(r'["\\]'), "'": re.compile(r"['\\]")}
_OPENED = re.compile(r"\{.*:\s*[\[{]\s*$")
"""A first line that opens an object and, inside it, a list or another one, with rows on lines of their own to come."""


def read_json(source: Source, context: Context) -> Iterator[Item]:
    """Rows of a JSON file: by lines where lines are whole values, by brackets otherwise; of a file that is one object,
    the one list of rows inside it."""
    by_line = holds_a_value_per_line(source)
    items = _by_line(source, context) if by_line else _gathered(_by_bracket(source.lines(in_pieces=True)))
    head = list(islice(items, 2))
    if source.span is None and len(head) == 1 and (inside := _rows_inside(head[0], context)) is not None:
        yield from inside
    else:
        yield from head
        yield from items


def _rows_inside(item: Item, context: Context) -> Iterator[Item] | None:
    """The rows of a container that is all there is in a file; None where it is none."""
    row = item.row(0) if isinstance(item, Rows) and len(item.values) == 1 else item
    if not isinstance(row, Row) or not isinstance(row.values, dict):
        return None
    path = path_to_rows(row.values, context.fits)
    if path is None:
        return None
    rows = at_path(row.values, path)
    context.note("note_rows_inside", path=".".join(path), num=len(rows))
    place = place_of(row.raw, path) if not row.changes else None
    if place is None:
        return iter([Row(row.line, one, json.dumps(one, ensure_ascii=False), row.changes) for one in rows])
    begin, end = place
    first = row.line + row.raw.count("\n", 0, begin)
    lines = row.raw[begin:end].split("\n")
    return _gathered(_by_bracket(Line(number, text) for number, text in enumerate(lines, first)))


def holds_a_value_per_line(source: Source) -> bool:
    """Whether each line is read by itself, told by the file's first ones; such files can be read in parts."""
    return _one_value_per_line(_first_lines(source))


def _first_lines(source: Source) -> list[str]:
    """Whole lines of the head, or its only one as far as it goes."""
    head = source.head[source.mark_bytes :]
    if source.decoder.wide:
        texts: list[str] = head.decode(source.decoder.wide, "ignore").split("\n")
    else:
        decoder = replace(source.decoder, seen=Counter())  # looking ahead is not reading
        lines = head.split(b"\n")[: PEEKED_LINES + 1]
        texts = [decoder.decode(line)[0] or line.decode("utf-8", "ignore") for line in lines]
    if len(texts) > 1 and len(source.head) >= HEAD_BYTES:
        texts.pop()
    return texts[:PEEKED_LINES]


def _one_value_per_line(lines: list[str]) -> bool:
    texts = [line.strip().strip("\ufeff") for line in lines if line.strip()]
    texts = [text for text in texts if not text.startswith(COMMENT)]
    if not texts:
        return True
    if texts[0] in ("[", "{") or texts[0].startswith("[") or _OPENED.match(texts[0]):
        return False
    objects = sum(_is_object(text) for text in texts)
    return objects > 0 or not texts[0].startswith(("{", "["))


def _is_object(text: str) -> bool:
    """A whole object, or several glued together, or one that only lacks its end."""
    if not text.startswith("{"):
        return False
    try:
        value, _ = DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return text.startswith("{'") and text.endswith("}")
    return isinstance(value, dict)


def _by_line(source: Source, context: Context) -> Iterator[Item]:
    comments = _Comments()
    if source.is_plain:
        yield from _in_runs(source, comments)
    else:
        for line in source.lines():
            yield from _of_line(line, comments)
    if comments.num:
        context.note("note_comments", num=comments.num)


@dataclass(slots=True)
class _Comments:
    num: int = 0


def _of_line(line: Line, comments: _Comments) -> Iterator[Item]:
    fault = fault_of(line)
    if fault:
        yield fault
        return
    assert line.text is not None, "a line without text has a fault"
    text = line.text.strip().strip("\ufeff")
    if text.startswith(COMMENT):
        comments.num += 1
    elif text:
        yield from parse_values(text, line.number, changes_of(line), clean=line.clean)


def _in_runs(source: Source, comments: _Comments) -> Iterator[Item]:
    """Lines that are objects and nothing else come as `Rows`, run by run; all others as `_of_line` reads them."""
    number = source.first_line
    for group in source.raw_lines():
        if isinstance(group, Line):
            yield from _of_line(group, comments)
            continue
        run: Rows | None = None
        for raw, value in zip(group, _objects_of(group), strict=True):
            if value is not None:
                names, types = tuple(value), tuple(map(type, value.values()))
                if run is None or names != run.shape[0] or types != run.shape[1]:
                    if run is not None:
                        yield _seen(run, source)
                    run = Rows((names, types))
                run.lines.append(number)
                run.values.append(value)
                run.raws.append(raw)
            elif raw:
                if run is not None:
                    yield _seen(run, source)
                    run = None
                yield from _of_line(source.line_of(number, raw), comments)
            number += 1
        if run is not None:
            yield _seen(run, source)


def _gathered(items: Iterator[Item]) -> Iterator[Item]:
    """Objects that follow one another as `Rows`, where reading changed nothing in them."""
    run: Rows | None = None
    room = 0
    for item in items:
        if isinstance(item, Row) and type(item.values) is dict and item.values and not item.changes and not item.place:
            shape = tuple(item.values), tuple(map(type, item.values.values()))
            if run is None or run.shape != shape or room <= 0:
                if run is not None:
                    yield run
                run, room = Rows(shape), GATHERED_CHARS
            run.add(item.line, item.values, item.raw)
            room -= len(item.raw) + GATHERED_CHARS // MAX_GATHERED
            continue
        if run is not None:
            yield run
            run = None
        yield item
    if run is not None:
        yield run


def _seen(run: Rows, source: Source) -> Rows:
    source.saw(run.raws)
    return run


def _objects_of(lines: Sequence[bytes]) -> list[dict[str, Any] | None]:
    """The object that each line is, where nothing about it needs a closer look."""
    try:
        values = list(map(orjson.loads, lines))
    except (ValueError, RecursionError):
        values = list(map(_loaded, lines))
    return [
        value
        if type(value) is dict and value and len(raw) < MAX_LINE_BYTES and not needs_care(value, raw, num)
        else None
        for value, raw, num in zip(values, lines, count_behind_keys(lines), strict=True)
    ]


def _loaded(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except (ValueError, RecursionError):
        return None


@dataclass(slots=True)
class _Element:
    """One element in the making: its pieces, the line it began on, and what decoding did to its lines."""

    line: int = 0
    parts: list[str] = field(default_factory=list)
    chars: int = 0
    changes: tuple[Change, ...] = ()
    broken: Fault | None = None

    def add(self, text: str, line: Line) -> None:
        if not self.line:
            if not text.strip():
                return
            self.line = line.number
        if self.chars < MAX_ELEMENT_CHARS:
            self.parts.append(text)
        self.chars += len(text)
        if line.legacy and not self.changes:
            self.changes = changes_of(line)

    def items(self) -> Iterator[Item]:
        text = "".join(self.parts).strip()
        if self.broken:
            yield Fault(self.broken.line, self.broken.reason, self.broken.values, text or self.broken.raw)
        elif self.chars >= MAX_ELEMENT_CHARS:
            yield Fault(self.line, "line_too_long", {}, text[:4000])
        elif text:
            yield from parse_values(text, self.line, self.changes)


@dataclass(slots=True)
class _Scanner:
    """Cuts a stream of lines into the elements of an array, or into values that follow one another.

    Depth counts open brackets; the outer array, if there is one, is depth 1. `quote` is the open string's quote or "".
    """

    array: bool | None = None
    depth: int = 0
    quote: str = ""
    single: bool = False
    closed: bool = False
    element: _Element = field(default_factory=_Element)
    last_line: int = 0
    comma_line: int = 0
    """Line of a comma after which no element has come yet."""

    def feed(self, line: Line) -> Iterator[Item]:
        text = f"{line.text}\n" if line.ended else line.text or ""
        start = position = 0
        while position < len(text):
            if self.quote:
                position = self._skip_string(text, position)
                continue
            found = (_MARK_BOTH if self.single else _MARK).search(text, position)
            if not found:
                break
            position = found.end()
            mark = found[0]
            if mark in "\"'":
                self.quote = mark
            elif mark in "{[":
                if self.array is None:
                    self.array = mark == "["
                    if self.array:
                        self.depth, start = 1, position
                        self.single = _ahead(text, position)[:2] in ("{'", "['") or self.single
                        continue
                    self.single = _ahead(text, position)[:1] == "'"
                elif self.array and self.depth == 1 and mark == "{" and (flat := _FLAT.match(text, position - 1)):
                    position = flat.end()
                    continue
                elif self.array and self.depth == 1 and _ahead(text, position)[:1] == "'":
                    self.single = True
                self.depth += 1
            elif mark in "}]":
                self.depth -= 1
                if self.array and self.depth == 0:
                    self.element.add(text[start : position - 1], line)
                    yield from self._finish()
                    self.closed, self.array, start = True, None, position
                elif not self.array and self.depth <= 0:
                    self.depth = 0
                    self.element.add(text[start:position], line)
                    yield from self._finish()
                    start, self.array = position, None
            elif self.depth <= 1 and (self.array or self.depth == 0):  # a comma between elements
                self.element.add(text[start : position - 1], line)
                yield from self._finish()
                start, self.comma_line = position, line.number
        self.element.add(text[start:], line)
        self.last_line = line.number

    def _skip_string(self, text: str, position: int) -> int:
        """Behind the end of the open string, or the end of the text."""
        found = _STRING_END[self.quote].search(text, position)
        if not found:
            return len(text)
        if found[0] == "\\":
            return found.end() + 1
        self.quote = ""
        return found.end()

    def _finish(self) -> Iterator[Item]:
        if self.element.line:
            self.comma_line = 0
        element, self.element = self.element, _Element()
        yield from element.items()


def _ahead(text: str, position: int) -> str:
    """The next few characters behind blanks; never a copy of all the rest."""
    return text[position : position + 64].lstrip()


def _by_bracket(lines: Iterator[Line]) -> Iterator[Item]:
    """Elements of a stream that does not follow lines. A fault in a line spoils the element it stands in."""
    scanner = _Scanner()
    held: Item | None = None  # one behind, so that a comma after the last element can be told of
    for line in lines:
        fault = fault_of(line)
        if fault:
            if fault.reason == "compressed_cut":
                if held:
                    yield held
                yield fault
                return
            scanner.element.broken = scanner.element.broken or fault
            scanner.element.line = scanner.element.line or fault.line
            continue
        for item in scanner.feed(line):
            if held:
                yield held
            held = item
    if scanner.comma_line and isinstance(held, Row):
        held = Row(held.line, held.values, held.raw, (*held.changes, ("json_trailing_comma", {})), held.place)
    if held:
        yield held
    unclosed = bool(scanner.array or scanner.depth)
    left = "".join(scanner.element.parts).strip()
    if scanner.element.broken or (left and not unclosed):
        yield from scanner.element.items()
    elif unclosed:
        yield Fault(scanner.element.line or scanner.last_line, "json_cut", {"end": left[-24:]}, left)
