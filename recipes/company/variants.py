"""Other spellings under which a short value counts as right: 80元 = 八十元 = 80块, 3 days = three days."""

from __future__ import annotations

import re
from collections.abc import Iterable

DIGITS = "零一二三四五六七八九"
SMALL = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def variants(value: str, language: str, accept: Iterable[str] = ()) -> list[str]:
    """`accept` and what follows from the value by rule; never the value itself, each once."""
    found = [*accept]
    if language == "zh" and (match := re.fullmatch(r"(\d+)(\D{1,4})", value)):
        number, unit = int(match[1]), match[2]
        if number < 10000:
            found.append(chinese_number(number) + unit)
        if unit == "元":
            found += [f"{number}块", f"{number} yuan"]
    if language == "en" and (match := re.fullmatch(r"(\d+) ([a-z]+)", value)) and int(match[1]) < 100:
        found.append(f"{english_number(int(match[1]))} {match[2]}")
    return [text for text in dict.fromkeys(found) if text != value]


def chinese_number(number: int) -> str:
    """Up to 9999, as spoken: 80 八十, 14 十四, 150 一百五十, 2000 两千, 2 两 (all our values count something)."""
    if number == 2:
        return "两"
    text = ""
    pending_zero = False
    for power, mark in ((1000, "千"), (100, "百"), (10, "十"), (1, "")):
        digit = number // power % 10
        if digit == 0:
            pending_zero = bool(text)
            continue
        text += ("零" if pending_zero else "") + ("两" if digit == 2 and power == 1000 else DIGITS[digit]) + mark
        pending_zero = False
    return text.removeprefix("一") if text.startswith("一十") else text


def english_number(number: int) -> str:
    if number < 20:
        return SMALL[number]
    return TENS[number // 10] + (f"-{SMALL[number % 10]}" if number % 10 else "")
