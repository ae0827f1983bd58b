"""The one place that says when two answers read the same: `fold` turns text into comparable tokens.

A token is a number with its sign, decimals, clock minutes and percent sign (`-5`, `3.5%`, `9:00`), a Latin word or code
(`a4`), or a single Chinese character. So "80元" is (80, 元), and can be found neither in "180元" nor in "800元".
This fold judges answers; duplicates in training data are found by a coarser one of their own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from danlu.evaluation.numerals import digits_for_words, spread_scale

Folded = tuple[str, ...]

CJK = "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_TOKEN = re.compile(
    rf"(?:(?<![0-9a-z.)%])-)?\d+(?:[.:]\d+)*%?"  # numbers; a hyphen after a digit or letter is no sign
    rf"|[{CJK}]"
    rf"|[^\W\d_{CJK}]+(?:'[^\W\d_{CJK}]+)*\d*(?![.:]\d)"  # words, and codes such as a4 or h200
    rf"|[^\W\d_{CJK}]+"
    rf"|[$€£°~<>≤≥±^+/]"
)
# The last alternative is a trace that the limit of tokens cut: nothing was answered yet.
_THINKING = re.compile(
    r"<think(?:ing)?>.*?</think(?:ing)?>|^.*?</think(?:ing)?>|<think(?:ing)?>.*$", re.DOTALL | re.IGNORECASE
)
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z)])(?:<sub>(\d+)</sub>|_\{?(\d+)\}?(?![\w]))|(?<=[A-Za-z)])_(\d)(?=[A-Z])")
_TEX_TEXT = re.compile(r"\\(?:text|mathrm|mathbf|ce)\s*\{([^{}]*)\}")
# Separators are read before NFKC, which would make the Chinese comma of a list ("100，200") look like one.
_THOUSANDS = re.compile(
    r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,]*\d)"
    r"|(?<![０-９])[０-９]{1,3}(?:，[０-９]{3})+(?![０-９])"
)
_SPACED_THOUSANDS = re.compile("(?<=\\d)[\u2009\u202f](?=\\d{3}(?!\\d))")
_SUPERSCRIPT = re.compile("(?<=[0-9])([⁰¹²³⁴-⁹]+)")
_FRACTION = re.compile("(?<=[0-9])(?=[¼-¾⅐-⅞])")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad]")
_DASHES = str.maketrans("‐‑‒–—―−﹣－〜～∼’‘￥", "---------~~~''¥")
_DATE = re.compile(r"(?<!\d)(\d{4})\s*[-/.年]\s*(\d{1,2})\s*[-/.月]\s*(\d{1,2})(?!\d)\s*[日号]?")
_CLOCK = re.compile(r"(?<![\d.])(\d{1,2})\s*点(?:\s*(\d{1,2})\s*分?|(半)|钟|整)?(?!\d)")
_AM_PM = re.compile(r"(?<![\d:.])(\d{1,2})(?::(\d\d))?\s*([ap])\.?m\b\.?")
_RANGE = re.compile(
    r"(?:(?<=[\d%])|(?<=元)(?=[^\d]{1,4}\d+(?:\.\d+)?元))\s*(?:-|~|至|到|\bto\b)\s*(?=\d)"  # 80-100, 80元到100元
)
_MONEY_BEFORE = re.compile(r"(?:¥|\b(?:rmb|cny))\s*(\d+(?:\.\d+)?)(?:\s*(?:元|yuan\b))?")
_MONEY_AFTER = re.compile(r"(?<=\d)\s*(?:块钱|元钱|圆|rmb\b|cny\b|yuan\b)")
_DOLLARS = re.compile(r"(?<=\d)\s*(?:美元|美金|us dollars?\b|dollars?\b|usd\b)|(?:us\$|\$|\busd)\s*(\d+(?:\.\d+)?)")
_TRAILING_ZEROS = re.compile(r"(\.\d*[1-9])0+(?=\s*(?:%|元|\$))")
_WORD_PERCENT = re.compile(r"(?<=\d)\s*(?:%|per\s?cent\b)")
_ARTICLES = {"the"}
_SINGULAR = {
    f"{word}s": word for word in ("day", "week", "month", "year", "hour", "minute", "night", "time", "page", "item")
}
_FOUND_NEGATED = (
    ("不", "是"), ("并", "非"), ("而", "非"), ("并", "不", "是"), ("not",), ("isn't",), ("非",),
    ("不", "在"), ("不", "叫"), ("not", "in"), ("not", "at"),
)  # fmt: skip


def fold(text: str) -> Folded:
    """Comparable tokens: width, case, punctuation, spaces, number notation, "the" and units' plurals do not matter."""
    return tuple(
        _SINGULAR.get(plain, plain)
        for token in _TOKEN.findall(_spell(text))
        if (plain := _number(token)) not in _ARTICLES
    )


def numbers(folded: Folded) -> set[str]:
    """The numbers among the tokens."""
    return {token for token in folded if token.lstrip("-")[:1].isdigit()}


def find(needle: Folded, folded: Folded, *, start: int = 0) -> int:
    """Where `needle` stands in `folded` as itself, or -1: not as one end of a range, not directly denied.

    "80元" is not found in "50-80元" (another value) nor in "不是80元", but it is in "不超过80元".
    """
    if not needle:
        return -1
    width = len(needle)
    for index in range(start, len(folded) - width + 1):
        if folded[index : index + width] != needle:
            continue
        before, after = folded[:index], folded[index + width :]
        if needle[0] in numbers(needle[:1]) and before[-1:] == ("~",):
            continue
        ends_in_number = numbers(needle[-2:] if needle[-1] == "元" else needle[-1:])
        if ends_in_number and after[:1] == ("~",):
            continue
        if any(before[-len(words) :] == words for words in _FOUND_NEGATED):
            continue
        return index
    return -1


def overlap_f1(answer: Folded, reference: Folded) -> float:
    """F1 of the two bags of tokens (SQuAD's, with Chinese characters as words); 1.0 when both are empty."""
    if not answer or not reference:
        return float(answer == reference)
    counts: dict[str, int] = {}
    for token in reference:
        counts[token] = counts.get(token, 0) + 1
    common = 0
    for token in answer:
        if counts.get(token, 0) > 0:
            counts[token] -= 1
            common += 1
    return 2 * common / (len(answer) + len(reference))


def agree(answers: Sequence[str], *, threshold: float = 0.8) -> bool:
    """Whether answers say the same thing: the same numbers, and nearly the same words."""
    first, *others = [fold(answer) for answer in answers]
    return all(numbers(other) == numbers(first) and overlap_f1(other, first) >= threshold for other in others)


def final_answer(text: str) -> str:
    """The answer without a thinking trace."""
    return _THINKING.sub("", text).strip()


def is_chinese(text: str) -> bool:
    """Whether a text holds Chinese characters."""
    return re.search(f"[{CJK}]", text) is not None


def plain(text: str) -> str:
    """Width, case, dashes and notation of numbers made one: digits for words, no separators, % for percent."""
    text = _SUBSCRIPT.sub(lambda low: low[1] or low[2] or low[3], _TEX_TEXT.sub(r"\1", text))  # H_2O and H<sub>2</sub>O
    text = _THOUSANDS.sub(lambda number: re.sub("[,，]", "", number[0]), text)
    text = _SPACED_THOUSANDS.sub("", text)
    text = _FRACTION.sub(" ", _SUPERSCRIPT.sub(r"^\1", text))  # 10² is not 102, 1½ is not 11/2
    text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text).translate(_DASHES)).casefold().translate(_DASHES)
    return _WORD_PERCENT.sub("%", digits_for_words(spread_scale(text)))


def _spell(text: str) -> str:
    """One spelling for what can be written in several ways."""
    text = plain(text)
    text = _DATE.sub(lambda date: f" {date[1]}年{int(date[2])}月{int(date[3])}日 ", text)
    text = _CLOCK.sub(lambda time: f" {int(time[1])}:{'30' if time[3] else (time[2] or '00').zfill(2)} ", text)
    text = _AM_PM.sub(lambda time: f" {int(time[1])}:{time[2] or '00'} {time[3]}m ", text)
    text = _MONEY_BEFORE.sub(r" \1元", text)
    text = _MONEY_AFTER.sub("元", text)
    text = _DOLLARS.sub(lambda money: f" {money[1]}$" if money[1] else "$", text)
    text = _TRAILING_ZEROS.sub(r"\1", text)
    return _RANGE.sub(" ~ ", text)


def _number(token: str) -> str:
    """80.00 is 80 and 09:00 is 9:00; 3.10 stays, for it may be a section; 007 stays, for it may be a code."""
    if not token.lstrip("-")[:1].isdigit():
        return token.removesuffix("'s")  # Paris's
    percent = "%" if token.endswith("%") else ""
    body = re.sub(r"^(-?\d+)\.0+$", r"\1", token.rstrip("%"))
    return re.sub(r"^(-?)0(\d)(?!\d)", r"\1\2", body) + percent
