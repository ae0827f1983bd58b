"""What is put in place of a finding: a mask, a type token, or a pseudonym of the same form.

Pseudonyms follow from the alias secret and the value alone: one person has one alias in all rows, datasets and re-runs.
They can never be real: check digits are wrong on purpose, prefixes were never given out, domains end in `.invalid`
(RFC 2606), addresses lie in cities that do not exist. So a second pass finds nothing in them; names, which have no
wrong form, seal themselves: their last letter (or the middle initial) depends on the rest and the secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import danlu.data.privacy.checks as checks
from danlu.data.privacy.detectors.accounts import OURS
from danlu.data.privacy.detectors.addresses_zh import FICTION
from danlu.data.privacy.finding import KINDS, SECRETS, Finding, canonical
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.words import letters, lines, words

_CJK = re.compile("[\u4e00-\u9fff]")
_SURNAMES = letters("surnames_zh")[:200]
_GIVEN = letters("given_zh")
_SEALS = 64
"""One name in so many that is not ours passes for ours, where texts made of masked text are read."""
_NO_NAMES = frozenset().union(*words("no_names_en"))
_GIVEN_EN = [name for line in lines("given_en") for name in line if name not in _NO_NAMES]
_SURNAMES_EN = [name for line in lines("surnames_en") for name in line if name not in _NO_NAMES]
_WARDS = ("东篱区", "听澜区", "望川区", "鹿鸣区", "晴川里区", "松声区", "竹影区", "临泉里区")
_ROADS = [
    "清和",
    "明德",
    "永乐",
    "春晖",
    "长宁",
    "文昌",
    "望江",
    "学府",
    "柳岸",
    "采薇",
    "云台",
    "锦绣",
    "临湖",
    "桃源",
    "丹枫",
    "杏林",
    "观澜",
    "白鹭",
    "紫藤",
    "梧桐",
]
_STREETS = [
    "Alder",
    "Birch",
    "Cedar",
    "Juniper",
    "Larch",
    "Maple",
    "Hazel",
    "Rowan",
    "Willow",
    "Linden",
    "Aspen",
    "Holly",
    "Laurel",
    "Myrtle",
    "Sorrel",
    "Tansy",
]


class Dice:
    """Throws that follow from the words and the alias secret: 512 bits, more than any pseudonym asks for."""

    def __init__(self, keyring: Keyring, *words: str) -> None:
        self._number = int.from_bytes(keyring.alias_bytes(*words), "big")

    def below(self, limit: int) -> int:
        self._number, thrown = divmod(self._number, limit)
        return thrown

    def pick(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def digits(self, size: int) -> str:
        return f"{self.below(10**size):0{size}d}" if size else ""


def is_chinese(text: str) -> bool:
    """Asked once a text: where nothing is, all of it is read."""
    return _CJK.search(text) is not None


def type_token(kind: str, *, chinese: bool) -> str:
    """`<手机号>` in a Chinese text, `<MOBILE>` in any other."""
    return f"<{KINDS[kind].zh if chinese else KINDS[kind].en}>"


def mask(finding: Finding, shown: str) -> str:
    """First and last characters stay, as is usual for the kind; the rest are asterisks."""
    if finding.kind == "email":
        local, _, domain = shown.partition("@")
        return f"{local[:1]}***@{domain}"
    size = len(shown)
    if finding.kind in ("name", "address"):
        first, last = (1, 0) if finding.kind == "name" else (min(6, size // 3), 0)
    else:
        first, last = (3, 4) if size >= 11 else (1, 1) if size >= 4 else (0, 0)
    middle = shown[first : size - last]
    return shown[:first] + "".join("*" if letter.isalnum() else letter for letter in middle) + shown[size - last :]


def pseudonym(finding: Finding, shown: str, keyring: Keyring) -> str:
    """The alias of a finding, in the form in which it was written. Secrets have none."""
    kind = finding.kind
    assert kind not in SECRETS, "a secret is never given another form"
    plain = canonical(KINDS[kind].family, finding.value)
    if kind == "name":
        return _name(finding.value, shown, keyring)
    dice = Dice(keyring, KINDS[kind].family, plain, kind if KINDS[kind].family == "words" else "")
    if kind in _WHOLE:
        return _WHOLE[kind](shown, dice)
    draw = _DRAWN.get(kind)
    body = plain if len(plain) <= sum(map(str.isalnum, shown)) else plain[-sum(map(str.isalnum, shown)) :]
    if draw is None:  # records of hospitals and insurers: no form of their own, so they seal themselves
        return _poured(shown, sealed(body, dice, keyring))
    for _ in range(64):
        drawn = draw(body, dice)
        if drawn != body and not (len(drawn) == 18 and (checks.is_uscc(drawn) or checks.is_resident_id(drawn))):
            break
    return _poured(shown, drawn)


def is_own(finding: Finding, keyring: Keyring) -> bool:
    """Whether this is one of our pseudonyms; asked only where a text was made of masked text."""
    value = finding.value
    if finding.kind == "name":
        return _is_own_name(value, keyring)
    if finding.kind in ("medical_record", "insurance"):
        plain = canonical("number", value)
        return len(plain) > 4 and plain[-3:] == _seal_digits(plain[:-3], keyring)
    return False


def partial_alias(alias: str, shown: str) -> str:
    """How an alias is called where only a part of the name stood: the surname."""
    if _CJK.search(shown):
        return alias[0]
    return alias.split()[-1] if " " not in shown else alias


def _name(value: str, shown: str, keyring: Keyring) -> str:
    dice = Dice(keyring, "name", canonical("name", value))
    alias = _name_zh(value, dice, keyring) if _CJK.search(value) else _name_en(value, dice, keyring)
    return alias if shown == value or len(shown) >= len(value) else partial_alias(alias, shown)


def _name_zh(value: str, dice: Dice, keyring: Keyring) -> str:
    """Another surname, and two letters of which the last is sealed; a surname alone has a surname's alias."""
    surname = next(drawn for drawn in (dice.pick(_SURNAMES) for _ in range(20)) if drawn != value[0])
    if len(value) == 1:
        return surname
    begun = surname + dice.pick(_GIVEN)
    last = Dice(keyring, "seal", begun).below(_SEALS) + _SEALS * dice.below(len(_GIVEN) // _SEALS)
    return begun + _GIVEN[last]


def _name_en(value: str, dice: Dice, keyring: Keyring) -> str:
    """Other names than the person's own, and an initial that is sealed."""
    own = set(value.split())
    given, surname = (
        next(drawn for drawn in (dice.pick(pool) for _ in range(20)) if drawn not in own)
        for pool in (_GIVEN_EN, _SURNAMES_EN)
    )
    return f"{given} {_initial(given, surname, keyring)}. {surname}" if " " in value else surname


def _is_own_name(value: str, keyring: Keyring) -> bool:
    if _CJK.search(value):
        if len(value) != 3 or value[0] not in _SURNAMES or value[2] not in _GIVEN:
            return False
        return _GIVEN.index(value[2]) % _SEALS == Dice(keyring, "seal", value[:2]).below(_SEALS)
    parts = value.split()
    if len(parts) != 3 or parts[0] not in _GIVEN_EN or parts[2] not in _SURNAMES_EN:
        return False
    return parts[1] == f"{_initial(parts[0], parts[2], keyring)}."


def _initial(given: str, surname: str, keyring: Keyring) -> str:
    return Dice(keyring, "seal", f"{given} {surname}").pick("ABCDEFGHIJKLMNOPRSTVW")


def sealed(body: str, dice: Dice, keyring: Keyring) -> str:
    """As long as `body`, digit for digit and letter for letter, its last three digits a seal of the rest."""
    begun = "".join(_same_class(letter, dice) for letter in body[:-3])
    return begun + _seal_digits(begun, keyring)


def _seal_digits(begun: str, keyring: Keyring) -> str:
    return Dice(keyring, "seal", begun).digits(3)


def _same_class(letter: str, dice: Dice) -> str:
    if letter.isdigit():
        return dice.digits(1)
    return dice.pick("ABCDEFGHJKLMNPQRTUWXY") if letter.isalpha() else letter


def _poured(shown: str, drawn: str) -> str:
    """`drawn` into the places of the letters and digits of `shown`, from behind: a country code in front stays."""
    fresh = list(drawn)
    poured = [fresh.pop() if letter.isalnum() and fresh else letter for letter in reversed(shown)]
    return "".join(reversed(poured))


def _resident_id(body: str, dice: Dice) -> str:
    province = dice.pick(sorted(checks.PROVINCES))
    date = f"{1950 + dice.below(55)}{1 + dice.below(12):02d}{1 + dice.below(28):02d}"
    begun = f"{province}{dice.digits(4)}{date}{dice.digits(3)}"
    right = checks.ID_CHECKS.index(checks.id_check(begun))
    return begun + checks.ID_CHECKS[(right + 1 + dice.below(9)) % 11].replace("X", "0" if right != 1 else "5")


def _wrong_luhn(lead: str, size: int, dice: Dice) -> str:
    begun = lead + dice.digits(size - len(lead) - 1)
    return begun + str((checks.luhn_digit(begun) + 1 + dice.below(9)) % 10)


def _uscc(body: str, dice: Dice) -> str:
    begun = body[:2] + dice.pick(sorted(checks.PROVINCES)) + dice.digits(4)
    begun += "".join(dice.pick(checks.USCC_LETTERS) for _ in range(9))
    right = checks.USCC_VALUES[checks.uscc_check(begun)]
    return begun + checks.USCC_LETTERS[(right + 1 + dice.below(30)) % 31]


def _hk_id(body: str, dice: Dice) -> str:
    lead = "".join(dice.pick("ABCDEGHKMNPRSVWYZ") for _ in range(len(body) - 7))
    digits = dice.digits(6)
    right = next(c for c in "0123456789A" if checks.is_hkid(lead, digits, c))
    return lead + digits + "0123456789"[("0123456789A".index(right) + 1 + dice.below(8)) % 10]


def _document(body: str, dice: Dice) -> str:
    """Passports and permits: a second letter I was never given out, nor a number that begins with 000."""
    return f"{body[0]}I{dice.digits(len(body) - 2)}" if body[0].isalpha() else f"000{dice.digits(len(body) - 3)}"


def _iban(body: str, dice: Dice) -> str:
    """Check digits are 02 to 98: 00 is never right."""
    return body[:2] + "00" + "".join(_same_class(letter, dice) for letter in body[4:])


def _plate(body: str, dice: Dice) -> str:
    """The letters I and O stand on no plate."""
    return body[0] + "I" + "".join(_same_class(letter, dice) for letter in body[2:])


def _mac(body: str, dice: Dice) -> str:
    """A group address: no device has one."""
    return f"{dice.below(16):X}3" + "".join(dice.pick("0123456789ABCDEF") for _ in range(len(body) - 2))


_DRAWN: dict[str, Callable[[str, Dice], str]] = {
    "resident_id": _resident_id,
    "resident_id_15": lambda body, dice: "00" + dice.digits(len(body) - 2),
    "hk_id": _hk_id,
    "passport": _document,
    "travel_permit": _document,
    "bank_card": lambda body, dice: _wrong_luhn(body[:2] if body[0] == "6" else body[0], len(body), dice),
    "imei": lambda body, dice: _wrong_luhn("99", len(body), dice),
    "iban": _iban,
    "us_ssn": lambda body, dice: "000" + dice.digits(len(body) - 3),
    "uk_nino": lambda body, dice: "QQ" + dice.digits(6) + dice.pick("ABCD"),
    "mobile": lambda body, dice: "100" + dice.digits(len(body) - 3),
    "landline": lambda body, dice: "000" + dice.digits(len(body) - 3),
    "phone": lambda body, dice: "000" + dice.digits(len(body) - 3),
    "qq": lambda body, dice: "0" + dice.digits(len(body) - 1),
    "plate": _plate,
    "mac": _mac,
    "uscc": _uscc,
}


def _ip(shown: str, dice: Dice) -> str:
    """The reserved block 240.0.0.0/4, or the IPv6 block for documentation (RFC 3849)."""
    if ":" in shown:
        return "2001:db8:" + ":".join(f"{1 + dice.below(0xFFFF):x}" for _ in range(6))
    return f"{240 + dice.below(15)}." + ".".join(str(dice.below(256)) for _ in range(3))


def _address(shown: str, dice: Dice) -> str:
    if _CJK.search(shown):
        road = f"{dice.pick(_ROADS)}路{1 + dice.below(999)}号"
        return dice.pick(FICTION) + dice.pick(_WARDS) + road + (f"{101 + dice.below(2000)}室" if "室" in shown else "")
    return f"0{1 + dice.below(899)} {dice.pick(_STREETS)} Street"


_DATE_PARTS = re.compile("[0-9]+|[A-Za-z]{3,}")


def _birth_date(shown: str, dice: Dice) -> str:
    """The 30th of February of another year: on no calendar, in the form in which the date was written."""
    year = str(1950 + dice.below(55))
    if shown.isdigit():
        return year + "0230"
    is_day_first = shown[:1].isdigit() and any(map(str.isalpha, shown)) and not _CJK.search(shown)
    numbers = ["30"] if is_day_first or shown[:1].isalpha() else ["2", "30"]

    def put(part: re.Match[str]) -> str:
        if part[0].isdigit():
            return year if len(part[0]) == 4 else numbers.pop(0).zfill(len(part[0]))
        return part[0] if len(part[0]) < 3 or part[0] in ("of", "and") else "February"

    return _DATE_PARTS.sub(put, shown)


_WHOLE: dict[str, Callable[[str, Dice], str]] = {
    "email": lambda shown, dice: f"u{dice.below(16**8):08x}@mail.invalid",
    "wechat": lambda shown, dice: f"{OURS}{dice.below(16**8):08x}",
    "ip": _ip,
    "address": _address,
    "birth_date": _birth_date,
}
