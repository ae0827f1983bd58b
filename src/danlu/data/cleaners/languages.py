"""languages: rows in a language that the recipe does not want, told by the scripts of their letters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from danlu.core.shelf import unknown_name
from danlu.data.cleaners.cleaner import Batch, Finding
from danlu.data.language import LANGUAGES, language_shares

_LEAST_SHARE = 0.2
"""Of a row's letters that make it a row of that language too."""


class Languages:
    name = "languages"

    def __init__(self, wanted: Sequence[str]) -> None:
        for name in wanted:
            if name not in LANGUAGES:
                raise unknown_name(name, LANGUAGES, of="languages", where="data.cleaning.languages")
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
