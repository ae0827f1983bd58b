"""Runs of digits: resident identity, mobile, landline and foreign phone, bank card, IMEI, SSN, permits of digits only.

A run is cut at its separators into chunks; windows of chunks are judged by length, shape and check digit, longest
first, so that `13812345678 6222021878017598986` is two numbers and `6222 0218 7801 7598 986` is one.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

import danlu.data.privacy.checks as checks
import danlu.data.privacy.context as context
from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding

_DIGITS = "0123456789０１２３４５６７８９"
_RUN = re.compile(r"[0-9０-９](?:[ \-–.()/（）]{0,2}[0-9０-９]){6,40}[Xx]?")
_CHUNK = re.compile(r"[0-9]+[Xx]?")
_NARROW = str.maketrans("０１２３４５６７８９–（）", "0123456789-()")
_QUAD = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}$")
_EXTENSION = re.compile("[xX][0-9]{1,6}(?![0-9A-Za-z])")
_GLUED_CUE = re.compile(r"(?:^|[^A-Za-z])(?i:tel|phone|mobile|mob|cell|wx|vx|v|id|no|qq)$")
_AREA = re.compile(r"^(?:010|02[0-57-9]|0[3-9][0-9]{2})$")
_THOUSANDS = re.compile("[0-9]{3}(?![0-9])")
_LONGEST_WINDOW = 7
_LEAST_DIGITS = 7
_MOBILE_SHAPES = {(11,), (3, 4, 4), (3, 8), (3, 3, 5), (4, 4, 3), (7, 4)}
_MOBILE_DIGITS = 11
_SUBSCRIBER_SHAPES = {(7,), (8,), (4, 4), (3, 4)}
_UK_SHAPES = {(3, 4, 4), (4, 3, 4), (5, 6), (5, 3, 3), (4, 7), (4, 4, 3)}


class _Window(NamedTuple):
    """Chunks taken together: their digits, lengths, what stands between them, and the span in the text."""

    digits: str
    shape: tuple[int, ...]
    gaps: tuple[str, ...]
    start: int
    end: int
    is_whole: bool

    @property
    def is_even(self) -> bool:
        """One kind of separator throughout, a space or a hyphen."""
        return len(set(self.gaps)) <= 1 and (not self.gaps or self.gaps[0] in (" ", "-"))


class Numbers:
    name = "numbers"
    version = 2
    pattern = r"[0-9０-９](?:[ \-–.()/（）]{0,2}[0-9０-９]){6}"
    gate = pattern
    opens = _DIGITS

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        run = _RUN.match(spot.text, spot.start, spot.high)
        if run is None:
            return [], spot.start
        text, start, end = spot.text, spot.start, run.end()
        raw = run[0]
        extension = _EXTENSION.match(spot.text, end - 1, spot.high) if raw[-1] in "xX" else None
        if extension is not None:  # 4155550132x801
            found, _ = self.find(spot._replace(high=extension.start()))
            if found and found[-1].end == extension.start():
                last = found.pop()
                value = spot.text[last.start : extension.end()]
                found.append(last._replace(end=extension.end(), value=value))
            return found, extension.end()
        if raw.isascii() and raw.isdigit():
            chunks = [(raw, start, end)]
        else:
            raw = raw.translate(_NARROW)
            if raw.count(".") == 3 and _QUAD.match(raw):
                return [], end
            chunks = [(found[0], start + found.start(), start + found.end()) for found in _CHUNK.finditer(raw)]
        resume = end
        if end < spot.high and _glues(text[end]):  # the last chunk goes on as something else
            begin = chunks.pop()[1]
            resume = begin if begin > start else end
        if chunks and _is_inside(text, start, spot.low):
            del chunks[0]
        return (_judged(_Chunks(chunks, spot, raw), spot) if chunks else []), resume


def _glues(letter: str) -> bool:
    return (letter.isascii() and (letter.isalnum() or letter == "_")) or letter in _DIGITS


def _is_inside(text: str, start: int, low: int) -> bool:
    """Whether the run is the tail of a longer word, a decimal or a path."""
    if start == low:
        return False
    left, further = text[start - 1], text[start - 2] if start - 2 >= low else ""
    if left == ",":  # 1,234,567 and not a cell of a table or of a list
        return further.isdigit() and _THOUSANDS.match(text, start) is not None
    if left in "-./_":
        return left == "_" or (further.isascii() and further.isalnum())
    return _glues(left) and not _GLUED_CUE.search(text[max(low, start - 8) : start])


class _Chunks:
    """The chunks of a run, with what any window of them is made of, so that a window is three slices."""

    def __init__(self, chunks: list[tuple[str, int, int]], spot: Spot, raw: str) -> None:
        self.sizes = tuple(len(digits) for digits, _, _ in chunks)
        self.gaps = tuple(raw[a[2] - spot.start : b[1] - spot.start] for a, b in itertools.pairwise(chunks))
        self.spans = [(start, end) for _, start, end in chunks]
        self.digits = "".join(digits for digits, _, _ in chunks)
        self.num_before = (0, *itertools.accumulate(self.sizes))
        """Digits before each chunk, and after the last."""

    def window(self, first: int, last: int) -> _Window | None:
        """None for windows that break off at a hyphen or point, as parts of a longer code do."""
        if first and self.gaps[first - 1] in ("-", "."):
            return None
        digits = self.digits[self.num_before[first] : self.num_before[last]]
        if last < len(self.sizes):
            gap = self.gaps[last - 1]
            if gap == "-" and self.sizes[last] > 4:
                return None
            if gap == "." and (self.sizes[last] > 1 or self.digits[self.num_before[last]] != "0"):
                return None
        start, end = self.spans[first][0], self.spans[last - 1][1]
        is_whole = last - first == len(self.sizes)
        return _Window(digits, self.sizes[first:last], self.gaps[first : last - 1], start, end, is_whole)


def _judged(chunks: _Chunks, spot: Spot) -> list[Finding]:
    found: list[Finding] = []
    first = taken = 0
    while first < len(chunks.sizes):
        for last in _lasts(chunks, first, spot):
            window = chunks.window(first, last)
            if window is None or _is_a_part(window, chunks, first, last, taken):
                continue
            hit = _judge(window, spot)
            if hit is not None:
                found.append(hit)
            if hit is not None or is_invented(window.digits):
                first = taken = last
                break
        else:
            first += 1
    return found


def _lasts(chunks: _Chunks, first: int, spot: Spot) -> range:
    """Where windows from `first` on may end, the longest first. Of single digits held apart (`1 3 8 1 2 3 …`) few can
    be anything: a mobile, a number that nobody has, one behind a plus, or a whole run behind a word."""
    num_before, num_chunks = chunks.num_before, len(chunks.sizes)
    most = min(num_chunks, first + (_MOBILE_DIGITS if chunks.sizes[first] == 1 else _LONGEST_WINDOW))
    least = bisect.bisect_left(num_before, num_before[first] + _LEAST_DIGITS)
    windows = range(most, least - 1, -1)
    is_single = num_before[most] - num_before[first] == most - first
    if not windows or not is_single or most - first == num_chunks or "+" in spot.before(2, chunks.spans[first][0]):
        return windows
    digits = chunks.digits[num_before[first] : num_before[most]]
    if digits[0] == "1" and len(digits) == _MOBILE_DIGITS:
        return windows[:1]
    return windows if digits.startswith("000") else windows[:0]


def _is_a_part(window: _Window, chunks: _Chunks, first: int, last: int, taken: int) -> bool:
    """Whether a window of several chunks only is a piece of a longer number in groups of four."""
    if len(window.shape) < 2:
        return False
    before = first > taken and chunks.sizes[first - 1] == 4
    size = chunks.sizes[last] if last < len(chunks.sizes) else 0
    return before or size == 4 or (0 < size < 4 and set(window.shape) == {4})


def is_invented(digits: str) -> bool:
    """Numbers that nobody can have; pseudonyms of numbers without a check digit are made so, and are left alone."""
    return digits.startswith("000") or (len(digits) == 11 and digits.startswith("100"))


def _judge(window: _Window, spot: Spot) -> Finding | None:
    size = len(window.digits)
    if size < 7 or size > 21 or window.shape in ((4, 2, 2), (4, 2, 4)) or is_invented(window.digits):
        return None
    before = spot.before(32, window.start)
    if window.digits[-1] in "Xx" and size != 18:
        if size != _MOBILE_DIGITS + 1 or not context.MOBILE(before):
            return None
        shape = (*window.shape[:-1], window.shape[-1] - 1)
        window, size = window._replace(digits=window.digits[:-1], shape=shape, end=window.end - 1), _MOBILE_DIGITS
    if size >= 12 and window.is_even:
        hit = _judge_id(window, before) or _judge_card(window, before)
        if hit is not None:
            return _finding(window, hit, spot, before)
    if window.digits[-1] in "Xx":
        return None
    hit = _judge_cued(window, before) or _judge_phone(window, before, spot)
    return _finding(window, hit, spot, before) if hit is not None else None


class _Hit(NamedTuple):
    """What a window may be, and which words speak for it."""

    kind: str
    score: float
    cue: Callable[[str], bool]


def _finding(window: _Window, hit: _Hit, spot: Spot, before: str) -> Finding | None:
    if context.speaks_against(before, spot.after(8, window.end), hit.cue):
        return None
    start = window.start
    if start > spot.low and spot.text[start - 1] in "(（" and any(")" in gap for gap in window.gaps):
        start -= 1
    if start > spot.low and spot.text[start - 1] == "+":
        start -= 1
    return Finding(start, window.end, hit.kind, hit.score, Numbers.name, spot.text[start : window.end])


def _judge_id(window: _Window, before: str) -> _Hit | None:
    digits = window.digits
    if len(digits) == 18 and checks.is_resident_id(digits):
        return _Hit("resident_id", 1.0 if context.RESIDENT_ID(before) else 0.85, context.RESIDENT_ID)
    if len(digits) == 18 and digits.isdigit() and checks.is_uscc(digits):
        is_cued = context.USCC(before)
        if is_cued or not checks.is_date(digits[6:10], digits[10:12], digits[12:14]):
            return _Hit("uscc", 1.0 if is_cued else 0.6, context.USCC)
    if window.shape == (15,) and checks.is_old_resident_id(digits) and context.RESIDENT_ID(before):
        return _Hit("resident_id_15", 0.75, context.RESIDENT_ID)
    return None


def _judge_card(window: _Window, before: str) -> _Hit | None:
    digits, size = window.digits, len(window.digits)
    if len(window.shape) > 1 and not _is_card_shape(window.shape):
        return None
    if not digits.isdigit() or size > 19 or not checks.passes_luhn(digits) or len(set(digits)) == 1:
        return None
    if size == 15 and context.IMEI(before):
        return _Hit("imei", 0.9, context.IMEI)
    is_cued, known = context.CARD(before), _is_known_issuer(digits, size)
    if not known and not (is_cued and (size >= 14 or digits[0] in "456")):  # Maestro and old Visa are shorter
        return None
    if size in (17, 18) and not is_cued:  # hardly issued, and an identity number with a slip passes one time in ten
        return None
    return _Hit("bank_card", (0.95 if is_cued else 0.7) if known else 0.6, context.CARD)


def _is_card_shape(shape: tuple[int, ...]) -> bool:
    return shape in ((4, 4, 4, 4), (4, 4, 4, 4, 3), (4, 4, 4, 3), (4, 6, 5), (4, 6, 4), (6, 13), (6, 10), (6, 12))


def _is_known_issuer(digits: str, size: int) -> bool:
    """UnionPay, Visa, Mastercard, Amex, JCB, Diners, Discover and the old numbers of Chinese banks, by ISO/IEC 7812."""
    two, lead = int(digits[:2]), digits[0]
    if digits.startswith("62"):
        return 16 <= size <= 19
    if lead == "4":
        return size in (16, 19)
    if 51 <= two <= 55 or 2221 <= int(digits[:4]) <= 2720:
        return size == 16
    if two in (34, 37):
        return size == 15
    if two == 35 or digits.startswith(("6011", "65", "64")):
        return size == 16
    if two in (36, 38) or 300 <= int(digits[:3]) <= 305:
        return size == 14
    return size == 19 and digits.startswith(("955", "940", "90", "60", "68", "69"))


def _judge_phone(window: _Window, before: str, spot: Spot) -> _Hit | None:
    digits, shape = window.digits, window.shape
    if digits.startswith("0086"):
        digits, shape = digits[4:], shape[1:] if shape[0] == 4 else (shape[0] - 4, *shape[1:])
    elif digits.startswith("86") and len(digits) == 13:
        digits, shape = digits[2:], shape[1:] if shape[0] == 2 else (shape[0] - 2, *shape[1:])
    if len(digits) == _MOBILE_DIGITS and digits[0] == "1" and digits[1] in "3456789":
        is_cued = context.MOBILE(before)
        if shape in _MOBILE_SHAPES and set(window.gaps) <= {" ", "-"}:
            return _Hit("mobile", 0.95 if is_cued else 0.75, context.MOBILE)
        if is_cued and (shape in _MOBILE_SHAPES or shape == (1,) * _MOBILE_DIGITS):  # 137.7000.1241, (137)70001242
            return _Hit("mobile", 0.8, context.MOBILE)
        if shape in _MOBILE_SHAPES:
            return None
    if digits.startswith(("400", "800")) and len(digits) == 10:
        return None  # numbers of firms, published
    left = spot.text[max(spot.low, window.start - 2) : window.start]
    if left.endswith("+") or left == "+(":
        return _Hit("phone", 0.9, context.PHONE) if 8 <= len(digits) <= 15 else None
    is_cued = context.PHONE(before)
    hit = _judge_landline(window, is_cued)
    return hit or (_judge_foreign(window, is_cued, left) if window.is_whole else None)


def _judge_landline(window: _Window, is_cued: bool) -> _Hit | None:
    shape, digits = window.shape, window.digits
    area = digits[: shape[0]]
    if _AREA.match(area) and digits[len(area) : len(area) + 1] in tuple("2345678"):
        has_extension = shape[1:-1] in _SUBSCRIBER_SHAPES and shape[-1] <= 6 and window.gaps[-1].strip(" ") != ""
        gaps_fit = all(gap in ("-", " ", ")", ") ", "--", "- ") for gap in window.gaps)
        if gaps_fit and (shape[1:] in _SUBSCRIBER_SHAPES or has_extension):
            return _Hit("landline", 0.95 if is_cued else 0.7, context.PHONE)
    if is_cued and len(shape) == 1 and 10 <= len(digits) <= 12 and any(_AREA.match(digits[:n]) for n in (3, 4)):
        return _Hit("landline", 0.7, context.PHONE)
    return None


def _judge_foreign(window: _Window, is_cued: bool, left: str) -> _Hit | None:
    """North American and British forms by themselves; any other only where a word says that it is a phone."""
    digits, shape, gaps = window.digits, window.shape, window.gaps
    american = digits[1:] if shape[0] == 1 and digits[0] == "1" else digits
    local = shape[1:] if shape[0] == 1 else shape
    if local == (3, 3, 4) and american[0] in "23456789" and american[3] in "23456789":
        even = len(set(gaps)) == 1 and gaps[0] in ("-", ".")
        has_form = left.endswith("(") or even or gaps[1:] == ("-",)
        return _Hit("phone", 0.9 if is_cued else 0.7 if has_form else 0.4, context.PHONE)
    if digits[0] == "0" and shape in _UK_SHAPES and set(gaps) <= {" ", "-", ") "}:
        return _Hit("phone", 0.9 if is_cued else 0.55, context.PHONE)
    longest = 15 if digits.startswith("00") else 12
    if is_cued and 7 <= len(digits) <= longest and not _is_like_date(digits, shape):
        return _Hit("phone", 0.6, context.PHONE)
    return None


def _is_like_date(digits: str, shape: tuple[int, ...]) -> bool:
    """`20231105`, `2023-11-05`, `05/11/2023`, also with a time behind."""
    if shape[:3] in ((4, 2, 2), (4, 1, 2), (4, 2, 1)) and "1900" <= digits[:4] <= "2099":
        return True
    if shape[:3] == (2, 2, 4):
        return True
    return len(digits) in (8, 12, 14) and checks.is_date(digits[:4], digits[4:6], digits[6:8])


def _judge_cued(window: _Window, before: str) -> _Hit | None:
    """Numbers without a check digit that hardly more than a word before makes personal."""
    digits, shape = window.digits, window.shape
    if shape not in ((3, 2, 4), (9,), (8,)):
        return None
    if shape == (8,):
        is_permit = context.PERMIT(before) and not _is_like_date(digits, shape)
        return _Hit("travel_permit", 0.65, context.PERMIT) if is_permit else None
    if checks.is_ssn(digits[:3], digits[3:5], digits[5:]) and (shape == (9,) or window.is_even):
        is_cued = context.SSN(before)
        if is_cued or (shape == (3, 2, 4) and window.gaps[0] == "-"):
            return _Hit("us_ssn", 0.95 if is_cued else 0.7, context.SSN)
    if shape == (9,) and context.PASSPORT(before):
        return _Hit("passport", 0.65, context.PASSPORT)
    return None


class Apart:
    """A mobile whose groups are held apart by marks that no other number has: `**137**70001250`, `137，7000，1251`."""

    name = "numbers_apart"
    version = 1
    pattern = "1[3-9][0-9][*，,、]{1,2}[0-9]{4}[*，,、]{0,2}[0-9]{4}"
    gate = pattern
    opens = "1"
    _form = re.compile(pattern)

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        found = self._form.match(spot.text, spot.start, spot.high)
        if found is None:
            return [], spot.start
        is_part = _glues(spot.after(1, found.end())[:1] or " ") or (spot.start > spot.low and _glues(spot.before(1)))
        if is_part or not context.MOBILE(spot.before(32)):
            return [], spot.start
        value = "".join(letter for letter in found[0] if letter.isdigit())
        return [Finding(spot.start, found.end(), "mobile", 0.7, self.name, value)], found.end()
