"""Numeric: the number is right, whatever its notation and unit: "3.5万元" is 35,000 yuan, "1.5 km" is 1500米.

Which number of the answer counts: the first after a word of conclusion (答案是, the answer is, ####, \\boxed), else the
last that has the kind of unit asked for, for reasoning ends in its result; `rules: {"take": "first"}` or "any" say
otherwise. Not counted are numbers that only repeat the question, denied ones (不是80元), and those in brackets where
others stand outside (72 (18 × 4)). A bare number is taken in the unit that the question asks in («多少万元»), else it
is right only where the reference is bare, too. Opposite bounds (至少 / 最多) are wrong, a range is right where both
ends are. No number at all is a parse failure.

`rules`: "tolerance": 0.5 (in the reference's unit: 元, not 万元) or "1%" · "within": true (the reference is a range,
any value inside is right) · "take": last | first | any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from danlu.core.errors import EvaluationError
from danlu.evaluation.fold import final_answer
from danlu.evaluation.items import Item
from danlu.evaluation.metrics.metric import Verdict
from danlu.evaluation.quantities import Quantity, quantities, unit_asked

_CONCLUSION = re.compile(r"####|\\boxed|(?:答案|最[终后]结果)(?:应?[是为]|[:：])|(?i:\b(?:final )?answer(?: is|:))")
_TAKES = ("last", "first", "any")


class Numeric:
    name = "numeric"

    def score(self, answer_text: str, item: Item) -> Verdict:
        where = f"item {item.id}"
        tolerance, take = _told(item.rules, where)
        texts = (*(item.values[:1] or (item.reference,)), *item.accept)
        has_dates = not quantities(texts[0])
        wanted = [quantity for text in texts for quantity in quantities(text, keep_dates=has_dates)[-1:]]
        if not wanted:
            raise EvaluationError("evaluation.no_quantity", where=where, given=texts[0][:80])
        said = _candidates(final_answer(answer_text), wanted, item.text, keep_dates=has_dates)
        if not said:
            return Verdict(0.0, False, {"parse_failure": True})
        taken = said if take == "any" else [said[0] if take == "first" or len(said) == 1 else said[-1]]
        within = bool(item.rules.get("within", False))
        asked = unit_asked(item.text)
        right = any(_agrees(one, other, asked, tolerance=tolerance, within=within) for one in taken for other in wanted)
        details: dict[str, Any] = {"read": [str(quantity) for quantity in taken]}
        if others := [str(quantity) for quantity in said if quantity not in taken]:
            details["others"] = others
        return Verdict(float(right), right, details)


def _told(rules: dict[str, Any], where: str) -> tuple[tuple[Fraction, Fraction], str]:
    """(absolute, relative) tolerance and which number to take."""
    given, take = str(rules.get("tolerance", 0)).strip(), rules.get("take", "last")
    try:
        share = given.endswith("%")
        amount = Fraction(given.removesuffix("%")) / (100 if share else 1)
    except ValueError as error:
        raise EvaluationError("evaluation.bad_rule", where=where, given=given, reason=str(error)) from error
    if take not in _TAKES or amount < 0:
        raise EvaluationError("evaluation.bad_rule", where=where, given=f"{take}, {given}", reason=" | ".join(_TAKES))
    return ((Fraction(0), amount) if share else (amount, Fraction(0))), take


def _candidates(answer: str, wanted: Sequence[Quantity], question: str, *, keep_dates: bool) -> list[Quantity]:
    """Numbers of the answer that could be meant: of a fitting kind, after the conclusion if one is drawn, and not the
    question's own."""
    concluded = [match.end() for match in _CONCLUSION.finditer(answer)]
    if concluded:
        line = answer[concluded[-1] :].strip().split("\n")[0]
        if found := quantities(line.rpartition("=")[2], keep_dates=keep_dates) or quantities(
            line, keep_dates=keep_dates
        ):
            return found[:1]
    kinds = {quantity.dimension for quantity in wanted}
    found = [
        quantity
        for quantity in quantities(answer, keep_dates=keep_dates)
        if not quantity.is_denied
        and ("" in kinds or not quantity.dimension or quantity.dimension in kinds or _is_ratio(quantity, kinds)
        or any(_is_count(quantity.dimension, kind) for kind in kinds))
    ]  # fmt: skip
    found = [quantity for quantity in found if not quantity.is_aside] or found
    due = {_written(quantity) for quantity in wanted}
    echoed = {(_written(quantity), quantity.dimension) for quantity in quantities(question)}
    fresh = [one for one in found if (_written(one), one.dimension) not in echoed or _written(one) in due]
    # Where a unit is wanted, numbers with one come first: beside "80元" a bare 3 is a section or a list mark.
    typed = [] if "" in kinds else [quantity for quantity in fresh or found if quantity.dimension]
    return typed or fresh or found


def _written(quantity: Quantity) -> tuple[Fraction, Fraction]:
    """The number in the unit that it was written in."""
    return quantity.low / quantity.unit, quantity.high / quantity.unit


def _agrees(
    said: Quantity,
    wanted: Quantity,
    asked: tuple[str, Fraction] | None,
    *,
    tolerance: tuple[Fraction, Fraction],
    within: bool,
) -> bool:
    if {said.bound, wanted.bound} == {"most", "least"}:
        return False
    factor = _factor(said, wanted, asked)
    if factor is None:
        return False
    low, high = said.low * factor, said.high * factor
    room = [tolerance[0] * wanted.unit + tolerance[1] * abs(end) for end in (wanted.low, wanted.high)]
    if within:
        return wanted.low - room[0] <= low and high <= wanted.high + room[1]
    return abs(low - wanted.low) <= room[0] and abs(high - wanted.high) <= room[1]


def _factor(said: Quantity, wanted: Quantity, asked: tuple[str, Fraction] | None) -> Fraction | None:
    """What makes the number said comparable with the number wanted; None where they measure different things."""
    if said.dimension == wanted.dimension or _is_count(said.dimension, wanted.dimension) or not wanted.dimension:
        if not wanted.dimension and said.dimension:  # a bare reference: the number as it was written
            if said.dimension == "percent" and 0 < wanted.low < 1:  # 50 % is 0.5
                return Fraction(1, 100)
            return 1 / said.unit
        return Fraction(1)
    if said.dimension:
        return None
    if asked is not None and asked[0] == wanted.dimension:
        return asked[1]
    if wanted.dimension == "percent" and 0 <= said.low < 1 and said.factor == 1:  # 0.05 is 5 %
        return Fraction(100)
    return Fraction(1) if wanted.dimension.startswith("#") else None


def _is_count(one: str, other: str) -> bool:
    """12个 is as good as 12人, and a bare 12 as good as either; 度 may be ℃ or an angle."""
    if "#度" in (one, other) and {one, other} & {"temperature", "angle"}:
        return True
    return one.startswith("#") and other.startswith("#") and (one == other or "#个" in (one, other))


def _is_ratio(quantity: Quantity, kinds: set[str]) -> bool:
    return "percent" in kinds and not quantity.dimension
