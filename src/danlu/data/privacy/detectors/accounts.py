"""Numbers and names that only a word before makes personal: WeChat, QQ, medical records, insurance."""

from __future__ import annotations

import re

from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding

_MEDICAL = (
    "病历号|病案号|住院号|门诊号|就诊号|就诊卡号|诊疗卡号|病人号|患者编号|检查号|检验号|影像号|"
    "MRN|[Mm]edical [Rr]ecord [Nn]umber|[Mm]edical [Rr]ecord|[Pp]atient ID"
)
_INSURANCE = (
    "医保卡号|医保号|医保编号|医疗保险号|社保卡号|社保号|社会保障号|社会保障卡号|保单号|"
    "保险单号|参保号|[Pp]olicy [Nn]umber|[Ii]nsurance [Nn]umber|[Ii]nsurance ID|[Mm]ember ID|"
    "[Mm]edicare [Nn]umber"
)
_WECHAT = "微信号|微信ID|微信|[Ww]e[Cc]hat ID|[Ww]e[Cc]hat|[Ww]eixin|加V|加v|VX|Vx|vx|V信|薇信"
_QQ = "QQ号码|QQ号|QQ|qq号|qq|企鹅号"
_WORDS = {"medical_record": _MEDICAL, "insurance": _INSURANCE, "wechat": _WECHAT, "qq": _QQ}
_JOIN = r"(?:码|编号|号码)?(?: ?(?:[Nn]o\.?|[Nn]umber))?[ \t]{0,2}(?:[:：#=]|是|为|is)?[ \t]{0,2}"
_CUE = re.compile("|".join(f"(?P<{kind}>{words})" for kind, words in _WORDS.items()))
_JOINED = re.compile(_JOIN)
_VALUES = {
    "medical_record": re.compile(r"(?:[A-Z]{1,4}-?)?[0-9][0-9A-Z-]{4,18}"),
    "insurance": re.compile(r"(?:[A-Z]{1,6}-?)?[0-9][0-9A-Z-]{5,24}"),
    "wechat": re.compile(r"[A-Za-z][A-Za-z0-9_-]{5,19}"),
    "qq": re.compile(r"[1-9][0-9]{4,10}"),
}
OURS = "danlu_"
"""How the WeChat names begin that we invent."""


class Accounts:
    name = "accounts"
    version = 1
    pattern = "(?:" + "|".join(_WORDS.values()) + ")" + _JOIN + "[0-9A-Za-z]"
    gate = pattern
    opens = "病住门就诊患检影Mm" + "Pp医社保参Ii" + "微WwV加v薇" + "Qq企"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        cue = _CUE.match(spot.text, spot.start, spot.high)
        if cue is None:
            return [], spot.start
        if cue[0][0].isascii() and (left := spot.before(1)).isascii() and left.isalnum():
            return [], spot.start  # the tail of another word
        kind = str(cue.lastgroup)
        if kind == "insurance" and spot.before(9).lower().endswith("national "):
            return [], spot.start  # the national insurance number has a form of its own
        joined = _JOINED.match(spot.text, cue.end(), spot.high)
        assert joined is not None, "the join may be empty"
        begin = joined.end()
        value = _VALUES[kind].match(spot.text, begin, spot.high)
        if value is None or not _is_account(kind, cue[0], joined[0], value[0], spot.after(1, value.end())):
            return [], max(begin, spot.start + 1)
        return [Finding(begin, value.end(), kind, 0.85, self.name, value[0])], value.end()


def _is_account(kind: str, cue: str, joined: str, value: str, behind: str) -> bool:
    if behind.isascii() and (behind.isalnum() or behind == "_"):
        return False
    is_named = "号" in cue or "ID" in cue or bool(joined.strip())
    if kind == "wechat":
        has_form = any(letter.isdigit() or letter in "_-" for letter in value) or (is_named and value.islower())
        return has_form and not value.startswith(OURS) and (is_named or "_" in value)
    if kind == "qq":
        return is_named
    return sum(letter.isdigit() for letter in value) >= 5
