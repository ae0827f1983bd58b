"""The last veil before a text is shown in a report: whatever looks like a number, address or key of a person is hidden.

Coarse on purpose and no privacy stage: it hides too much (any 6 digits in a row) rather than too little, so that a
report may be shown also where privacy was not asked for. Names are not found here.
"""

from __future__ import annotations

import re
import unicodedata

VEIL = "▇▇▇"
_HIDDEN = re.compile(
    r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"  # e-mail
    r"|-----BEGIN[^-]+-----[\s\S]*?(?:-----END[^-]+-----|\Z)"  # keys in PEM
    r"|\b(?:sk|pk|ghp|gho|xox[abp]|AKIA|eyJ)[-_]?[A-Za-z0-9_\-./+=]{12,}"  # keys and tokens by their prefix
    r"|(?:\d{1,3}\.){3}\d{1,3}"  # IPv4
    r"|[A-HJ-NP-Z]{1,2}[0-9]{7,9}"  # passports, permits
    r"|[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-NP-Z][·•]?[A-HJ-NP-Z0-9]{5,6}"  # plates
    r"|\+?\d(?:[ \-–—.()]?[\dXx]){5,}"  # six digits and more, also in groups
)


def _plain(char: str) -> str:
    """Full-width digits, letters and the at sign as plain ones; punctuation stays as it is written."""
    is_wide = "！" <= char <= "～" and (char.isalnum() or char in "＠．－＋")
    return unicodedata.normalize("NFKC", char) if is_wide else char


def veil(text: str, most: int) -> str:
    """At most so many characters, what looks personal replaced; full-width digits are looked at as digits."""
    plain = "".join(_plain(char) for char in text[: 4 * most])
    hidden = _HIDDEN.sub(VEIL, plain)
    return hidden if len(hidden) <= most else hidden[: most - 1] + "…"
