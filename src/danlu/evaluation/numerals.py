"""Numbers written in words, made digits: 八十 → 80, 3.5万 → 35000, 百分之五 → 5%, twenty-five → 25.

Only where it is safe. `三四天` (3 or 4 days), `万一` (in case), `十分满意` (very pleased) stay words: read
as numbers they would let a wrong answer pass. Ordinals, halves and quarters stay words too: list them under `accept`.
Made numbers stand between spaces, so that they never melt into neighbouring digits.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal

DIGITS = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10_000, "亿": 100_000_000}

# What a lone 一…九 or 十 must be followed by to be a count.
_UNITS = (
    "元块角年月日天周季号个名位人次倍级类档条项款章节篇页份张台套件间层楼"
    "米吨斤克升折成种门小公毫厘平钟点分岁届批轮期顿晚夜%℃°"
)

_FORMAL = str.maketrans("壹贰貳叁參肆伍陆陸柒捌玖拾佰仟萬億", "一二二三三四五六六七八九十百千万亿")
_FORMAL_RUN = re.compile(
    "[壹贰貳叁參肆伍陆陸柒捌玖拾佰仟萬億万亿零]*[拾佰仟][壹贰貳叁參肆伍陆陸柒捌玖拾佰仟萬億万亿零]*"
)
_RUN = "[零〇一二两三四五六七八九十百千万亿]+"
_CHINESE_RUN = re.compile(_RUN)
_CHINESE_DECIMAL = re.compile(
    "(?<![零一二三四五六七八九十百])([零一二三四五六七八九十百]+)点([零一二三四五六七八九]+)(?=%|倍|元|万|亿|米|公里|个百分点)"
)
_PERCENT = re.compile(f"百分之({_RUN})(?:点([零〇一二三四五六七八九]+))?")
_MIXED = re.compile(r"(?<![\d.])(?:\d+(?:\.\d+)?(?:[十百千]?[万亿]|千(?![克米瓦卡赫字])|百(?!分)))+\d*")
_MIXED_PART = re.compile(r"(\d+(?:\.\d+)?)([十百千]?[万亿]|[百千]?)")

_WORD_RANGE = re.compile(f"(?<![第零〇一二两三四五六七八九十百千万亿])({_RUN})([至到~-]|--)({_RUN})(?=[{_UNITS}])")
_SCALED_RANGE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)(\s*[-~至到]\s*)(?=\d+(?:\.\d+)?([万亿]))(\d+(?:\.\d+)?[万亿])")

_ENGLISH_SMALL = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_ENGLISH_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_ENGLISH_WORDS = "|".join(sorted([*_ENGLISH_SMALL, *_ENGLISH_TENS, "hundred", "thousand"], key=len, reverse=True))
_ENGLISH_RUN = re.compile(rf"\b(?:{_ENGLISH_WORDS})(?:(?:[\s-]+(?:and\s+)?)(?:{_ENGLISH_WORDS}))*\b")
_ENGLISH_MIXED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[\s-]*(hundred|thousand|million|billion)\b")
_ENGLISH_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_ENGLISH_COUNTED = re.compile(
    r"[\s-]*(?:day|week|month|year|hour|minute|time|night|person|people|copy|yuan|percent|%|item|page|room|working|business)"
)


def digits_for_words(text: str) -> str:
    """`text` (already NFKC and case-folded) with number words made digits where that is safe."""
    text = _FORMAL_RUN.sub(lambda run: run[0].translate(_FORMAL) if len(run[0]) > 1 else run[0], text)
    text = _PERCENT.sub(_percent, text)
    text = _CHINESE_DECIMAL.sub(_decimal, text)
    text = _MIXED.sub(_mixed, text)
    text = _CHINESE_RUN.sub(_chinese, text)
    text = _ENGLISH_MIXED.sub(_english_mixed, text)
    return _ENGLISH_RUN.sub(_english, text)


def spread_scale(text: str) -> str:
    """3-5万 → 3万-5万 and 三到五天 → 3到5天: what is said once of a range holds for both its ends."""
    text = _WORD_RANGE.sub(_word_range, text)
    return _SCALED_RANGE.sub(r"\1\3\2\4", text)


def parse_chinese(run: str) -> int | None:
    """The value of a well-formed Chinese numeral (一千零五十, 三百五, 二〇二四), or None."""
    if all(char in DIGITS for char in run):
        if len(run) > 1 and "两" in run:
            return None
        # Two bare digits are as often "seven or eight" as "78".
        if len(run) == 2 and not set(run) & {"零", "〇"}:
            return None
        return int("".join(str(DIGITS[char]) for char in run))
    for name in ("亿", "万"):
        if name in run:
            head, _, tail = run.partition(name)
            high = parse_chinese(head) if head else None
            low = _tail(tail, _MYRIADS[name])
            return None if high is None or low is None else high * _MYRIADS[name] + low
    return _below_myriad(run)


def _tail(tail: str, place: int) -> int | None:
    """What follows 万 or 亿; a lone digit is colloquial: 三万五 is 35 000."""
    if not tail:
        return 0
    if len(tail) == 1 and tail in DIGITS:
        return DIGITS[tail] * place // 10
    return parse_chinese(tail.lstrip("零〇") or "零")


def _below_myriad(run: str) -> int | None:
    total, digit, last = 0, None, 10_000
    for index, char in enumerate(run):
        if char in _PLACES:
            place = _PLACES[char]
            if place >= last or (digit is None and not (char == "十" and index == 0)):
                return None
            total, digit, last = total + (1 if digit is None else digit) * place, None, place
        elif DIGITS[char] == 0:
            if digit is not None:
                return None
            last = min(last, 100) if last > 100 else last
        elif digit is not None:
            return None
        else:
            digit = DIGITS[char]
    if digit is None:
        return total
    colloquial = last >= 100 and run[-2] in _PLACES  # 三百五 is 350, 三百零五 is 305
    return total + digit * (last // 10 if colloquial else 1)


def _chinese(match: re.Match[str]) -> str:
    run, after, before = match[0], match.string[match.end() :], match.string[: match.start()]
    if len(run) == 1 or run == "十":
        if before.endswith("第") and run in "一二三四五六七八九十":
            return f" {DIGITS.get(run, 10)} "
        if not after or after[0] not in _UNITS or before[-1:].isdigit():
            return run
        if run in "一十" and after[0] in "点分" and not re.match("点[钟半整零一二三四五0-9]|分[钟之]", after):
            return run
        return f" {DIGITS[run]} " if run in DIGITS else (" 10 " if run == "十" else run)
    value = parse_chinese(run)
    return run if value is None else f" {value} "


def _word_range(match: re.Match[str]) -> str:
    """Both ends as digits, the scale of the second (三到五万) for both; words stay words where one is no number."""
    first, second = match[1], match[3]
    scale = second[-1] if second[-1] in _MYRIADS and not set(first) & set("万亿") and len(second) > 1 else ""
    ends = [_simple(first), _simple(second.removesuffix(scale))]
    if None in ends:
        return match[0]
    return f" {ends[0]}{scale}{match[2]}{ends[1]}{scale} "


def _simple(run: str) -> int | None:
    if len(run) == 1 and run in DIGITS:
        return DIGITS[run]
    return parse_chinese(run)


def _percent(match: re.Match[str]) -> str:
    value = parse_chinese(match[1])
    if value is None:
        return match[0]
    fraction = "".join(str(DIGITS[char]) for char in match[2] or "")
    return f" {value}{'.' if fraction else ''}{fraction}% "


def _decimal(match: re.Match[str]) -> str:
    value = parse_chinese(match[1])
    return match[0] if value is None else f" {value}.{''.join(str(DIGITS[char]) for char in match[2])}"


def _mixed(match: re.Match[str]) -> str:
    """3万5千 → 35000; a number that does not come out whole stays as it was written."""
    total, last = Decimal(0), Decimal(1)
    for number, name in _MIXED_PART.findall(match[0]):
        if name:
            last = Decimal(math.prod(_MYRIADS.get(char) or _PLACES[char] for char in name))
            total += Decimal(number) * last
        else:
            total += Decimal(number) * (last / 10 if len(number) == 1 else 1)
    return f" {int(total)} " if total == int(total) else match[0]


def _english_mixed(match: re.Match[str]) -> str:
    """3.5 million → 3500000; a number that does not come out whole stays as it was written."""
    total = Decimal(match[1]) * _ENGLISH_SCALES[match[2]]
    return f" {int(total)} " if total == int(total) else match[0]


def _english(match: re.Match[str]) -> str:
    words = re.findall(_ENGLISH_WORDS, match[0])
    if words[0] in _ENGLISH_SCALES and match.string[: match.start()].rstrip()[-1:].isdigit():
        return match[0]  # 0.1234 thousand
    if words == ["one"] and not _ENGLISH_COUNTED.match(match.string[match.end() :]):
        return match[0]  # "no one", "the one who"
    total, part = 0, 0
    previous = ""
    for word in words:
        if word == "thousand":
            total, part = total + max(part, 1) * 1000, 0
        elif word == "hundred":
            part = max(part, 1) * 100
        elif previous in _ENGLISH_SMALL or (previous in _ENGLISH_TENS and _ENGLISH_SMALL.get(word, 10) >= 10):
            return match[0]  # "two three days", "twenty thirty": not one number
        else:
            part += _ENGLISH_SMALL.get(word, 0) + _ENGLISH_TENS.get(word, 0)
        previous = word
    return f" {total + part} "
