"""Rich text (RTF 1.9) as Markdown: paragraphs, headings by outline level, tables; every code page that fonts name.

A small machine over control words, groups and bytes. Pictures, objects and what is marked as ignorable are skipped;
running headers and footers are kept apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from danlu.data.tables import markdown_table

MAX_DEPTH = 2000
SKIPPED = {
    "fonttbl", "colortbl", "stylesheet", "info", "pict", "object", "fldinst", "themedata", "datastore", "listtable",
    "listoverridetable", "rsidtbl", "generator", "xmlnstbl", "bkmkstart", "bkmkend", "latentstyles", "filetbl",
    "revtbl", "template", "pntext", "nonshppict", "annotation", "atnid", "atnauthor", "listpicture",
}  # fmt: skip
FURNITURE = {"header", "headerl", "headerr", "headerf", "footer", "footerl", "footerr", "footerf"}
SIGNS = {
    "tab": "\t", "line": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’", "ldblquote": "“",
    "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ", "~": "\u00a0", "_": "-",
}  # fmt: skip
CHARSETS = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030", 136: "big5hkscs",
    161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256", 186: "cp1257", 204: "cp1251",
    222: "cp874", 238: "cp1250",
}  # fmt: skip
PAGES = {936: "gb18030", 950: "big5hkscs", 932: "cp932", 949: "cp949", 10000: "mac_roman", 65001: "utf-8"}
_TOKEN = re.compile(
    rb"\\'([0-9a-fA-F]{2})|\\([a-zA-Z]{1,32})(-?\d{1,10})? ?|\\([^a-zA-Z'])|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.DOTALL
)
_SPACES = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits and its end gives back."""

    skips: bool = False
    furniture: bool = False
    hidden: bool = False
    codec: str = "cp1252"
    num_fallback: int = 1
    """Characters that stand after a Unicode one for programs that know none."""


@dataclass(slots=True)
class RichText:
    """What was read: Markdown, running headers and footers, number of pictures and of hidden pieces."""

    text: str = ""
    furniture: str = ""
    num_pictures: int = 0
    num_hidden: int = 0


@dataclass(slots=True)
class _Reading:
    codec: str = "cp1252"
    fonts: dict[int, str] = field(default_factory=dict)
    font: int = 0
    in_fonts: int = 0
    blocks: list[str] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    """Bytes of one code page that may be halves of characters."""
    cells: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    outline: int = 9
    in_table: bool = False
    skip: int = 0
    """Fallback characters still to be passed over."""
    said: RichText = field(default_factory=RichText)

    def read(self, content: bytes) -> RichText:
        state, stack = _State(), [_State()]
        position = 0
        ignorable = False
        while match := _TOKEN.match(content, position):
            position = match.end()
            code, word, number, sign, brace, plain = match.groups()
            if brace == b"{":
                self._flush(state)
                stack.append(state)
                if len(stack) > MAX_DEPTH:
                    break
            elif brace == b"}":
                self._flush(state)
                if len(stack) == 1:
                    break
                state = stack.pop()
                self.in_fonts = self.in_fonts if len(stack) >= self.in_fonts else 0
            elif word is not None:
                name, value = word.decode("ascii"), int(number) if number else None
                if name == "bin":
                    position += max(0, min(value or 0, len(content)))
                else:
                    state = self._word(name, value, state, ignorable, len(stack))
            elif sign == b"*":
                ignorable = True
                continue
            elif sign is not None:
                self._sign(sign.decode("latin-1"), state)
            elif code is not None:
                self._bytes(bytes([int(code, 16)]), state)
            elif plain is not None:
                self._bytes(plain, state)
            ignorable = False
        self._flush(state)
        self._end_paragraph()
        self._end_table()
        self.said.text = "\n\n".join(self.blocks)
        self.said.furniture = " ".join("".join(self.aside).split())
        return self.said

    def _word(self, name: str, value: int | None, state: _State, ignorable: bool, depth: int) -> _State:
        if name in SKIPPED or (ignorable and name not in ("shpinst", "shptxt", "fldrslt")):
            self.said.num_pictures += name == "pict" and not state.skips
            if name == "fonttbl":
                self.in_fonts = depth
            return replace(state, skips=True)
        if name in FURNITURE:
            return replace(state, furniture=True)
        if name in ("ansicpg", "f", "fcharset", "uc", "v", "plain", "pard", "outlinelevel", "intbl"):
            return self._setting(name, value, state)
        if state.skips:
            return state
        if name == "u" and value is not None:
            self._flush(state)
            self._put(chr(value % 65536), state)
            self.skip = state.num_fallback
        elif name in SIGNS:
            self._flush(state)
            self._put(SIGNS[name], state)
        elif name in ("par", "sect", "page", "cell", "nestcell", "row", "nestrow") and not state.furniture:
            self._flush(state)
            self._end(name)
        return state

    def _setting(self, name: str, value: int | None, state: _State) -> _State:
        self._flush(state)
        if name == "ansicpg" and value:
            self.codec = PAGES.get(value, f"cp{value}")
            return replace(state, codec=self.codec)
        if name == "f" and value is not None:
            self.font = value
            return replace(state, codec=self.fonts.get(value, self.codec))
        if name == "fcharset" and self.in_fonts and value in CHARSETS and value:
            self.fonts[self.font] = CHARSETS[value]
        if name == "uc" and value is not None:
            return replace(state, num_fallback=max(0, min(value, 8)))
        if name == "v":
            self.said.num_hidden += value != 0 and not state.hidden
            return replace(state, hidden=value != 0)
        if name == "plain":
            return replace(state, codec=self.codec, hidden=False)
        if name == "pard":
            self.outline, self.in_table = 9, False
        if name == "outlinelevel":
            self.outline = value if value is not None else 9
        if name == "intbl":
            self.in_table = True
        return state

    def _sign(self, sign: str, state: _State) -> None:
        if sign in "\\{}":
            self._bytes(sign.encode(), state)
        elif sign in SIGNS:
            self._flush(state)
            self._put(SIGNS[sign], state)

    def _bytes(self, content: bytes, state: _State) -> None:
        if self.skip:
            passed = min(self.skip, len(content))
            self.skip -= passed
            content = content[passed:]
        if content and not state.skips:
            self.raw += content

    def _flush(self, state: _State) -> None:
        if self.raw:
            text = bytes(self.raw).decode(_known(state.codec), "replace")
            self.raw.clear()
            self._put(text, state)

    def _put(self, text: str, state: _State) -> None:
        if not state.skips and not state.hidden:
            (self.aside if state.furniture else self.line).append(text)

    def _end(self, name: str) -> None:
        if name in ("cell", "nestcell"):
            self.cells.append(_text(self.line).strip())
            self.line.clear()
        elif name in ("row", "nestrow"):
            self.rows.append(list(self.cells))
            self.cells.clear()
            self.in_table = False
        elif self.in_table:
            self.line.append("\n")
        else:
            self._end_paragraph()

    def _end_paragraph(self) -> None:
        text = _text(self.line).strip()
        self.line.clear()
        if not text:
            return
        self._end_table()
        if 0 <= self.outline < 9:
            text = f"{'#' * min(self.outline + 1, 6)} {' '.join(text.split())}"
        self.blocks.append(text)

    def _end_table(self) -> None:
        if any(self.cells):
            self.rows.append(list(self.cells))
            self.cells.clear()
        rows = [row for row in self.rows if any(row)]
        self.rows.clear()
        if rows:
            self.blocks.append(markdown_table(rows))


def _known(codec: str) -> str:
    try:
        "".encode(codec)
    except LookupError:
        return "cp1252"
    return codec


def _text(parts: list[str]) -> str:
    """Parts in one, characters beyond the basic plane put together from their halves."""
    text = "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n"))


def read_rich_text(content: bytes) -> RichText:
    """Never fails: damaged text gives what can be read of it."""
    return _Reading().read(content)
