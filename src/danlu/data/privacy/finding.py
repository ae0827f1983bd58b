"""What is looked for and what is found: the kinds of personal data, and one place in a text."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Literal, NamedTuple

from danlu.core.errors import RecipeError
from danlu.core.messages import listed
from danlu.core.shelf import nearest
from danlu.data.privacy.level import Level

Family = Literal["number", "email", "name", "words", "secret"]
"""How two spellings of one value are told to be equal; the HMAC covers family and value, so kinds may overlap."""


class Finding(NamedTuple):
    """`text[start:end]` is of kind `kind`. `score` is 0 to 1. `value` is what it says (a partial name's full name)."""

    start: int
    end: int
    kind: str
    score: float
    detector: str
    value: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of personal data: how sensitive, how its values are compared, what it is called in a text."""

    name: str
    level: Level
    family: Family
    zh: str
    en: str


_TABLE = """
resident_id     restricted   number 身份证号 RESIDENT_ID
resident_id_15  restricted   number 身份证号 RESIDENT_ID
hk_id           restricted   number 香港身份证号 HK_ID
passport        restricted   number 护照号 PASSPORT
travel_permit   restricted   number 通行证号 TRAVEL_PERMIT
bank_card       restricted   number 银行卡号 BANK_CARD
iban            restricted   number 银行账号 IBAN
us_ssn          restricted   number 社会安全号 SSN
uk_nino         restricted   number 国民保险号 NINO
medical_record  restricted   number 病历号 MEDICAL_RECORD
insurance       restricted   number 保险号 INSURANCE_NUMBER
name            confidential name   姓名 NAME
birth_date      confidential words  出生日期 BIRTH_DATE
address         confidential words  地址 ADDRESS
mobile          confidential number 手机号 MOBILE
landline        confidential number 电话 PHONE
phone           confidential number 电话 PHONE
email           confidential email  邮箱 EMAIL
wechat          confidential words  微信号 WECHAT
qq              confidential number QQ号 QQ
plate           confidential number 车牌号 PLATE
imei            confidential number 设备号 IMEI
ip              internal     words  IP地址 IP
mac             internal     number MAC地址 MAC
uscc            internal     number 统一社会信用代码 USCC
url_token       restricted   secret 访问令牌 TOKEN
private_key     restricted   secret 私钥 PRIVATE_KEY
api_key         restricted   secret 密钥 API_KEY
jwt             restricted   secret 令牌 JWT
connection      restricted   secret 连接凭据 CREDENTIALS
password        restricted   secret 口令 PASSWORD
"""
KINDS: dict[str, Kind] = {}
for _row in _TABLE.split("\n"):
    if _row:
        _name, _level, _family, _zh, _en = _row.split()
        KINDS[_name] = Kind(_name, _level, _family, _zh, _en)  # type: ignore[arg-type]
SECRETS = frozenset(name for name, kind in KINDS.items() if kind.family == "secret")


def kind_named(name: str, *, where: str) -> Kind:
    """RecipeError with the nearest name for a kind that does not exist."""
    if name not in KINDS:
        guess = nearest(name, KINDS)
        raise RecipeError("privacy.unknown_kind", where=where, given=name, nearest=guess, known=listed(KINDS))
    return KINDS[name]


_GAPS = str.maketrans("", "", " \t\u3000-–.·•_/()（）")
_DOTS = str.maketrans("•‧・．", "····")


def canonical(family: Family, value: str) -> str:
    """The value as it is compared: width, case, gaps and a mobile's country code make no difference."""
    plain = unicodedata.normalize("NFKC", value)
    if family == "number":
        plain = plain.translate(_GAPS).lstrip("+").upper().replace(":", "")
        if plain.startswith("0086"):
            plain = plain[2:]
        return plain[2:] if len(plain) == 13 and plain.startswith("861") else plain
    if family == "name":
        parts = plain.translate(_DOTS).casefold().split()
        return (" " if plain.isascii() or any("a" <= letter <= "z" for letter in plain.lower()) else "").join(parts)
    if family == "secret":
        return plain.strip()
    return "".join(plain.casefold().split())
