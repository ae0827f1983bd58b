"""survey: what a folder of data holds, as far as advice has to know: kinds, lengths, language. One pass, no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.core.errors import RecipeError
from danlu.core.progress import Progress
from danlu.data.inspect import flat_text, inspect
from danlu.data.sample import Sample
from danlu.data.tokenizer import Tokenizer
from danlu.planning.advice.bases import Language
from danlu.planning.advice.numbers import Facts

CHARS_PER_TOKEN: dict[Language, float] = {"zh": 1.6, "en": 4.0, "multi": 2.5}
"""As tokenizers of common bases cut such text, within a quarter; where the base is known, its own is asked."""
NUM_TASTED, TASTED_CHARS = 500, 2000
"""Rows whose beginnings are kept to tell the language by, and to measure a tokenizer on."""
CHINESE_RATIO, ENGLISH_RATIO = 0.3, 0.05
"""Share of Han letters from which on a text is Chinese, and below which it is not."""
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_LATIN = re.compile(r"[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Survey:
    """`told` is what `danlu inspect` tells of the files; `texts` are the beginnings of their first rows."""

    told: dict[str, Any]
    texts: list[str] = field(default_factory=list)

    @property
    def language(self) -> Language:
        """What most of the text is in; `multi` where it is neither Chinese nor in Latin letters alone."""
        text = "".join(self.texts)
        ratio = len(_HAN.findall(text)) / max(1, len(text))
        if ratio >= CHINESE_RATIO:
            return "zh"
        is_latin = len(_LATIN.findall(text)) >= 0.5 * len("".join(text.split()))
        return "en" if ratio <= ENGLISH_RATIO and is_latin else "multi"

    def facts(self, chars_per_token: float) -> Facts:
        lengths = self.told["lengths"]
        return Facts(
            self.told["kinds"],
            int(lengths["total"] / chars_per_token),
            int(lengths["longest"] / chars_per_token),
            self.told["duplicates"],
            {kind: int(chars / chars_per_token) for kind, chars in lengths["by_kind"].items()},
        )

    def chars_per_token(self, tokenizer: Tokenizer) -> float:
        """Measured on the rows' beginnings."""
        num_chars = sum(map(len, self.texts))
        return num_chars / max(1, sum(len(tokenizer.encode_text(text)) for text in self.texts))

    def over_ratio(self, num_chars: float) -> float:
        """Of all rows, about how many are longer than this; within a bar of the histogram rows lie evenly."""
        over, low, num_rows = 0.0, 0, 0
        for bar in self.told["lengths"]["histogram"]:
            high = bar["below"] or max(self.told["lengths"]["longest"] + 1, low + 1)
            over += bar["rows"] * min(1.0, max(0.0, (high - num_chars) / (high - low)))
            low, num_rows = high, num_rows + bar["rows"]
        return over / max(1, num_rows)


def survey(paths: Sequence[Path], *, progress: Progress | None = None) -> Survey:
    """Read the files once. DataError for paths that are not there, RecipeError where no row can be used."""
    texts: list[str] = []

    def taste(sample: Sample) -> None:
        texts.append(flat_text(sample)[:TASTED_CHARS])

    told = inspect(paths, num_samples=NUM_TASTED, show=taste, progress=progress)
    told["samples"] = []
    if not told["usable"]:
        raise RecipeError("advice.no_rows", where=str(paths[0]), given=told["rows"]["read"], why=_why(told["rejects"]))
    return Survey(told, texts)


def _why(rejects: Sequence[dict[str, Any]]) -> str:
    """The first reason for refusing a row; "" where there was no row."""
    return f" {rejects[0]['reason']}" if rejects else ""
