"""Documents in passages for people and teachers: cut at headings, paragraphs and sentence ends, Chinese or English.

Each passage is an exact slice of its document's text, none overlaps another, and nothing but white space lies between
two. `tags["headings"]` holds the headings it stands under, `origin` its pages' and characters' range. Not the encoder's
chunks (`chunk.py`), which cut token ids and lose none.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from danlu.data.identity import sample_id
from danlu.data.sample import BETWEEN, Document, Origin

HEADING, PARAGRAPH, LINE, SENTENCE, CLAUSE, ANYWHERE = 5, 4, 3, 2, 1, 0
"""How good a place is to cut before an atom."""

_NUMBER = "[零〇一二三四五六七八九十百千两0-9]+"
_HEADINGS: tuple[tuple[re.Pattern[str], int], ...] = (
    (re.compile(r"(#{1,6})[ \t]+\S"), 0),
    (re.compile(r"<目录>"), 10),
    (re.compile(r"<篇名>"), 11),
    (re.compile(rf"第{_NUMBER}[编篇部卷](?:[ \u3000\t:：]|$)"), 10),
    (re.compile(rf"第{_NUMBER}章(?:[ \u3000\t:：]|$)|(?:Chapter|Part|CHAPTER|PART)\s+[\dIVX]+\b"), 11),
    (re.compile(rf"第{_NUMBER}节(?:[ \u3000\t:：]|$)|(?:Section|SECTION)\s+\d+\b"), 12),
    (re.compile(rf"{_NUMBER}、\s*\S|\d+(?:\.\d+)+\.?\s+\S"), 13),
    (re.compile(rf"[（(]{_NUMBER}[）)]\s*\S"), 14),
)
MAX_HEADING_CHARS = 50
_NO_HEADING_END = tuple("。；，、：;,:.!?！？…|")

_PARAGRAPHS = re.compile(r"\n[ \t\u3000]*(?:\n[ \t\u3000]*)+")
_LINES = re.compile(r"\n")
_SENTENCES = re.compile(r"(?<=[。！？；…!?])[\"'”’」』）)\]]*\s*|(?<=[.])[\"'”’)\]]*\s+")
_SENTENCE_END = re.compile(r"[。！？；…!?.:：|][\"'”’」』）)\]]*$")
_CLAUSES = re.compile(r"(?<=[，、：:,;])\s*|\s+")


@dataclass(frozen=True, slots=True)
class _Atom:
    """What is never cut: `text[start:end]`. `cut` says how good it is to begin a passage here, `level` a heading's."""

    start: int
    end: int
    tokens: int
    cut: int
    level: int = 0


def cut_documents(
    documents: Iterable[Document], *, max_tokens: int, min_tokens: int = 0, count: Callable[[str], int]
) -> Iterator[Document]:
    """Passages of at most `max_tokens` (by `count`), and of at least `min_tokens` where a heading would end one.

    Documents that follow one another and are pages of one file are one text: a passage may begin on one page and end
    on the next (`tags["pages"]`). Where a cleaner changed a page's text, ranges are exact to the page only.
    """
    assert 0 <= min_tokens <= max_tokens and max_tokens > 0, "passages hold something"
    for _, pages in groupby(documents, key=_file_of):
        yield from _Cutting(list(pages), max_tokens, min_tokens, count).passages()


def _file_of(document: Document) -> Any:
    """Pages of one file belong together; a text out of a table of rows stands alone."""
    origin = document.origin
    return (document.group, origin.document) if origin.document else id(document)


class _Cutting:
    """The passages of one file. `starts` are the places in `text` where its documents (pages) begin."""

    def __init__(self, pages: list[Document], max_tokens: int, min_tokens: int, count: Callable[[str], int]) -> None:
        self.pages, self.max_tokens, self.min_tokens, self.count = pages, max_tokens, min_tokens, count
        self.text = BETWEEN.join(page.text for page in pages)
        self.starts = [0]
        for page in pages[:-1]:
            self.starts.append(self.starts[-1] + len(page.text) + len(BETWEEN))
        self.parents = [sample_id(page) for page in pages]

    def passages(self) -> Iterator[Document]:
        atoms = self._atoms()
        open_headings: list[tuple[int, str]] = []
        first = 0
        while first < len(atoms):
            last = self._end_of(atoms, first)
            path = _opened(open_headings, self.text, atoms[first:last], whole=False)
            yield self._passage(atoms[first].start, atoms[last - 1].end, path)
            open_headings = _opened(open_headings, self.text, atoms[first:last], whole=True)
            first = last

    def _atoms(self) -> list[_Atom]:
        atoms: list[_Atom] = []
        for start, end in _pieces(self.text, 0, len(self.text), _PARAGRAPHS):
            cut = PARAGRAPH
            for begin, stop, level in _without_headings(self.text, start, end):
                atoms += self._broken(begin, stop, PARAGRAPH, HEADING if level else cut, level)
                cut = LINE
        return atoms

    def _broken(self, start: int, end: int, grain: int, cut: int, level: int = 0) -> Iterator[_Atom]:
        """A run of text in atoms: whole where it is short, else by lines, sentences, clauses, characters.

        What is long is broken further although it fits, so that passages can be filled; a sentence only if it must be.
        """
        tokens = self.count(self.text[start:end])
        if tokens > (self.max_tokens if grain <= SENTENCE else max(1, self.max_tokens // 4)):
            for finer in range(grain - 1, -1, -1):
                pieces = self._split(start, end, finer)
                if len(pieces) > 1:
                    yield from self._broken_pieces(pieces, finer, cut, level)
                    return
                if finer == SENTENCE and tokens <= self.max_tokens:
                    break
        yield _Atom(start, end, tokens, cut, level)

    def _broken_pieces(self, pieces: list[tuple[int, int]], grain: int, cut: int, level: int) -> Iterator[_Atom]:
        for number, (start, end) in enumerate(pieces):
            here, here_level = cut, level
            if number:
                wrapped = grain == LINE and not _ends_sentence(self.text, pieces[number - 1][1])
                here, here_level = (CLAUSE if wrapped else grain), 0
            yield from self._broken(start, end, grain, here, here_level)

    def _split(self, start: int, end: int, by: int) -> list[tuple[int, int]]:
        if by != ANYWHERE:
            pattern = {LINE: _LINES, SENTENCE: _SENTENCES, CLAUSE: _CLAUSES}[by]
            return list(_pieces(self.text, start, end, pattern))
        pieces = []
        while start < end:  # text without a single mark: as many characters as fit
            low, high = start + 1, end
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if self._fits(start, middle) else (low, middle - 1)
            pieces.append((start, low))
            start = low
        return pieces

    def _fits(self, start: int, end: int) -> bool:
        return self.count(self.text[start:end]) <= self.max_tokens

    def _end_of(self, atoms: Sequence[_Atom], first: int) -> int:
        """Index behind the passage's last atom: before a heading once it is long enough, else as late as it fits at the
        best place in its second half."""
        tokens, last = 0, first
        while last < len(atoms):
            atom = atoms[last]
            is_new = atom.cut == HEADING and tokens >= self.min_tokens and not _all_headings(atoms[first:last])
            if last > first and (is_new or tokens + atom.tokens > self.max_tokens):
                break
            tokens += atom.tokens
            last += 1
        while last > first + 1 and not self._fits(atoms[first].start, atoms[last - 1].end):
            last -= 1  # tokens of parts do not add up to those of the whole
        if last == len(atoms) or (atoms[last].cut == HEADING and not _all_headings(atoms[first:last])):
            return last
        return self._best_cut(atoms, first, last)

    def _best_cut(self, atoms: Sequence[_Atom], first: int, last: int) -> int:
        """The last of the best places in the second half; a heading is never a passage's last line if there is more."""
        half = sum(atom.tokens for atom in atoms[first:last]) / 2
        tokens, places = 0, []
        for place in range(first + 1, last + 1):
            tokens += atoms[place - 1].tokens
            if tokens >= half and not atoms[place - 1].level:
                places.append(place)
        return max(places, key=lambda place: (atoms[place].cut, place)) if places else last

    def _passage(self, start: int, end: int, headings: list[str]) -> Document:
        one, other = bisect_right(self.starts, start) - 1, bisect_right(self.starts, end - 1) - 1
        first, last = self.pages[one], self.pages[other]
        tags = _inherited(self.pages[one : other + 1]) | {
            "headings": headings,
            "parents": self.parents[one : other + 1],
        }
        if first.origin.page is not None and last.origin.page != first.origin.page:
            tags["pages"] = [first.origin.page, last.origin.page]
        origin = replace(
            first.origin,
            start=_place(first, start - self.starts[one], first.origin.start),
            end=_place(last, end - self.starts[other], last.origin.end),
        )
        return replace(first, text=self.text[start:end], origin=origin, tags=tags)


def _place(page: Document, offset: int, coarse: int | None) -> int | None:
    """A place on a page in the document's extracted text; the page's own border where its text was changed."""
    origin: Origin = page.origin
    if origin.start is None or origin.end is None:
        return None
    return origin.start + offset if origin.end - origin.start == len(page.text) else coarse


def _inherited(pages: Sequence[Document]) -> dict[str, Any]:
    """Tags of all pages; the strictest level and every flag stay."""
    levels = ("public", "internal", "confidential", "restricted")
    tags: dict[str, Any] = {}
    for page in pages:
        flags = [
            *tags.get("flags", []),
            *(flag for flag in page.tags.get("flags", []) if flag not in tags.get("flags", [])),
        ]
        found = [level for level in (tags.get("level"), page.tags.get("level")) if level in levels]
        tags = page.tags | tags
        if flags:
            tags["flags"] = flags
        if found:
            tags["level"] = max(found, key=levels.index)
    return tags


def _pieces(text: str, start: int, end: int, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Runs between matches, white space at both ends left out, empty ones left out."""
    begin = start
    for match in pattern.finditer(text, start, end):
        # closing quotes after a full stop belong to the sentence; white space belongs to nobody
        stop = match.end() - (len(match[0]) - len(match[0].rstrip()))
        yield from _trimmed(text, begin, stop)
        begin = match.end()
    yield from _trimmed(text, begin, end)


def _ends_sentence(text: str, end: int) -> bool:
    """Whether the line that ends here is a whole one, not one wrapped by a page's width."""
    return bool(_SENTENCE_END.search(text, max(0, end - 8), end))


def _trimmed(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield start, end


def _without_headings(text: str, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """A paragraph in runs of (start, end, level): heading lines for themselves, level 0 for what is none."""
    begin = start
    for line_start, line_end in _pieces(text, start, end, _LINES):
        level = heading_level(text[line_start:line_end])
        if level:
            yield from ((one, other, 0) for one, other in _trimmed(text, begin, line_start))
            yield line_start, line_end, level
            begin = line_end
    yield from ((one, other, 0) for one, other in _trimmed(text, begin, end))


def heading_level(line: str) -> int:
    """1-6 for Markdown, from 10 for chapters and numbered titles of plain text, 0 for what is no heading."""
    if len(line) > 200:
        return 0
    for pattern, level in _HEADINGS:
        if match := pattern.match(line):
            if not level:
                return len(match[1])
            short = len(line) <= MAX_HEADING_CHARS and not line.rstrip().endswith(_NO_HEADING_END)
            return level if short else 0
    return 0


def _all_headings(atoms: Sequence[_Atom]) -> bool:
    return all(atom.cut == HEADING and atom.level for atom in atoms)


def _opened(above: list[tuple[int, str]], text: str, atoms: Sequence[_Atom], *, whole: bool) -> Any:
    """The headings open after these atoms (`whole`), or the path a passage of them stands under: what was open before
    it and the headings that it begins with."""
    stack = list(above)
    for atom in atoms:
        if not atom.level:
            if whole:
                continue
            break
        while stack and stack[-1][0] >= atom.level:
            stack.pop()
        line = re.sub(r"<[^>]*>", "", text[atom.start : atom.end]).lstrip("#").strip()
        if line:
            stack.append((atom.level, line))
    return stack if whole else [title for _, title in stack]
