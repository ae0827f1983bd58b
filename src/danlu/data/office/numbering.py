"""Numbers that Word writes and no text holds: 第一条, （二）, 1.2.3, iv. A contract without them loses its articles.

ECMA-376 part 1, 17.9 (numbering) and 17.18.59 (ST_NumberFormat); formats of other scripts fall back to digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from danlu.data.office.package import attribute, local

DIGITS = "零一二三四五六七八九"
LEGAL = "零壹贰叁肆伍陆柒捌玖"
STEMS = "甲乙丙丁戊己庚辛壬癸"
ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"), (50, "l"), (40, "xl"), (10, "x"),
    (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip
BRANCHES = "子丑寅卯辰巳午未申酉戌亥"
_PLACE = re.compile(r"%([1-9])")


@dataclass(frozen=True, slots=True)
class Level:
    """How one level of a list is numbered: `text` is a pattern such as `第%1条`."""

    format: str = "decimal"
    text: str = "%1."
    start: int = 1
    is_legal: bool = False
    """All numbers as digits, whatever the upper levels' own format."""


@dataclass(slots=True)
class Numbering:
    """A document's lists, and how far each has counted."""

    levels: dict[str, dict[int, Level]] = field(default_factory=dict)
    """numId to its levels."""
    lists: dict[str, str] = field(default_factory=dict)
    """numId to the list it counts in: several may go on counting together."""
    counts: dict[str, dict[int, int]] = field(default_factory=dict)

    def label(self, list_id: str, depth: int) -> str | None:
        """The next label in a list: `第三条`, `-` for a bullet, "" for none; None for a list nobody defined."""
        levels = self.levels.get(list_id)
        if levels is None:
            return None
        level = levels.get(depth, Level())
        counts = self.counts.setdefault(self.lists[list_id], {})
        counts[depth] = counts.get(depth, level.start - 1) + 1
        for deeper in [other for other in counts if other > depth]:
            del counts[deeper]
        if level.format == "bullet":
            return "-"
        if level.format == "none":
            return ""

        def number(match: re.Match[str]) -> str:
            upper = int(match[1]) - 1
            one = levels.get(upper, Level())
            return numeral(counts.get(upper, one.start), "decimal" if level.is_legal else one.format)

        return _PLACE.sub(number, level.text).strip()


def read_numbering(root: Element) -> Numbering:
    """Of the part `numbering.xml`."""
    abstract: dict[str, dict[int, Level]] = {}
    numbering = Numbering()
    for element in root:
        if local(element) == "abstractNum":
            levels = [_level(child) for child in element if local(child) == "lvl"]
            abstract[attribute(element, "abstractNumId") or ""] = dict(levels)
    for element in root:
        if local(element) != "num":
            continue
        list_id = attribute(element, "numId") or ""
        to = next((attribute(child, "val") for child in element if local(child) == "abstractNumId"), None) or ""
        levels_of = dict(abstract.get(to, {}))
        counts_in = to
        for change in element:
            if local(change) != "lvlOverride":
                continue
            counts_in = f"{to} {list_id}"  # a list that starts anew
            depth = _int(attribute(change, "ilvl"), 0)
            for child in change:
                if local(child) == "startOverride":
                    old = levels_of.get(depth, Level())
                    start = _int(attribute(child, "val"), 1)
                    levels_of[depth] = Level(old.format, old.text, start, old.is_legal)
                elif local(child) == "lvl":
                    depth, level = _level(child)
                    levels_of[depth] = level
        numbering.levels[list_id], numbering.lists[list_id] = levels_of, counts_in
    return numbering


def _level(element: Element) -> tuple[int, Level]:
    values = {local(child): attribute(child, "val") for child in element.iter()}
    level = Level(
        values.get("numFmt") or "decimal",
        values.get("lvlText") or "",
        _int(values.get("start"), 1),
        "isLgl" in values and values["isLgl"] not in ("0", "false"),
    )
    return _int(attribute(element, "ilvl"), 0), level


def _int(text: str | None, default: int) -> int:
    return int(text) if text and text.lstrip("-").isdigit() and len(text) < 9 else default


def numeral(number: int, format: str) -> str:
    """A number in one of Word's formats."""
    write = _FORMATS.get(format)
    return write(number) if write and 0 < number < 100_000 else str(number)


def chinese(number: int, digits: str = DIGITS, units: str = "十百千万") -> str:
    """12 is 十二, 105 is 一百零五, 10010 is 一万零一十."""
    written = _counted(number, digits, units)
    return written.removeprefix(digits[1]) if 10 <= number < 20 and digits is DIGITS else written


def _counted(number: int, digits: str, units: str) -> str:
    if number >= 10_000:
        rest = _counted(number % 10_000, digits, units) if number % 10_000 else ""
        pause = digits[0] if rest and number % 10_000 < 1000 else ""
        return f"{_counted(number // 10_000, digits, units)}{units[3]}{pause}{rest}"
    out = ""
    gap = False
    for power in (3, 2, 1, 0):
        digit = number // 10**power % 10
        if digit:
            out += (digits[0] if gap and out else "") + digits[digit] + (units[power - 1] if power else "")
        gap = not digit
    return out


def letters(number: int) -> str:
    """1 is a, 26 is z, 27 is aa, 28 is bb: Word repeats the letter."""
    return chr(ord("a") + (number - 1) % 26) * min((number - 1) // 26 + 1, 20)


def roman(number: int) -> str:
    if number >= 4000:
        return str(number)
    out = ""
    for value, sign in ROMAN:
        out += sign * (number // value)
        number %= value
    return out


def _circled(number: int) -> str:
    return chr(0x2460 + number - 1) if number <= 20 else str(number)


_FORMATS: dict[str, Callable[[int], str]] = {
    "decimalZero": lambda number: f"{number:02}",
    "lowerLetter": letters,
    "upperLetter": lambda number: letters(number).upper(),
    "lowerRoman": roman,
    "upperRoman": lambda number: roman(number).upper(),
    "chineseCounting": chinese,
    "chineseCountingThousand": chinese,
    "taiwaneseCounting": chinese,
    "taiwaneseCountingThousand": chinese,
    "japaneseCounting": chinese,
    "ideographDigital": lambda number: "".join(DIGITS[int(digit)] for digit in str(number)),
    "chineseLegalSimplified": lambda number: chinese(number, LEGAL, "拾佰仟万"),
    "ideographLegalTraditional": lambda number: chinese(number, "零壹貳參肆伍陸柒捌玖", "拾佰仟萬"),
    "ideographTraditional": lambda number: STEMS[number - 1] if number <= 10 else str(number),
    "ideographZodiac": lambda number: BRANCHES[number - 1] if number <= 12 else str(number),
    "decimalEnclosedCircle": _circled,
    "decimalEnclosedCircleChinese": _circled,
    "decimalFullWidth": lambda number: str(number).translate({ord("0") + n: 0xFF10 + n for n in range(10)}),
    "ordinal": lambda number: (
        f"{number}{'th' if number % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"
    ),
}
