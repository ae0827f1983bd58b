"""Dates of birth: a full date behind `出生日期：`, `生于`, `DOB`, `born on`, or in front of `出生`, `生，`.

Without a cue a date is a date. Years from 1900 on, for nobody born before is alive; a month alone is left. The value is
the date as ISO 8601 writes it, so two spellings are one.
"""

from __future__ import annotations

import re

import danlu.data.privacy.checks as checks
from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding

_LABELS_ZH = "出生日期|出生年月日|出生年月|出生时间|生日"
_LABELS_EN = "[Dd]ate [Oo]f [Bb]irth|DATE OF BIRTH|DOB|D\\.O\\.B\\.?|[Bb]irth ?[Dd]ate|[Bb]irthday"
_JOIN_ZH = "[ \t]{0,2}(?:[:：是为于在])?[ \t]{0,2}(?:公历|阳历)?"
_JOIN_EN = "(?:[ \t]{0,2}[:：=,(]| is| was| on| is on)?[ \t]{1,2}|[:：=]"
_CUES_ZH = f"(?:{_LABELS_ZH}|出生|生于){_JOIN_ZH}"
_CUES_EN = f"(?:(?:{_LABELS_EN})(?:{_JOIN_EN})|[Bb]orn(?: on)?[ \t]{{1,2}})"
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_SHORT = [month[:3] for month in _MONTHS.split("|")]
_MONTH = f"(?P<name>{_MONTHS}|Sept[.]?|(?:{'|'.join(_SHORT)})[.]?)"
_FORMS = [
    re.compile(form + r"(?![0-9])")
    for form in (
        r"(?P<year>[0-9]{4}) ?(?P<mark>[-/.])(?P<month>[0-9]{1,2})(?P=mark)(?P<day>[0-9]{1,2})",
        r"(?P<year>[0-9]{4}) ?年 ?(?P<month>[0-9]{1,2}) ?月 ?(?P<day>[0-9]{1,2}) ?[日号]?",
        r"(?P<year>[0-9]{4})(?P<month>[0-9]{2})(?P<day>[0-9]{2})",
        r"(?P<month>[0-9]{1,2})(?P<mark>[-/.])(?P<day>[0-9]{1,2})(?P=mark)(?P<year>[0-9]{4})",
        _MONTH + r" (?P<day>[0-9]{1,2})(?:st|nd|rd|th)?,? (?P<year>[0-9]{4})",
        r"(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?(?: of)? " + _MONTH + r",? (?P<year>[0-9]{4})",
    )
]
_CUE = re.compile(f"(?P<zh>{_CUES_ZH})|{_CUES_EN}")
_BEHIND = re.compile(r" ?(?:出生|生(?![\u4e00-\u9fff]))")
_BEFORE = "[0-9]{4}[年./-][0-9]{1,2}[月./-][0-9]{1,2}[日号]? ?(?:出生|生)"
_NOBODY = frozenset("发产诞新衍滋萌派催寄共丛野写再伴降")
"""发生于, 产生于: what comes to be there is no person."""


class BirthDates:
    name = "birth_dates"
    version = 1
    pattern = f"{_CUES_ZH}[0-9]{{4}}|{_CUES_EN}[0-9JFMASOND]|{_BEFORE}"
    gate = pattern
    opens = "出生0123456789DdBb"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        left = spot.before(1)
        if (left.isascii() and left.isalnum()) or (spot.text.startswith("生于", spot.start) and left in _NOBODY):
            return [], spot.start
        cue = _CUE.match(spot.text, spot.start, spot.high)
        begin = cue.end() if cue is not None else spot.start
        dated = _dated(spot, begin)
        if dated is None:
            return [], spot.start
        value, end = dated
        if cue is None and not _BEHIND.match(spot.text, end, spot.high):
            return [], spot.start
        is_label = cue is not None and (not cue["zh"] or cue["zh"].rstrip(" \t")[-1] in ":：")
        return [Finding(begin, end, "birth_date", 0.9 if is_label else 0.7, self.name, value)], end


def _dated(spot: Spot, begin: int) -> tuple[str, int] | None:
    """The date that begins here, as ISO 8601 has it, and where it ends."""
    for form in _FORMS:
        found = form.match(spot.text, begin, spot.high)
        if found is None:
            continue
        parts = found.groupdict()
        year, day = parts["year"], parts["day"].zfill(2)
        month = (parts.get("month") or str(_number_of(parts.get("name") or ""))).zfill(2)
        if form.groups == 4 and parts.get("mark") and found["year"] == found[0][-4:] and month > "12":
            month, day = day, month  # 31/12/1985
        if checks.is_date(year, month, day):
            return f"{year}-{month}-{day}", found.end()
    return None


def _number_of(name: str) -> int:
    return _SHORT.index(name[:3]) + 1 if name else 0
