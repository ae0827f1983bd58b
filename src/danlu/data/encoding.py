"""Bytes to text, and saying which encoding it was: UTF-8 and UTF-16 with or without BOM, GB18030, and a few foreign
ones.

Detection looks at the head of a file; decoding then goes line by line, because real files mix encodings. A line that is
valid UTF-8 is UTF-8; any other is given to the legacy encoding whose reading looks like language. A line that no
encoding reads well is refused (None), never filled with question marks. Nothing here guesses by statistics of words.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections import Counter
from dataclasses import dataclass, field

BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is its beginning
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
LEGACY = ("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "windows-1252")
CODECS = {"shift_jis": "cp932", "windows-1252": "cp1252"}
"""Microsoft's supersets, which is what files that call themselves by the old names are written in."""
PLAUSIBLE = 0.5
"""Share of non-ASCII characters that must be common ones for a legacy reading to be believed."""
JUDGED_BYTES = 4096

_STRANGE_RUN = re.compile("[^\x00-\x7f]+")
_HIGH_RUN = re.compile(rb"[\x80-\xff]")
_LEADS_OF_CHINESE = bytes([*range(0x4E, 0xA0), 0x00, 0x30, 0xFF])
"""First bytes of UTF-16 units in Chinese text: Han, spaces and ASCII, marks of theirs, full width."""


@dataclass(slots=True)
class Decoder:
    """Decodes a file's lines and remembers what they were written in. `wide` is a UTF-16/32 name, or None."""

    wide: str | None = None
    bom: bool = False
    legacy: str | None = None
    main: str = "utf-8"
    """What most of the file is written in; a line in anything else is worth telling."""
    seen: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The file's encoding so far: one name, or "mixed"."""
        if self.wide:
            return self.wide
        names = list(self.seen)
        if not names:
            return "utf-8-sig" if self.bom else self.legacy or "utf-8"
        if len(names) > 1:
            return "mixed"
        return "utf-8-sig" if self.bom and names == ["utf-8"] else names[0]

    def decode(self, line: bytes) -> tuple[str | None, str | None]:
        """(text, its encoding where that is not the file's main one); an unreadable line has no text."""
        if line.isascii():
            return line.decode("ascii"), None
        text = _strict(line, "utf-8")
        if text is not None and not (self.main == self.legacy and self._is_rather_legacy(line, text)):
            self.seen["utf-8"] += 1
            return text, None if self.main == "utf-8" else "utf-8"
        name = self._legacy_of(line)
        if name is None:
            return None, None
        self.seen[name] += 1
        return line.decode(CODECS.get(name, name)), None if self.main == name else name

    def _legacy_of(self, line: bytes) -> str | None:
        """The file's own legacy encoding where it fits, else the best for this line alone."""
        if self.legacy:
            text = _strict(line, CODECS.get(self.legacy, self.legacy))
            if text is not None and (self.main == self.legacy or commonness(text, self.legacy) >= PLAUSIBLE / 2):
                return self.legacy
            if self.main == self.legacy:  # a damaged line may look well in a third encoding: that would be mojibake
                return None
        return best_legacy(line)

    def _is_rather_legacy(self, line: bytes, as_utf8: str) -> bool:
        """Short words such as 联通 or 胃 are valid UTF-8 by accident in a GB18030 file."""
        assert self.legacy is not None, "asked only where the file has a legacy encoding"
        text = _strict(line, CODECS.get(self.legacy, self.legacy))
        if text is None:
            return False
        return max(as_utf8) < "\u0800" or commonness(text, self.legacy) >= commonness(as_utf8, "gb18030")


def detect(head: bytes, *, whole: bool = True) -> tuple[Decoder, int]:
    """A decoder for a file that begins with `head` (or is no longer: `whole`), and the length of the mark to skip."""
    for mark, name in BOMS:
        if head.startswith(mark):
            return (Decoder(bom=True) if name == "utf-8-sig" else Decoder(wide=name, bom=True)), len(mark)
    wide = _wide_without_mark(head)
    if wide:
        return Decoder(wide=wide), 0
    telling = [line for line in head.split(b"\n")[:2000] if not line.isascii()]
    strangers = [line for line in telling if _strict(line, "utf-8") is None]
    if not whole and len(strangers) > 1 and not head.endswith(b"\n"):
        strangers = strangers[:-1] or strangers  # the head may end inside a character
    if not strangers or (not whole and len(strangers) == 1 and _is_cut_utf8(strangers[0])):
        return Decoder(), 0
    legacy = best_legacy(b"\n".join(strangers))
    return Decoder(legacy=legacy, main=legacy if legacy and len(strangers) > len(telling) / 2 else "utf-8"), 0


def best_legacy(sample: bytes) -> str | None:
    """The legacy encoding in which `sample` reads most like language, or None when none does."""
    sample = _judged(sample)
    best, best_score = None, PLAUSIBLE
    for name in LEGACY:
        text = _strict(sample, CODECS.get(name, name))
        score = commonness(text, name) if text is not None else 0.0
        if score > best_score + (1e-9 if best else -1e-9):
            best, best_score = name, score
    return best


def commonness(text: str, encoding: str) -> float:
    """Share (0-1) of the non-ASCII characters of `text` that are common ones for who writes in `encoding`."""
    strange = [char for char in text if char > "\x7f"]
    if not strange:
        return 1.0
    good = sum(_is_common(char, encoding) for char in strange) / len(strange)
    if encoding == "windows-1252":  # accents stand alone, or two small ones together; two-byte characters never do
        runs = [run for run in _STRANGE_RUN.findall(text) if len(run) == 1 or (len(run) == 2 and min(run) >= "ß")]
        return good * len("".join(runs)) / len(strange)
    return good


@functools.lru_cache(maxsize=65536)
def _is_common(char: str, encoding: str) -> bool:
    code = ord(char)
    if encoding == "windows-1252":
        return 0xA0 <= code <= 0xFF or code in range(0x2010, 0x2040) or code in (0x20AC, 0x2122, 0x152, 0x153)
    if 0x3000 <= code <= 0x303F or 0xFF01 <= code <= 0xFF5E or 0x2010 <= code <= 0x203B or code in (0xB7, 0xD7, 0xB0):
        return True
    if encoding == "euc_kr":
        return 0xAC00 <= code <= 0xD7A3
    if encoding in ("shift_jis", "euc_jp") and 0x3041 <= code <= 0x30FE:
        return True
    if encoding == "shift_jis":
        return _lead(char, "cp932") in range(0x88, 0x98)
    if encoding == "euc_jp":
        return _lead(char, "euc_jp") in range(0xB0, 0xD0)
    if encoding == "big5":
        return _lead(char, "big5") in range(0xA4, 0xC7)
    return (
        _lead(char, "gb2312") in range(0xA6, 0xD8)
        or _lead(char, "big5") in range(0xA4, 0xC7)
        or 0x2460 <= code < 0x2600
    )


def _lead(char: str, codec: str) -> int:
    """First byte of a two-byte character, 0 where the codec does not know it: rows of the old tables go by
    frequency."""
    try:
        encoded = char.encode(codec)
    except UnicodeEncodeError:
        return 0
    return encoded[0] if len(encoded) == 2 else 0


def _judged(sample: bytes) -> bytes:
    """A part around the first strange byte that is long enough to judge, cut at line ends or ASCII."""
    if len(sample) <= JUDGED_BYTES:
        return sample
    found = _HIGH_RUN.search(sample)
    start = found.start() if found else 0
    while start > 0 and sample[start - 1] > 0x7F:
        start -= 1
    part = sample[start : start + JUDGED_BYTES]
    for end in range(len(part), max(len(part) - 512, 0), -1):  # a trail byte may be ASCII: try ends until one fits
        if part[end - 1] in b'\n,.;" }' and part[end - 2] < 0x80:
            return part[:end]
    return sample


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 without a mark: zero bytes, or the lead bytes of Chinese, sit on one side of every pair."""
    head = head[: len(head) // 2 * 2][:65536]
    if len(head) < 4:
        return None
    for name, high, low in (("utf-16-le", head[1::2], head[0::2]), ("utf-16-be", head[0::2], head[1::2])):
        zeros, stray = high.count(0), low.count(0)
        if zeros > max(len(high) * 0.1, stray * 4) and _decodes_mostly(head, name):
            return name
        if len(head) >= 16 and stray < len(low) * 0.02 and _strict(head, "utf-8") is None:
            chinese = len(high) - len(high.translate(None, _LEADS_OF_CHINESE))
            if chinese > len(high) * 0.97 and best_legacy(head) is None and _decodes_mostly(head, name):
                return name
    return None


def _decodes_mostly(head: bytes, codec: str) -> bool:
    text = head.decode(codec, "replace")
    return text.count("�") <= 1 and sum(char < " " and char not in "\t\r\n" for char in text) < max(len(text) * 0.02, 1)


def _is_cut_utf8(line: bytes) -> bool:
    return any(_strict(line[:-cut], "utf-8") is not None for cut in (1, 2, 3))


def _strict(line: bytes, codec: str) -> str | None:
    try:
        return line.decode(codec)
    except UnicodeDecodeError:
        return None
