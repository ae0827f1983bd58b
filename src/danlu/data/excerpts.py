"""The last veil before a text is shown in a report: whatever looks like a number, address or key of a person is hidden.

Coarse on purpose and no privacy stage: beside what privacy's own detectors find it hides too much (any 6 digits in a
row) rather than too little, so that a report may be shown also where the policy leaves findings in the text.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

from danlu.data.privacy.finding import Finding
from danlu.data.privacy.scan import Scanner

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
    return veil_all([text], most)[0]


def veil_all(texts: Sequence[str], most: int) -> list[str]:
    """The same for many texts, in one pass of the scanner."""
    plain = ["".join(map(_plain, text[: 2 * most])) for text in texts]
    hidden = [_without(text, found) for text, found in zip(plain, _scanner().scan(plain), strict=True)]
    veiled = [_HIDDEN.sub(VEIL, text) for text in hidden]
    return [text if len(text) <= most else text[: most - 1] + "…" for text in veiled]


def without_findings(texts: Sequence[str]) -> list[str]:
    """Names of files, columns and classes: what privacy finds in them is hidden, all other letters and digits stay."""
    return [_without(text, found) for text, found in zip(texts, _scanner().scan(texts), strict=True)]


@functools.cache
def _scanner() -> Scanner:
    """Compiled once a process."""
    return Scanner()


def _without(text: str, findings: Sequence[Finding]) -> str:
    parts, last = [], 0
    for found in sorted(findings):
        if found.start >= last:
            parts += [text[last : found.start], VEIL]
            last = found.end
    return "".join([*parts, text[last:]])
