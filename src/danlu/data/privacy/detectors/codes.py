"""Codes of letters and digits: credit codes, passports, permits, Hong Kong identity cards, plates, IBAN, NINO."""

from __future__ import annotations

import re

import danlu.data.privacy.checks as checks
import danlu.data.privacy.context as context
from danlu.data.privacy.detectors.detector import Spot, is_word
from danlu.data.privacy.finding import Finding

_USCC = r"[0-9A-Y]{2}[0-9]{6}[0-9A-Y]{10}"
_IBAN = r"[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?"
_NINO = r"[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]"
_PASSPORT = r"[A-Z][A-Z0-9][0-9]{7,9}"
_HKID = r"[A-Z]{1,2}[0-9]{6} ?[(（][0-9A][)）]"
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
_PLATE = f"[{_PROVINCES}][A-HJ-Z][·•. ]?[0-9A-HJ-NP-Z]{{4}}[0-9A-HJ-NP-Z挂学警港澳领使]"
_FORMS = {
    "uscc": re.compile(_USCC),
    "iban": re.compile(_IBAN),
    "uk_nino": re.compile(_NINO),
    "hk_id": re.compile(_HKID),
    "passport": re.compile(_PASSPORT),
    "plate": re.compile(_PLATE),
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Codes:
    name = "codes"
    version = 1
    pattern = "|".join(
        (
            "[0-9A-Y]{2}[0-9]{6}[0-9A-Y]{4}",
            "[A-Z]{1,2}[0-9]{6}",
            "[A-Z]{2}[0-9]{2} ?[0-9A-Z]{4} ?[0-9A-Z]{4}",
            "[A-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2}",
            f"[{_PROVINCES}][A-HJ-Z][·•. ]?[0-9A-HJ-NP-Z]{{4}}",
        )
    )
    gate = pattern
    opens = "0123456789" + _LETTERS + _PROVINCES

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        if spot.start > spot.low and is_word(spot.text[spot.start - 1]):
            return [], spot.start
        lead = spot.text[spot.start]
        judges = (_judge_uscc,) if lead.isdigit() else _JUDGES_OF_LETTERS if lead.isascii() else (_judge_plate,)
        for judge in judges:
            found = judge(spot)
            if found is not None:
                return [found], found.end
        return [], spot.start


def _match(form: str, spot: Spot) -> re.Match[str] | None:
    """The form at the spot, unless it runs on as a longer word."""
    found = _FORMS[form].match(spot.text, spot.start, spot.high)
    if found is None or (found.end() < spot.high and is_word(spot.text[found.end()])):
        return None
    return found


def _finding(found: re.Match[str], kind: str, score: float) -> Finding:
    return Finding(found.start(), found.end(), kind, score, Codes.name, found[0])


def _judge_uscc(spot: Spot) -> Finding | None:
    found = _match("uscc", spot)
    if found is None or found[0].isdigit() or not checks.is_uscc(found[0]):
        return None  # of digits only: the detector of numbers knows whether it is a person's
    code, before = found[0], spot.before(24)
    if context.USCC(before):
        return _finding(found, "uscc", 1.0)
    is_like_id = code[:17].isdigit() and checks.is_date(code[6:10], code[10:12], code[12:14])
    if is_like_id or context.speaks_against(before, spot.after(8, found.end()), context.USCC):
        return None
    return _finding(found, "uscc", 0.85)


def _judge_hk_id(spot: Spot) -> Finding | None:
    found = _match("hk_id", spot)
    if found is None:
        return None
    plain = found[0].replace(" ", "").replace("（", "(")
    letters, rest = plain.split("(")[0].rstrip("0123456789"), plain.split("(")
    digits = rest[0][len(letters) :]
    return _finding(found, "hk_id", 0.9) if checks.is_hkid(letters, digits, rest[1][0]) else None


def _judge_iban(spot: Spot) -> Finding | None:
    found = _FORMS["iban"].match(spot.text, spot.start, spot.high)
    if found is None or found[0][:2] not in checks.IBAN_LENGTHS:
        return None
    wanted, size = checks.IBAN_LENGTHS[found[0][:2]], 0
    for offset, letter in enumerate(found[0]):  # the pattern may run on into the next word
        size += letter != " "
        if size == wanted:
            end = spot.start + offset + 1
            if end < spot.high and is_word(spot.text[end]):
                return None
            value = spot.text[spot.start : end]
            return Finding(spot.start, end, "iban", 0.95, Codes.name, value) if _is_iban(value) else None
    return None


def _is_iban(value: str) -> bool:
    return checks.is_iban(value.replace(" ", ""))


def _judge_nino(spot: Spot) -> Finding | None:
    found = _match("uk_nino", spot)
    if found is None or not checks.is_nino(found[0][:2]):
        return None
    if context.speaks_against(spot.before(32), spot.after(8, found.end()), context.NINO):
        return None
    return _finding(found, "uk_nino", 0.95 if context.NINO(spot.before(40)) else 0.6)


def _judge_pass(spot: Spot) -> Finding | None:
    """Passports and permits have no check digit: only a word before makes one."""
    found = _match("passport", spot)
    if found is None:
        return None
    code, before = found[0], spot.before(24)
    if context.PERMIT(before) and code[0] in "CWHMTK" and code[1] not in "IO" and len(code) in (9, 11):
        return _finding(found, "travel_permit", 0.85)
    if len(code) == 9 and context.PASSPORT(before) and code[1] not in "IO":
        return _finding(found, "passport", 0.85)
    return None


def _judge_plate(spot: Spot) -> Finding | None:
    found = _FORMS["plate"].match(spot.text, spot.start, spot.high)
    if found is None:
        return None
    end = found.end()
    if end < spot.high and spot.text[end] in "0123456789ABCDEFGHJKLMNPQRSTUVWXYZ":  # new energy: one more
        end += 1
        if end < spot.high and is_word(spot.text[end]):
            return None
    serial = spot.text[spot.start + 2 : end].lstrip("·•. ")
    before = spot.before(16)
    if not any(map(str.isdigit, serial)) or context.speaks_against(before, spot.after(8, end), context.PLATE):
        return None
    score = 0.95 if context.PLATE(before) else 0.75
    return Finding(spot.start, end, "plate", score, Codes.name, spot.text[spot.start : end])


_JUDGES_OF_LETTERS = (_judge_hk_id, _judge_iban, _judge_nino, _judge_pass, _judge_uscc)
