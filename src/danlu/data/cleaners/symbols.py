"""symbols: texts that are mostly marks, digits or broken characters, and hardly a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from danlu.data.cleaners.cleaner import Batch, Finding

_LEAST = 20
"""Characters below which a text may well be a formula, a number or a face."""
_LEAST_WORDS = 0.35
"""Share of letters and digits among all that is no space (prose 0.8 to 0.95, source code 0.6, tables 0.5)."""
_MOST_DIGITS = 0.6
_MOST_BROKEN = 0.02
_BROKEN = re.compile("[\ufffd\ue000-\uf8ff]|锟斤拷|烫烫烫|屯屯屯|ï¿½|â€[œ™\u009d]|Ã[©¨¤¶¼]")
_DIGIT = re.compile(r"\d")


class Symbols:
    name = "symbols"

    def key(self) -> dict[str, Any]:
        return {"version": 1}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found: dict[int, Finding] = {}
        folded = batch.folded_body
        for row, text in enumerate(batch.body):
            if len(text) >= _LEAST and folded.length(row) < 0.6 * len(text):
                num_seen = len("".join(text.split()))
                if num_seen >= _LEAST and folded.length(row) < _LEAST_WORDS * num_seen:
                    found[row] = Finding("symbols", {"share": round(100 * folded.length(row) / num_seen)})
        for text, row in _broken(batch.body):
            num = sum(len(match) for match in _BROKEN.findall(text))
            if num > _MOST_BROKEN * len(text):
                found[row] = Finding("broken_characters", {"num": num})
        num_digits: dict[int, int] = {}
        for row, _, _ in folded.search(_NUMBERS):
            num_digits[row] = len(_DIGIT.findall(folded[row]))
        for row, num in num_digits.items():
            if len(batch.body[row]) >= _LEAST and num > _MOST_DIGITS * folded.length(row):
                found.setdefault(row, Finding("digits", {"share": round(100 * num / folded.length(row))}))
        return found


_NUMBERS = re.compile(r"\d{12}")
"""A row that is digits for more than half has a long run of them once marks are gone."""


def _broken(texts: list[str]) -> list[tuple[str, int]]:
    if not _BROKEN.search("\n".join(texts)):
        return []
    return [(text, row) for row, text in enumerate(texts) if _BROKEN.search(text)]
