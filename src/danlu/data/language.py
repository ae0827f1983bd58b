"""Which language a text is in, told by the scripts of its letters: the one place that knows their ranges.

Scripts, not words: Latin letters count as `en`, Han as `zh` unless kana stand among them. Exact for what it claims,
the same everywhere, and quick; it does not tell French from English. Three questions are asked of it, with weights of
their own: which shares a row has (`language_shares`, of many rows at once), what a teacher should write in
(`language_of`, where technical Chinese full of Latin names is Chinese), and what a report counts (`language_or_mix`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from danlu.data.twins.folding import encode

Language = Literal["zh", "en", "other"]
LANGUAGES = ("other", "zh", "en", "ja", "ko", "ru", "ar", "th")
_RANGES = {
    "zh": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2FFFF)],
    "en": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)],
    "ja": [(0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)],
    "ko": [(0xAC00, 0xD7AF), (0x1100, 0x11FF), (0x3131, 0x318E)],
    "ru": [(0x400, 0x52F)],
    "ar": [(0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)],
    "th": [(0xE01, 0xE5B)],
}
_BOPOMOFO = (0x3105, 0x312F)


def _set(*names: str) -> str:
    """The letters of these languages, as they stand between the brackets of an expression."""
    return "".join(f"{chr(first)}-{chr(last)}" for name in names for first, last in _RANGES[name])


HAN = _set("zh")
"""Of an expression's set: f"[{HAN}]"."""
_HAN = re.compile(f"[{HAN}]")
_LATIN = re.compile(f"[{_set('en')}]")
_KANA = re.compile(f"[{_set('ja')}]")
_HANGUL = re.compile(f"[{_set('ko')}]")
_EASTERN = re.compile(f"[{_set('ja', 'ko')}]")
_LETTER = re.compile(r"[^\W\d_]")
_SEEN = 160
"""Characters from which a report tells a language: enough for a share of scripts, cheap enough for millions of rows."""
_KANA_SHARE = 0.05
_LEAST_LETTERS = 8
"""Below them a row has no share of any language."""
_WEIGHT_EN = 0.3
"""A Latin word has about as many letters as three Han words: 你好 weighs like `hello`."""


def language_of(text: str) -> Language:
    """Chinese from a quarter of Han characters on (technical Chinese is full of Latin names), else English by its
    letters; Japanese, Korean and other scripts are `other`."""
    letters = len(_LETTER.findall(text))
    if not letters:
        return "other"
    if len(_EASTERN.findall(text)) > _KANA_SHARE * letters:
        return "other"
    han = len(_HAN.findall(text))
    # a Latin word of five letters weighs about as much as two characters
    if han and han >= 0.25 * (han + 0.4 * (letters - han)):
        return "zh"
    return "en" if len(_LATIN.findall(text)) >= 0.9 * letters else "other"


def language_or_mix(text: str) -> str:
    """zh, en, ja, ko, mixed (Chinese and Latin, neither below a fifth), or other, by the first characters.

    A Chinese character weighs about as much as three letters of a word."""
    seen = text[:_SEEN]
    if seen.isascii():
        return "en" if _LATIN.search(seen) else "other"
    han, latin = 3 * len(_HAN.findall(seen)), len(_LATIN.findall(seen))
    if _EASTERN.search(seen):
        kana, hangul = 3 * len(_KANA.findall(seen)), 3 * len(_HANGUL.findall(seen))
        if kana > 0.1 * (han + latin):
            return "ja"
        if hangul > max(han, latin):
            return "ko"
    if not han + latin:
        return "other"
    share = han / (han + latin)
    return "zh" if share > 0.8 else "mixed" if share >= 0.2 else "en"


def language_shares(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """(texts, LANGUAGES): the share of each language among a text's letters; zeros where there are hardly any."""
    lengths = [len(encode(text)) + 1 for text in texts]
    codes = _table()[encode("\n".join([*texts, ""]))]
    owner = np.repeat(np.arange(len(texts)), lengths)
    is_letter = codes >= 0
    flat = owner[is_letter] * len(LANGUAGES) + codes[is_letter]
    counts = np.bincount(flat, minlength=len(texts) * len(LANGUAGES)).reshape(len(texts), len(LANGUAGES))
    shares = counts.astype(np.float64)
    zh, en, ja = (LANGUAGES.index(name) for name in ("zh", "en", "ja"))
    is_japanese = shares[:, ja] > _KANA_SHARE * (shares[:, ja] + shares[:, zh])
    shares[is_japanese, ja] += shares[is_japanese, zh]
    shares[is_japanese, zh] = 0
    total = counts.sum(axis=1)
    shares[:, en] *= _WEIGHT_EN
    sums = shares.sum(axis=1, keepdims=True)
    return np.where((total >= _LEAST_LETTERS)[:, None], shares / np.maximum(sums, 1e-9), 0.0)


@functools.cache
def _table() -> npt.NDArray[np.int64]:
    """For each UTF-16 unit the index of its language; -1 for what is no letter. Surrogates are of no language."""
    table = np.array([0 if chr(unit).isalpha() else -1 for unit in range(65536)], np.int64)
    for name, ranges in _RANGES.items():
        for first, last in [*ranges, _BOPOMOFO] if name == "zh" else ranges:
            table[first : last + 1] = np.where(table[first : last + 1] >= 0, LANGUAGES.index(name), -1)
    return table
