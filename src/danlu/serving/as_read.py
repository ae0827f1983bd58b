"""A text as it is read. Detectors look through this beside the text itself; none of it is ever shown or sent, and each
character knows where it stood. Four readings, one after another, each of what the one before made:

    escapes     `%31%33`, `&#49;`, `\\u0031` are the letters, digits and marks that they stand for
    characters  what has no shape is left out (zero-width spaces, soft hyphens, marks of direction); digits, letters and
                dashes of other forms are the plain ones (`１３８`, `١٣٨`, `𝟏𝟑𝟖`, `①`)
    words       letters that look like plain ones are these in a word that has both (`li.lеi@`, with a Cyrillic е)
    numbers     in a run long enough to be a number: digits apart come together (`1-3-8`, `1.3.8`), numerals are digits
                (`一三八`, `壹叁捌`), and so are letters that look like them (`138ОО`)

Nothing is a number here that detectors do not find to be one: a run is read so only to be looked at.
"""

from __future__ import annotations

import bisect
import functools
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

_SHAPELESS = frozenset(("Cf", "Cc", "Mn", "Me"))
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters by their category, and blank."""
_MARKS = frozenset("@._-+")

_ESCAPE = re.compile(
    r"%[2-7][0-9A-F]|%[CD][0-9A-F]%[89AB][0-9A-F]|%E[0-9A-F](?:%[89AB][0-9A-F]){2}|%F[0-7](?:%[89AB][0-9A-F]){3}"
    r"|&#(?:[0-9]{2,7}|x[0-9A-F]{2,6});|\\u[0-9A-F]{4}|\\x[0-9A-F]{2}",
    re.IGNORECASE,
)
_LETTERS_ALIKE = str.maketrans(
    "аеорсухіѕјһАВЕЅЗКМНОРСТХІЈοαρνΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "aeopcyxisjhABES3KMHOPCTXIJoapvABEZHIKMNOPTYX",
)
_ALIKE = "".join(map(chr, _LETTERS_ALIKE))
_FOREIGN = re.compile(f"[{_ALIKE}]")
_WORD = re.compile(rf"[A-Za-z0-9@._+\-{_ALIKE}]{{5,}}")

_NUMERALS = dict(zip("零〇○一二三四五六七八九壹贰貳叁參肆伍陆陸柒捌玖幺", "0001234567891223345667891", strict=True))
_DIGITS_ALIKE = dict(zip("OoIl", "0011", strict=True))
_AS_DIGITS = str.maketrans(_NUMERALS | _DIGITS_ALIKE)
_DIGIT = "0-9" + "".join(_NUMERALS)
_EDGE = 16
_LIKE_DIGIT = _DIGIT + "".join(_DIGITS_ALIKE)
_NO_DIGIT = "".join(_NUMERALS) + "".join(_DIGITS_ALIKE)
_SEPARATORS = r" \t\n\-–./,_*·•、，:~+=#"
_LONG_ENOUGH = re.compile(rf"[{_DIGIT}](?:[{_SEPARATORS}]{{0,3}}[{_LIKE_DIGIT}]){{6}}")
_APART = re.compile(rf"[{_DIGIT}][{_LIKE_DIGIT}]{{0,3}}([{_SEPARATORS}]{{1,3}})[{_LIKE_DIGIT}]{{1,4}}"
                    rf"(?:\1[{_LIKE_DIGIT}]{{1,4}})+")  # fmt: skip
_MIXED = re.compile(rf"[{_DIGIT}][ \-]?[{_NO_DIGIT}]")
_TOGETHER = re.compile(rf"[{_DIGIT}](?:[ \-]?[{_LIKE_DIGIT}]){{5,}}[Xx]?")
_LISTING = frozenset(" ,、，\n\t:=")
"""What stands between numbers of two digits in lists, hours and dates."""
_FEWEST, _MOST = 7, 24
"""Digits of what detectors find."""
_FEWEST_PLAIN = 4
"""Digits, or numerals, among letters that look like some."""
_MOBILE_SHAPES = {(3, 4, 4), (3, 8), (3, 3, 5), (4, 4, 3), (7, 4)}


def goes_on(text: str, following: str) -> bool:
    """Whether a value may begin at the one text's end and end in the other: `13800`, and `138000` in the next turn."""
    last, first = text[-_EDGE:].rstrip(" \n-")[-1:], following[:_EDGE].lstrip(" \n-")[:1]
    if not last or not first:
        return False
    return "@" in (last, first) or (_is_digit(_read(last)) and _is_digit(_read(first)))


class Reading(NamedTuple):
    """A text made of another. `gaps`: before which of its characters one was left out, once for each; `wide`: which of
    them stand for several, and for how many more than one, which count among the gaps behind them."""

    text: str
    gaps: list[int]
    wide: dict[int, int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` stood, with what was left out inside."""
        return self._stood(start), self._stood(end - 1) + 1 + self.wide.get(end - 1, 0)

    def _stood(self, at: int) -> int:
        return at + bisect.bisect_right(self.gaps, at)


class AsRead(NamedTuple):
    """`text` as it is read, and the readings that made it."""

    text: str
    readings: list[Reading]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` stood in what was written."""
        for reading in reversed(self.readings):
            start, end = reading.span(start, end)
        return start, end


def as_read(text: str) -> AsRead | None:
    """None where it reads as it is written, as most texts do."""
    readings = []
    for may_apply, reads in _STEPS:
        for read in reads if may_apply(text) else ():
            found = read(text)
            if found is not None:
                readings.append(found)
                text = found.text
    return AsRead(text, readings) if readings else None


def _escapes(text: str) -> Reading | None:
    return _replaced(text, _ESCAPE, _unescaped)


def _unescaped(written: re.Match[str]) -> str | None:
    escape = written[0]
    try:
        if escape[0] == "%":
            letter = bytes.fromhex(escape.replace("%", "")).decode()
        elif escape[0] == "\\":
            letter = chr(int(escape[2:], 16))
        else:
            letter = chr(int(escape[3:-1], 16) if escape[2] in "xX" else int(escape[2:-1]))
    except ValueError:  # neither UTF-8 nor a letter's number
        return None
    read = _read(letter)
    is_plain = (read.isascii() and read.isalnum()) or read in _NUMERALS or read in _MARKS or not read
    return letter if is_plain else None


def _characters(text: str) -> Reading | None:
    table = {ord(letter): read for letter in set(text) if (read := _read(letter)) != letter}
    if not table:
        return None
    left_out = "".join(chr(code) for code, read in table.items() if not read)
    gaps = []
    if left_out:
        places = re.finditer(f"[{re.escape(left_out)}]", text)
        gaps = [place.start() - num_before for num_before, place in enumerate(places)]
    return Reading(text.translate(table), gaps, {})


@functools.lru_cache(maxsize=8192)
def _read(letter: str) -> str:
    if " " <= letter <= "~" or letter in "\t\n\r":
        return letter
    category = unicodedata.category(letter)
    if category in _SHAPELESS or letter in _FILLERS:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(letter))
    if category == "Zs":
        return " "
    if category == "Pd" or letter == "\N{MINUS SIGN}":
        return "-"
    narrow = unicodedata.normalize("NFKC", letter)
    is_plain = len(narrow) == 1 and narrow.isascii() and (narrow.isalnum() or narrow in _MARKS)
    return narrow if is_plain else letter


def _words(text: str) -> Reading | None:
    if _FOREIGN.search(text) is None:
        return None
    read = _WORD.sub(_plain_word, text)
    return None if read == text else Reading(read, [], {})


def _plain_word(word: re.Match[str]) -> str:
    is_mixed = any(letter.isascii() and letter.isalnum() for letter in word[0])
    return word[0].translate(_LETTERS_ALIKE) if is_mixed else word[0]


def _apart(text: str) -> Reading | None:
    """Digits that stand apart, brought together: what stood between them is left out."""
    kept: list[str] = []
    gaps: list[int] = []
    at = size = 0
    for run in _APART.finditer(text):
        if not _is_number_apart(run, text):
            continue
        kept.append(text[at : run.start()])
        size += run.start() - at
        for part in run[0].split(run[1]):
            kept.append(part)
            size += len(part)
            gaps += [size] * len(run[1])
        del gaps[-len(run[1]) :]
        at = run.end()
    return Reading("".join([*kept, text[at:]]), gaps, {}) if kept else None


def _is_number_apart(run: re.Match[str], text: str) -> bool:
    start, end, between = run.start(), run.end(), run[1]
    sizes = [len(part) for part in run[0].split(between)]
    if not _FEWEST <= sum(sizes) <= _MOST or _is_digit(text[start - 1 : start]) or _is_digit(text[end : end + 1]):
        return False
    if sum(map(_is_digit, run[0])) < _FEWEST_PLAIN:
        return False
    if max(sizes) == 1:
        return True
    return (max(sizes) == 2 and not _LISTING & set(between)) or tuple(sizes) in _MOBILE_SHAPES


def _numerals(text: str) -> Reading | None:
    """Numerals, and letters that look like digits, as the digits of their run."""
    if _MIXED.search(text) is None:
        return None
    kept: list[str] = []
    at = 0
    for run in _TOGETHER.finditer(text):
        start, end = _whole(run, text)
        if sum(map(_is_digit, text[start:end])) >= _FEWEST_PLAIN:
            kept += [text[at:start], text[start:end].translate(_AS_DIGITS)]
            at = end
    read = "".join([*kept, text[at:]])
    return None if read == text else Reading(read, [], {})


def _whole(run: re.Match[str], text: str) -> tuple[int, int]:
    """Where the run begins and ends: with the letter before it that looks like a digit, without a word that it would
    break off."""
    written, (start, end) = run[0], run.span()
    before = text[max(0, start - 2) : start]
    if before[-1:] in _DIGITS_ALIKE and not _is_letter(before[:-1]):
        start -= 1
    elif _is_letter(before[-1:]):
        start += min((place for place in (written.find(" "), written.find("-")) if place >= 0), default=len(written))
    last = max(written.rfind(" "), written.rfind("-"))
    if last >= 0 and (_is_letter(text[end : end + 1]) or not any(map(_is_digit, written[last + 1 :]))):
        end = run.start() + last
    elif _is_letter(text[end : end + 1]):
        end = start
    return start, max(start, end)


def _is_digit(letter: str) -> bool:
    return letter in _NUMERALS or (letter.isascii() and letter.isdigit())


def _is_letter(letter: str) -> bool:
    return letter.isascii() and (letter.isalpha() or letter == "_")


def _replaced(text: str, pattern: re.Pattern[str], read: Callable[[re.Match[str]], str | None]) -> Reading | None:
    """One letter for each place that `read` has one for."""
    kept: list[str] = []
    gaps: list[int] = []
    wide: dict[int, int] = {}
    at = size = 0
    for place in pattern.finditer(text):
        letter = read(place)
        if letter is None:
            continue
        kept += [text[at : place.start()], letter]
        size += place.start() - at + 1
        wide[size - 1] = len(place[0]) - 1
        gaps += [size] * wide[size - 1]
        at = place.end()
    return Reading("".join([*kept, text[at:]]), gaps, wide) if kept else None


def _may_escape(text: str) -> bool:
    return "%" in text or "&#" in text or "\\" in text


_USUAL = "".join(letter for letter in "，。、；：？！“”‘’（）《》〈〉【】…￥" if _read(letter) == letter)
_ODD = re.compile(rf"[^\t\n\r -~\u4e00-\u9fff{_USUAL}]")
_STEPS: tuple[tuple[Callable[[str], object], tuple[Callable[[str], Reading | None], ...]], ...] = (
    (_may_escape, (_escapes,)), (_ODD.search, (_characters, _words)), (_LONG_ENOUGH.search, (_apart, _numerals)),
)  # fmt: skip
"""Readings, and what must be in a text for them to find anything: most texts are none of it."""
