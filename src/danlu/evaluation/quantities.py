"""Quantities in an answer: number, range or bound, with scale and unit, as exact fractions. "3.5万元" is 35000 CNY.

Reads Chinese and English numerals, 万/亿/million, %, full width, fractions (三分之一, 1/3), halves (一年半), compounds
(2小时30分), powers of ten, currency before or after, negative numbers (零下5度). Dates and times of day are not
quantities. What it does not do: exchange currencies, turn months into days, or read numbers out of names (A4, H200).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from danlu.evaluation.fold import plain
from danlu.evaluation.numerals import DIGITS, parse_chinese
from danlu.evaluation.units import COUNTERS, SCALES, UNITS

Bound = Literal["", "most", "least"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """low = high unless it is a range. `dimension` "" is a bare number, "#人" a measure word; `unit` is the factor of
    the unit as written, `factor` with its scale word (万, million); `start`, `end`: where in the spelled-out text, of
    which `text` is that piece."""

    low: Fraction
    high: Fraction
    dimension: str
    unit: Fraction
    factor: Fraction
    bound: Bound
    start: int
    end: int
    text: str = ""
    is_denied: bool = False  # not 80, but 100
    is_aside: bool = False  # in brackets: 72 (18 × 4)

    @property
    def is_range(self) -> bool:
        return self.low != self.high

    def __str__(self) -> str:
        return " ".join(self.text.split())


def _any(words: Sequence[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_LATIN_UNITS = [name for name in UNITS if re.fullmatch(r"[a-zμ°].*|hk\$", name) and name != "a"]
_OTHER_UNITS = [name for name in UNITS if name not in _LATIN_UNITS and name not in "a$¥€£"]
_UNIT = (
    rf"(?:\s*(?P<unit>{_any([*_OTHER_UNITS, *COUNTERS])}|[$¥€£])"
    rf"|\s*-?(?P<latin>{_any(_LATIN_UNITS)})(?![a-z0-9μ])|(?P<ampere>a)(?![a-z]))"
)
_SCALE_WORDS = _any([word for word in SCALES if not word.isascii()])
_NO_UNIT = "(?![克米瓦卡赫焦伏帕分])"  # 千瓦 and 百分 are no thousands and hundreds
_SCALE = (
    rf"(?:\s*(?P<scale>(?:{_SCALE_WORDS}){_NO_UNIT}|(?:hundred|thousand|million|billion|trillion)(?![a-z]))"
    r"|(?P<short>mn|bn|k|m|b)(?![a-z0-9/^]))"
)
_NUMBER = r"\d+(?:\.\d+)?(?:e[-+]?\d+)?(?:\s*(?:[×x*·]|\\times)\s*10\^\{?-?\d+\}?)?(?:/\d+(?:\.\d+)?(?![\d/]))?"
_MONEY = r"(?P<money>us\$|hk\$|[$¥€£]|\b(?:rmb|cny|usd|eur|gbp|hkd|jpy)\s?)"
_QUANTITY = re.compile(
    rf"(?P<sign>(?<![0-9a-z.)%°])-|零下\s*|负\s*|\bminus\s+)?{_MONEY}?\s*(?<![a-z_\d.])(?P<number>{_NUMBER}){_SCALE}?{_UNIT}?"
)
_HYPHEN = re.compile(rf"(\d\s*(?:{_any([*_OTHER_UNITS, *COUNTERS])})?)\s*-\s*(?=\d)")
"""Between two numbers it is no sign."""
_ASKED = re.compile(
    rf"(?:多少|几|单位\s*(?:为|是|:)?|how (?:many|much)|\bin)\s*(?P<scale>{_any(list(SCALES))})?\s*"
    rf"(?P<unit>{_any([*_OTHER_UNITS, *COUNTERS])}|(?:{_any(_LATIN_UNITS)})(?![a-z]))"
)
_PERCENT_ASKED = re.compile(r"百分之(?:多少|几)|what percent|percentage|百分比|百分率")
_TO = re.compile(r"^\s*(?:-|~|至|到|to|and)\s*$")
_BETWEEN = re.compile(r"(?:between|介于|在)\s*$")
_JOINT = re.compile(r"^(?:\s*|零|又|and|,\s*)$")
_HALF_AFTER = re.compile(r"^半(?!年|天|个|小时|价|数)")

_MOST_BEFORE = re.compile(
    r"(?:不(?:得|能|可|会)?(?:超过|高于|大于|多于)|最多|至多|最高|最长|上限(?:为|是)?|低于|少于|小于|不到|不足"
    r"|≤|<=?|at most|up to|no more than|not? exceed(?:ing)?|less than|fewer than|below|under|within|a maximum of)"
    r"\s*(?:可|能|为|是|报销)?\s*$"
)
_LEAST_BEFORE = re.compile(
    r"(?:不(?:得|能|可)?(?:少于|低于|小于)|最少|至少|最低|最短|下限(?:为|是)?|超过|高于|大于|多于|满"
    r"|≥|>=?|at least|no less than|not less than|more than|above|over|a minimum of)\s*(?:要|需|为|是)?\s*$"
)
_MOST_AFTER = re.compile(r"^\s*(?:\([^)]*\))?\s*(?:以内|之内|以下|之下|封顶|or less|or fewer|at most)")
_LEAST_AFTER = re.compile(r"^\s*(?:\([^)]*\))?\s*(?:以上|之上|起|or more|at least)")

_DATES = re.compile(
    r"(?<!\d)(?:1[6-9]|20)\d\d\s*[-/.年]\s*\d{1,2}\s*[-/.月]\s*\d{1,2}(?!\d)\s*[日号]?|(?<!\d)\d{1,2}月\d{1,2}[日号]"
    r"|(?<!\d)(?:1[6-9]|20)\d\d年(?:度)?(?:\d{1,2}月)?|(?<!\d)\d{1,2}月(?=份|底|初|中旬|上旬|下旬)|(?<![\d:])\d{1,2}:\d\d(?::\d\d)?(?![\d:])"
    r"|(?<!\d)\d{1,2}点(?:\d{1,2}分|半|整|钟)?"
)
_LATEX = re.compile(r"\$([^$\n]*[\\^][^$\n]*|-?\d+(?:\.\d+)?)\$")
_FRACTION_TEX = re.compile(r"\\d?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_TEX = re.compile(r"\\(?:text|mathrm|textbf|mathbf|rm|operatorname|boxed)\s*|\\[,;! ]|\\(?=%)|\{~|[{}]|\\left|\\right")
_BOLD = re.compile(r"(?<![0-9A-Za-z)*])\*{1,2}(?=[^\s*])([^*\n]*[^\s*])\*{1,2}(?!\*)")
_DENIED = re.compile(r"(?:不是|并非|而非|不等于|不应该?[是为]|\bnot|\bisn't|\brather than)\s*$")
_SHARES = re.compile(
    r"(?<![零〇一二两三四五六七八九十百千万\d])([零〇一二两三四五六七八九十百千万\d]+)分之([零〇一二两三四五六七八九十百千万\d]+)"
)
_HALVES = re.compile(r"(?<![一过大个\d])半(?=个?(?:年|天|日|小时|钟头|月|斤|公斤|升|米|公里|成|吨|亩|里|克))")
_AND_A_HALF = re.compile(
    r"(?<![\d.])(\d+)\s*个?半(?=(?:年|天|小时|钟头|月|星期|月))|(?<!\d)(\d+)\s*个\s*半(?=小时|月|星期|钟头)"
)


def quantities(text: str, *, keep_dates: bool = False) -> list[Quantity]:
    """All quantities of a text, in order; ranges and compounds are one."""
    spelled = _spell(text)
    if not keep_dates:
        spelled = _DATES.sub(lambda date: " ; ", spelled)
    found = [_quantity(match, spelled) for match in _QUANTITY.finditer(spelled)]
    joined = _joined([quantity for quantity in found if quantity is not None], spelled)
    return [
        replace(
            quantity,
            text=spelled[quantity.start : quantity.end],
            is_denied=_DENIED.search(spelled[: quantity.start]) is not None,
            is_aside=_is_aside(spelled[: quantity.start]),
        )
        for quantity in joined
    ]


def _is_aside(before: str) -> bool:
    """In brackets, and not the result of a sum there: 6 × 14 (= 84)."""
    opened = before.rpartition("(")
    return bool(opened[1]) and ")" not in opened[2] and "=" not in opened[2]


def unit_asked(question: str) -> tuple[str, Fraction] | None:
    """Dimension and factor of the unit in which a question wants its number («多少万元»), or None."""
    spelled = plain(question)
    if _PERCENT_ASKED.search(spelled):
        return "percent", Fraction(1)
    if (match := _ASKED.search(spelled)) is None:
        return None
    dimension, factor = UNITS.get(match["unit"], (f"#{match['unit']}", Fraction(1)))
    return dimension, factor * SCALES.get(match["scale"] or "", 1)


def _spell(text: str) -> str:
    """One spelling: digits for words, LaTeX and fractions in words and Markdown's emphasis unwrapped."""
    text = _BOLD.sub(r"\1", text)
    text = _LATEX.sub(lambda math: f" {math[1]} ", text)
    text = _TEX.sub("", _FRACTION_TEX.sub(r"\1/\2", text))
    text = _SHARES.sub(_share, text)
    text = _HALVES.sub(" 0.5 ", text)
    text = plain(text).replace("⁄", "/")
    text = _AND_A_HALF.sub(lambda count: f" {count[1] or count[2]}.5 个", text)
    text = re.sub(r"(\.5 )个(?=年|天|小时)", r"\1", text)
    return _HYPHEN.sub(r"\1~", text)


def _share(match: re.Match[str]) -> str:
    if match[1] in ("百", "一百"):
        return match[0]  # the numerals read it as a percentage
    whole, part = (_whole(match[1]), _whole(match[2]))
    return match[0] if not whole or part is None else f" {part}/{whole} "


def _whole(run: str) -> int | None:
    if run.isdecimal():
        return int(run)
    if len(run) == 1 and run in DIGITS:
        return DIGITS[run]
    places = {"十": 10, "百": 100, "千": 1000, "万": 10_000}
    return places.get(run) or (None if any(char.isdecimal() for char in run) else parse_chinese(run))


def _quantity(match: re.Match[str], text: str) -> Quantity | None:
    value = _value(match["number"])
    if value is None:
        return None
    dimension, unit = _unit(match)
    short = {"k": 1000, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}.get(match["short"] or "", 1)
    if match["short"] == "m" and not (match["money"] or dimension):  # 5m is five metres, $5m five millions
        dimension, short = "length", 1
    factor = unit * SCALES.get(match["scale"] or "", 1) * short
    value *= -factor if match["sign"] else factor
    bound = _bound(text, match.start(), match.end())
    return Quantity(value, value, dimension, unit, factor, bound, match.start(), match.end())


def _unit(match: re.Match[str]) -> tuple[str, Fraction]:
    name = match["unit"] or match["latin"] or match["ampere"] or (match["money"] or "").strip()
    if match["money"] and not (match["unit"] in ("元", "块") or match["latin"]):
        name = {"us$": "$"}.get(match["money"].strip(), match["money"].strip())
    if not name:
        return "", Fraction(1)
    return UNITS.get(name, (f"#{name}", Fraction(1)))


def _value(number: str) -> Fraction | None:
    head, _, power = re.sub(r"\s*(?:[×x*·]|\\times)\s*10\^", "^", number).partition("^")
    head, _, below = head.partition("/")
    mantissa, _, exponent = head.partition("e")
    shift = int(exponent or 0) + int(power.strip("{}") or 0)
    if abs(shift) > 300 or len(number) > 400 or (below and not float(below)):
        return None
    return Fraction(mantissa) * Fraction(10) ** shift / Fraction(below or 1)


def _bound(text: str, start: int, end: int) -> Bound:
    before, after = text[max(0, start - 24) : start], text[end : end + 12]
    if _MOST_BEFORE.search(before) or _MOST_AFTER.match(after):
        return "most"
    return "least" if _LEAST_BEFORE.search(before) or _LEAST_AFTER.match(after) else ""


def _joined(found: list[Quantity], text: str) -> list[Quantity]:
    """80元 to 100元 is one range, 2小时30分 one time, 一年半 a year and a half."""
    made: list[Quantity] = []
    for each in found:
        quantity = each
        if _HALF_AFTER.match(text[each.end : each.end + 2]) and each.dimension:
            half = each.factor / 2
            quantity = replace(each, low=each.low + half, high=each.high + half, end=each.end + 1)
        last = made[-1] if made else None
        if last is not None and (both := _as_range(last, quantity, text) or _as_sum(last, quantity, text)):
            made[-1] = both
        else:
            made.append(quantity)
    return made


def _as_range(first: Quantity, second: Quantity, text: str) -> Quantity | None:
    between = text[first.end : second.start]
    if first.is_range or not _TO.match(between) or (first.dimension and first.dimension != second.dimension):
        return None
    if between.strip() == "and" and not _BETWEEN.search(text[: first.start]):
        return None
    low = first.low if first.dimension else first.low * (second.factor / first.factor if first.factor == 1 else 1)
    if low >= second.high:
        return None
    return replace(second, low=low, bound="", start=first.start)


def _as_sum(first: Quantity, second: Quantity, text: str) -> Quantity | None:
    is_smaller = first.dimension == second.dimension and first.factor > second.factor > 0
    if not is_smaller or not first.dimension or first.is_range or not _JOINT.match(text[first.end : second.start]):
        return None
    total = first.low + (second.low if first.low >= 0 else -second.low)
    return replace(first, low=total, high=total, end=second.end)
