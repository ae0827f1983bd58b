"""Words and numbers of the data report in one language: catalogue room `report_data`, reasons of the room `ledger`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.core import html
from danlu.core.messages import Language, load_room, lookup, say

_FILLED = re.compile(r"\{[^{}]*\}")
TONES: Mapping[str, html.Tone] = {"good": "good", "warn": "warn", "bad": "bad"}


class Words:
    """`words("twins", rows=3)` says `report_data.twins` in this language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self._room = load_room("report_data", language)

    def __call__(self, key: str, **values: Any) -> str:
        return say(f"report_data.{key}", self.language, **values)

    def text_and_fix(self, key: str, **values: Any) -> tuple[str, str]:
        text, fix = lookup(f"report_data.{key}", self.language)
        return text.format(**values), fix.format(**values)

    def known(self, prefix: str, name: str) -> str:
        """`<prefix>_<name>` where the catalogue has it, else the name as it is."""
        key = f"{prefix}_{name}"
        return self(key) if key in self._room else name

    def reason(self, key: str) -> str:
        """What a reason of the ledger says in general: its text without the values of one row."""
        if not key:
            return "–"
        if key not in load_room("ledger", self.language):
            return key
        text = _FILLED.sub("…", lookup(f"ledger.{key}", self.language)[0])
        return text.replace("{{", "{").replace("}}", "}")


def percent(ratio: float) -> str:
    """Two digits that count: 31%, 3.1%, 0.31%; what is more than nothing is not shown as nothing."""
    share = 100 * ratio
    if share == 0 or share >= 10:
        return f"{share:.0f}%"
    return f"{share:.1f}%" if share >= 1 else f"{share:.2f}%" if share >= 0.005 else "< 0.01%"


def count(number: float) -> str:
    return f"{int(number):,}"
