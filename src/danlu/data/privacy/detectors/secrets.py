"""What opens doors: private keys, API keys, tokens, passwords, credentials in addresses. Never pseudonymised.

Known forms are found by themselves; anything else only behind a word such as `api_key=` and if it looks drawn at
random: letters and digits mixed, and for long values enough entropy.
"""

from __future__ import annotations

import re

import danlu.data.privacy.checks as checks
from danlu.data.privacy.detectors.detector import Spot
from danlu.data.privacy.finding import Finding

_W = "[A-Za-z0-9_-]"
_FORMS = {
    "api_key": "|".join((
        f"sk-{_W}{{20,200}}", f"[sr]k_live_{_W}{{16,200}}",
        "gh[pousr]_[A-Za-z0-9]{30,255}", f"github_pat_{_W}{{40,255}}",
        "A[KS]IA[0-9A-Z]{16}", "LTAI[0-9A-Za-z]{12,30}",
        "AKID[0-9A-Za-z]{13,40}", f"AIza{_W}{{35}}", f"glpat-{_W}{{18,64}}",
        "xox[abprs]-[A-Za-z0-9-]{10,200}", "hf_[A-Za-z]{30,60}",
        "npm_[A-Za-z0-9]{30,60}", "SG\\.[A-Za-z0-9_.-]{40,100}",
        f"ya29\\.{_W}{{20,300}}", f"dop_v1_{_W}{{60,70}}", "pypi-[A-Za-z0-9_-]{50,250}",
    )),
    "jwt": f"eyJ{_W}{{8,900}}\\.eyJ{_W}{{8,900}}\\.{_W}{{8,900}}",
    "private_key": "-----BEGIN [A-Z ]{0,30}PRIVATE KEY",
}  # fmt: skip
_KNOWN = {kind: re.compile(form) for kind, form in _FORMS.items()}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PEM_END = re.compile(r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----")


class Known:
    """Forms that their issuers publish."""

    name = "secrets"
    version = 1
    pattern = (
        f"sk-{_W}{{20}}|[sr]k_live_|gh[pousr]_{_W}{{30}}|github_pat_|A[KS]IA[0-9A-Z]{{16}}|LTAI[0-9A-Za-z]{{12}}|"
        f"AKID[0-9A-Za-z]{{13}}|AIza{_W}{{30}}|glpat-|xox[abprs]-|hf_[A-Za-z]{{30}}|npm_[A-Za-z0-9]{{30}}|SG\\.[A-Za-z0-9_-]{{16}}|"
        "ya29\\.|dop_v1_|pypi-[A-Za-z0-9_-]{50}|eyJ[A-Za-z0-9_-]{8}|-----BEGIN [A-Z]"
    )
    gate = pattern
    opens = "srgALxhnSydpe-"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        for kind, form in _KNOWN.items():
            found = form.match(spot.text, spot.start, spot.high)
            if found is None:
                continue
            if kind == "private_key":
                block = self._key_block(spot)
                return [block], block.end
            if spot.start > spot.low and spot.before(1).isalnum() and spot.before(1).isascii():
                return [], spot.start
            if kind == "api_key" and not any(letter.isdigit() for letter in found[0]) and "hf_" not in found[0]:
                return [], spot.start  # sk-learn-compatible-estimators
            return [Finding(spot.start, found.end(), kind, 0.95, self.name, found[0])], found.end()
        return [], spot.start

    def _key_block(self, spot: Spot) -> Finding:
        """To its end line, or, where that is missing, to the end of the text."""
        closing = _PEM_END.search(spot.text, spot.start, spot.high)
        end = closing.end() if closing else spot.high
        return Finding(spot.start, end, "private_key", 1.0, self.name, spot.text[spot.start : end])


def _spelt(word: str) -> str:
    """A word in lower, Capital and upper case, for patterns that may not fold case."""
    return "|".join((word, word.capitalize(), word.upper()))


_WORDS = {
    "password": "|".join((*map(_spelt, ("password", "passwd", "passphrase", "pwd")), "密码", "口令")),
    "api_key": "|".join((*map(_spelt, ("secret", "token", "apikey", "credential")), "密钥", "[_-]key", "Key",
                         "_KEY", "令牌",
                         "[Bb]earer", "[Pp]ass")),
}  # fmt: skip
_VALUE = re.compile(r"[^\s\"'<>,;，。；、（）()\u4e00-\u9fff&]{6,200}")
_PASSWORD = re.compile(r"[\u4e00-\u9fff]{0,6}[!-;=?-~]{4,128}")
"""Any marks may stand in a password, and words before it in no script of theirs; what ends it is looked at behind."""
_NEXT_FIELD = re.compile(r"[,;&][A-Za-z_]{2,30}=|[,;][\"']")
_TAIL = ".:,;`*}]>"
_ACCOUNT = re.compile(r"(?:账号|帐号|账户|用户名|用户|登录名)[^\n]{0,40}$")
_CUE = re.compile(
    "(?:(?P<password>" + _WORDS["password"] + ")|(?P<api_key>" + _WORDS["api_key"] + "))"
    "(?P<gap>(?: is)?[\"'”]?[ \t]{0,2}(?:=>|:=|[:=：]|是|为|[ \t])[ \t]{0,2}[\"'“]?|)"
)
_PLACEHOLDER = re.compile(
    r"^(?:[*xX•.·#-]+|\$\{?.*|%.*%|\{\{?.*|\[.*|your.*|my[_-]?.*|example.*|test.*|changeme.*|placeholder.*|none|null|true|false|"
    r"(?-i:[a-z])[A-Za-z0-9_.]*\(.*|os\.environ.*|process\.env.*|self\..*|config.*|args\..*|https?:.*)$",
    re.IGNORECASE,
)


class Cued:
    """A value behind a word that says what it is."""

    name = "secrets_by_word"
    version = 2
    pattern = (
        "(?:" + _WORDS["password"] + "|" + _WORDS["api_key"] + ")(?: is)?[\"'”]?[ \t]{0,2}(?:=>|:=|[:=：]|是|为|[ \t])"
        "|(?:密码|口令)[!-~]"
    )
    gate = pattern
    opens = "pPsStTaAcCkK密口令_-bB"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        cue = _CUE.match(spot.text, spot.start, spot.high)
        if cue is None:
            return [], spot.start
        kind = "password" if cue["password"] else "api_key"
        named = bool(cue["gap"].strip(" \t\"'”“")) or cue[0][:6].lower() == "bearer"
        secret = _password(spot, cue) if kind == "password" else _key(spot, cue)
        if not named and not (kind == "password" and _is_said_so(secret, cue, spot)):
            secret = ""
        if not secret or not _is_drawn(secret, kind):
            return [], max(cue.end() - 1, spot.start + 1)
        end = cue.end() + len(secret)
        return [Finding(cue.end(), end, kind, 0.8, self.name, secret)], end


def _key(spot: Spot, cue: re.Match[str]) -> str:
    value = _VALUE.match(spot.text, cue.end(), spot.high)
    return value[0].rstrip(".:") if value else ""


def _password(spot: Spot, cue: re.Match[str]) -> str:
    """To the closing quote where one opened, else to a space, a tag, a letter of another script or the next field."""
    found = _PASSWORD.match(spot.text, cue.end(), spot.high)
    if found is None:
        return ""
    value, quote = found[0], cue["gap"][-1:]
    if quote in ('"', "'"):
        return value.partition(quote)[0]
    following = _NEXT_FIELD.search(value)
    value = (value[: following.start()] if following else value).rstrip(_TAIL)
    while value.endswith((")", "'", '"')) and value.count(value[-1]) != value.count(
        "(" if value[-1] == ")" else value[-1]
    ):
        value = value[:-1].rstrip(_TAIL)
    return value


def _is_said_so(value: str, cue: re.Match[str], spot: Spot) -> bool:
    """`账号admin 密码abc123xyz`: no mark stands between, so the value or the account before it has to speak for it."""
    if cue["password"] not in ("密码", "口令") or not (any(map(str.isdigit, value)) and any(map(str.isalpha, value))):
        return False
    return len(value) >= 10 or bool(_ACCOUNT.search(spot.before(60)))


def _is_drawn(value: str, kind: str) -> bool:
    """Whether a value looks like a secret and not like a name, a call or a placeholder."""
    if len(value) < 6 or _PLACEHOLDER.match(value):
        return False
    has_digit, has_letter = any(map(str.isdigit, value)), any(map(str.isalpha, value))
    has_mark = any(letter in "!@#$%^&*~?+" for letter in value)
    if kind == "password":
        return has_letter and (has_digit or has_mark)
    return has_digit and has_letter and len(value) >= 16 and checks.entropy(value) >= 3.0


_USERINFO = re.compile(r"[^\s/@:'\"<>]{0,64}:([^\s/@'\"<>]{1,128})@")
_QUERY = re.compile(
    r"[?&#](?:[A-Za-z_-]{0,20}(?:token|secret|signature|api_?key|password|passwd|auth|sessionid|session_id|credential)|sig|sign|"
    r"key|code|ticket|pwd|sid)=([^&\s\"'<>#\u4e00-\u9fff，。；]{6,})",
    re.IGNORECASE,
)
_URL_END = re.compile(r"[\s\"'<>\u4e00-\u9fff，。；（）]")


class Links:
    """Credentials in front of a host, and tokens in the query of a link. The rest of the link is read on."""

    name = "links"
    version = 1
    pattern = "://"
    gate = pattern
    opens = ":"

    def find(self, spot: Spot) -> tuple[list[Finding], int]:
        begin = spot.end if spot.text[spot.start : spot.end] == "://" else spot.start + 3
        if not spot.text.startswith("://", spot.start):
            return [], spot.start
        closing = _URL_END.search(spot.text, begin, min(spot.high, begin + 2000))
        end = closing.start() if closing else min(spot.high, begin + 2000)
        found = []
        login = _USERINFO.match(spot.text, begin, end)
        if login and not _PLACEHOLDER.match(login[1]):
            found.append(
                Finding(begin, login.end() - 1, "connection", 0.95, self.name, spot.text[begin : login.end() - 1])
            )
        for query in _QUERY.finditer(spot.text, begin, end):
            if not _PLACEHOLDER.match(query[1]) and any(map(str.isdigit, query[1])) and len(query[1]) >= 8:
                found.append(Finding(query.start(1), query.end(1), "url_token", 0.85, self.name, query[1]))
        return found, begin
