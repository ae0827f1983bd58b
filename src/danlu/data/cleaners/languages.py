"""languages: rows in a language that the recipe does not want, told by the scripts of their letters.

Scripts, not words: Latin letters count as `en`, Han as `zh` unless kana stand among them. Exact for what it claims,
the same everywhere, and quick; it does not tell French from English.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.errors import RecipeError
from danlu.core.registry import nearest
from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.twins.folding import encode

LANGUAGES = ("other", "zh", "en", "ja", "ko", "ru", "ar", "th")
_RANGES = {
    "zh": [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x3105, 0x312F)],
    "en": [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF3A), (0xFF41, 0xFF5A)],
    "ja": [(0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)],
    "ko": [(0xAC00, 0xD7AF), (0x1100, 0x11FF), (0x3131, 0x318E)],
    "ru": [(0x400, 0x52F)],
    "ar": [(0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)],
    "th": [(0xE01, 0xE5B)],
}
_LEAST_SHARE = 0.2
"""Of a row's letters that make it a row of that language too."""
_KANA_SHARE = 0.05
_LEAST_LETTERS = 8
"""Below them a row is of no language, and of all."""
_WEIGHT_EN = 0.3
"""A Latin word has about as many letters as three Han words: 你好 weighs like `hello`."""


class Languages:
    name = "languages"

    def __init__(self, wanted: Sequence[str]) -> None:
        for name in wanted:
            if name not in LANGUAGES:
                raise RecipeError("core.unknown_name", where="data.cleaning.languages", given=name, shelf="languages",
                                  nearest=nearest(name, LANGUAGES) or "-", known=", ".join(LANGUAGES))  # fmt: skip
        self.wanted = tuple(sorted(set(wanted)))

    def key(self) -> dict[str, Any]:
        return {"version": 1, "wanted": list(self.wanted)}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        shares = language_shares([f"{asked}\n{body}" for asked, body in zip(batch.asked, batch.body, strict=True)])
        codes = [LANGUAGES.index(name) for name in self.wanted]
        most = shares.argmax(axis=1)
        is_told = shares.sum(axis=1) > 0
        is_wanted = (shares[:, codes] >= _LEAST_SHARE).any(axis=1)
        return {int(row): Finding("language", {"language": LANGUAGES[most[row]]})
                for row in np.flatnonzero(is_told & ~is_wanted)}  # fmt: skip


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
        for first, last in ranges:
            table[first : last + 1] = np.where(table[first : last + 1] >= 0, LANGUAGES.index(name), -1)
    return table
