"""Damage inside text that is already decoded: control characters, zero-width marks, half surrogates, mojibake.

`mend` takes out what no reader can see and turns mojibake back where the way back is exact; it says what it did. Width,
spelling and spaces are left as they are: normalising is a cleaner's choice, not a reader's.
"""

from __future__ import annotations

import re
from typing import Any

from danlu.data.encoding import commonness

SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]|[\x80-\xff]{3}"
    "|锟斤拷|[鐨鏄鍦銆锛鈥浜绗鍙涓]"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufffe\uffff]")
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")
_HALF = re.compile("[\ud800-\udfff]")
_LOST = re.compile("锟斤拷")
_LATIN_RUN = re.compile(
    "[\x80-\xff\u0152-\u0153\u0160-\u0161\u017d-\u017e\u0178\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
MIN_STRANGE = 6
"""Fewer foreign characters than this prove nothing."""


class MojibakeError(ValueError):
    """Text that was decoded wrongly before it came here, with no exact way back; the argument is an excerpt."""


def mend(value: Any, changes: dict[str, int]) -> Any:
    """The value with every string in it mended; `changes` counts by ledger reason. Raises MojibakeError."""
    if isinstance(value, str):
        return _mend_text(value, changes) if SUSPECT.search(value) else value
    if isinstance(value, dict):
        return {mend(key, changes) if isinstance(key, str) else key: mend(item, changes) for key, item in value.items()}
    if isinstance(value, list):
        return [mend(item, changes) for item in value]
    return value


def _mend_text(text: str, changes: dict[str, int]) -> str:
    restored = restored_mojibake(text)
    if restored is not None:
        changes["mojibake_restored"] = changes.get("mojibake_restored", 0) + 1
        text = restored
    if breaks := text.count("\x0c"):
        text = text.replace("\x0c", "\n")
        changes["page_breaks"] = changes.get("page_breaks", 0) + breaks
    for reason, pattern in (("lone_surrogate", _HALF), ("control_characters", _CONTROL), ("zero_width", _ZERO_WIDTH)):
        text, num = pattern.subn("", text)
        if num:
            changes[reason] = changes.get(reason, 0) + num
    if lost := _LOST.search(text):
        raise MojibakeError(text[max(0, lost.start() - 8) : lost.end() + 8])
    return text


def restored_mojibake(text: str) -> str | None:
    """The text before it was read by the wrong encoding, where the way back is exact and reads like language; else
    None."""
    strange = [char for char in text if char > "\x7f"]
    if len(strange) < MIN_STRANGE:
        return None
    if len(_LATIN_RUN.findall(text)) == len(strange):  # UTF-8 or GB18030 that was read as Latin
        for wrong in ("latin-1", "cp1252"):
            for right in ("utf-8", "gb18030"):
                back = _reread(text, wrong, right)
                if back is not None and len(back) < len(text) and commonness(back, "gb18030") > 0.9:
                    return back
        return None
    back = _reread(text, "gb18030", "utf-8")  # UTF-8 that was read as GB18030
    return back if back is not None and commonness(back, "gb18030") > 0.9 else None


def _reread(text: str, wrong: str, right: str) -> str | None:
    try:
        return text.encode(wrong).decode(right)
    except UnicodeError:
        return None
