"""Check digits and shapes of numbers that carry them. Pure functions on ASCII strings.

Sources: GB 11643-1999 (resident identity), GB 32100-2015 (unified social credit code), ISO/IEC 7812 (Luhn),
ISO 13616 (IBAN), the Hong Kong identity card's and the UK and US offices' public rules.
"""

from __future__ import annotations

import datetime
import ipaddress
import math
from collections import Counter

ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
ID_CHECKS = "10X98765432"
_PROVINCES = "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 "
PROVINCES = frozenset(_PROVINCES.split())
USCC_LETTERS = "0123456789ABCDEFGHJKLMNPQRTUWXY"
USCC_VALUES = {letter: value for value, letter in enumerate(USCC_LETTERS)}
USCC_WEIGHTS = tuple(pow(3, place, 31) for place in range(17))
_IBANS = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 "
    "ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
    "LB28 LC32 LI21 LT20 LU20 LV21 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 "
    "RO24 RS22 SA24 SE24 SI19 SK24 SM27 TN24 TR26 UA29 VA22 VG24 XK20 "
)
IBAN_LENGTHS = {word[:2]: int(word[2:]) for word in _IBANS.split()}
_HKID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def luhn_digit(body: str) -> int:
    """The check digit that belongs behind `body`."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        value = ord(digit) - 48
        if place % 2 == 0:
            value *= 2
            if value > 9:
                value -= 9
        total += value
    return -total % 10


def passes_luhn(number: str) -> bool:
    return luhn_digit(number[:-1]) == ord(number[-1]) - 48


def id_check(body: str) -> str:
    """The check character of the first 17 digits of a resident identity number."""
    return ID_CHECKS[sum(weight * (ord(digit) - 48) for weight, digit in zip(ID_WEIGHTS, body, strict=True)) % 11]


def is_resident_id(number: str) -> bool:
    """18 characters: province, a real date, check character. Whether it was ever issued nobody can tell."""
    return (
        number[:2] in PROVINCES
        and is_date(number[6:10], number[10:12], number[12:14])
        and id_check(number[:17]) == number[17].upper()
    )


def is_old_resident_id(number: str) -> bool:
    """The 15 digits of before 2000: province and a date of the last century; there is no check digit."""
    return number[:2] in PROVINCES and is_date("19" + number[6:8], number[8:10], number[10:12])


def is_date(year: str, month: str, day: str) -> bool:
    if not ("1900" <= year <= "2035" and "01" <= month <= "12" and "01" <= day <= "31"):
        return False
    try:
        datetime.date(int(year), int(month), int(day))
    except ValueError:
        return False
    return True


def uscc_check(body: str) -> str:
    """The check character of the first 17 characters of a unified social credit code."""
    return USCC_LETTERS[-sum(w * USCC_VALUES[c] for w, c in zip(USCC_WEIGHTS, body, strict=True)) % 31]


def is_uscc(code: str) -> bool:
    known = all(letter in USCC_VALUES for letter in code)
    return known and code[:1] in "123456789ANY" and code[2:4] in _USCC_REGIONS and uscc_check(code[:17]) == code[17]


_USCC_REGIONS = PROVINCES | {"10"}
"""10: registered with the state itself."""


def is_iban(number: str) -> bool:
    """Length by country and the remainder 1; check digits are 02 to 98."""
    return (
        "02" <= number[2:4] <= "98"
        and IBAN_LENGTHS.get(number[:2]) == len(number)
        and _as_number(number[4:] + number[:4]) % 97 == 1
    )


def _as_number(text: str) -> int:
    return int("".join(str(int(letter, 36)) for letter in text))


def is_hkid(letters: str, digits: str, check: str) -> bool:
    """Hong Kong identity card: one or two letters, six digits, a check character modulo 11."""
    body = [36 if letters[:-1] == "" else _HKID_LETTERS.index(letters[0]), _HKID_LETTERS.index(letters[-1])]
    values = body + [int(digit) for digit in digits]
    total = sum(weight * value for weight, value in zip(range(9, 1, -1), values, strict=True))
    return "0123456789A"[-total % 11] == check


def is_ssn(area: str, group: str, serial: str) -> bool:
    """US social security number: ranges that were never given out are none."""
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def is_nino(prefix: str) -> bool:
    """UK national insurance number: which two letters may lead."""
    return (
        not set(prefix) & set("DFIQUV")
        and prefix[1] != "O"
        and prefix not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    )


def is_public_address(text: str) -> bool:
    """An IP address of the open internet: not private, reserved, for documentation, a loopback or a mask."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast


def entropy(text: str) -> float:
    """Shannon entropy in bits per character."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)
