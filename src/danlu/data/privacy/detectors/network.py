"""What stands in logs and signatures: e-mail, public IP addresses, MAC addresses."""

from __future__ import annotations

import re

import danlu.data.privacy.checks as checks
from danlu.data.privacy.detectors.detector import Spot, is_word
from danlu.data.privacy.finding import Finding
from danlu.data.privacy.words import letters

_IPV4 = r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}"
_IPV6 = r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{3,37}[0-9A-Fa-f]"
_MAC = r"[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}"
_FORMS = {name: re.compile(form) for name, form in {"ipv4": _IPV4, "ipv6": _IPV6, "mac": _MAC}.items()}
_LOCAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}")
_DOMAIN_ZH = re.compile(r"(?:[A-Za-z0-9\u4e00-\u9fff-]{1,30}\.)+(?:中国|公司|网络|中國|网址|集团|我爱你|com|cn)")
SURNAMES = frozenset(letters("surnames_zh")) - {" "}
_LOCAL_ZH = re.compile(r"[\u4e00-\u9fff]{1,4}$")
_VERSION_BEFORE = re.compile(r"(?i:version|ver\.?|release|v|版本号?|固件|build|oid)[ \t:：=]{0,3}$")
_HEX = "0123456789abcdefABCDEF"


class Email:
    """Anchored at the at sign; the local part is read leftwards."""

    name = "email"
    version = 1
    pattern = "@[A-Za-z0-9\u4e00-\u9fff]"
    gate = pattern
    opens = "@"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        text, at = spot.text, spot.start
        start = at
        while start > spot.low and at - start < 64 and text[start - 1] in _LOCAL:
            start -= 1
        while start < at and text[start] in ".-%+":
            start += 1
        form = _DOMAIN
        if start == at:
            named = _LOCAL_ZH.search(spot.before(4))
            if named is None:
                return [], at + 1
            size = next(
                (size for size in (2, 3, 4) if len(named[0]) >= size and named[0][-size] in SURNAMES), len(named[0])
            )
            start, form = at - size, _DOMAIN_ZH
        found = form.match(text, at + 1, spot.high) or _DOMAIN_ZH.match(text, at + 1, spot.high)
        if found is None or text[at - 1] == "." or _is_no_mailbox(text[start:at], found[0], spot.after(1, found.end())):
            return [], at + 1
        value = text[start : found.end()]
        return [Finding(start, found.end(), "email", 0.95, self.name, value)], found.end()


def _is_no_mailbox(local: str, domain: str, behind: str) -> bool:
    """`git@host:path`, addresses of the TLD that never exists (our own pseudonyms), packages like `x@latest.js`."""
    ending = domain.rpartition(".")[2].lower()
    return (local == "git" and behind in (":", "/")) or ending in ("invalid", "js", "ts", "py", "md", "json", "png")


class Addresses:
    """IP and MAC addresses."""

    name = "network"
    version = 1
    pattern = (
        "[0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|"
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]|[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:]{4}"
    )
    gate = pattern
    opens = _HEX

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        if spot.start > spot.low and (is_word(spot.text[spot.start - 1]) or spot.text[spot.start - 1] in ".:-"):
            return [], spot.start
        head = spot.text[spot.start : spot.start + 5]
        for mark, form, kind, is_real in _SHAPES:
            if mark not in head:
                continue
            found = _FORMS[form].match(spot.text, spot.start, spot.high)
            if found is None:
                continue
            behind = spot.after(2, found.end())
            if behind[:1] and (is_word(behind[0]) or (behind[0] in ".:-" and behind[1:].isdigit())):
                continue
            if form == "ipv6" and "::" not in found[0] and found[0].count(":") != 7:
                return [], spot.start + found[0].index(":") + 1  # a time of day
            if is_real(found[0]) and not (form == "ipv4" and _VERSION_BEFORE.search(spot.before(16))):
                return [Finding(spot.start, found.end(), kind, 0.9, self.name, found[0])], found.end()
            return [], found.end()
        return [], spot.start


def _is_device(text: str) -> bool:
    """A group address (odd first byte) is no device's, nor are all zeros, nor separators mixed."""
    separators = {text[place] for place in range(2, 17, 3)}
    is_plain = len(separators) == 1 and (":" in separators or not text.replace("-", "").isdigit())
    return is_plain and not int(text[1], 16) & 1 and bool(set(text) - set("0:-"))


def _is_host(text: str) -> bool:
    return checks.is_public_address(text)


_SHAPES = (
    (":", "mac", "mac", _is_device),
    ("-", "mac", "mac", _is_device),
    (".", "ipv4", "ip", _is_host),
    (":", "ipv6", "ip", _is_host),
)
"""What stands among the first five characters, which form that may be, and what else it must be."""
