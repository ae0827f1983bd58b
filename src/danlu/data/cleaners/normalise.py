"""normalise: characters written in one way, and none that nobody sees. What a text says is not touched.

Composed form (NFC, so that equal texts are equal bytes; width and case stay as they are), `\\r\\n` to `\\n`, no control
characters, no invisible ones: zero-width spaces, direction overrides, tag characters, all of which can hide text from
a reader that a model sees. Joiners stay where scripts and emoji need them. Traditional to simplified on request, by
OpenCC's tables of phrases.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from danlu.core.errors import DataError
from danlu.data.joined import Texts
from danlu.data.sample import Sample
from danlu.data.stage import Fate, Outcome, spread
from danlu.data.texts import with_texts
from danlu.data.twins.folding import joining_characters

_FLAG = "\U0001f3f4"
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # control characters but tab and line breaks
    "\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"  # invisible, and direction
    "\U000e0001-\U000e001f]"
    f"|(?<![{_FLAG}\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+"  # tags that spell no region's flag
    "|(?<=[\x00-\x7f\u3000-\u9fff\uff00-\uffef])[\u200c\u200d]|[\u200c\u200d](?=[\x00-\x7f\u3000-\u9fff\uff00-\uffef])"
)
_SUSPECT = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_LINE_END = re.compile(r"\r\n?|[\u2028\u2029\x85]")


class Normalise:
    name = "normalise"

    def __init__(self, *, tidy: bool = True, simplified: bool = False) -> None:
        self.is_tidying, self.is_simplifying = tidy, simplified

    def key(self) -> dict[str, Any]:
        return {"version": 1, "tidy": self.is_tidying, "simplified": self.is_simplifying,
                "unicode": unicodedata.unidata_version}  # fmt: skip

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return spread(self.touch(Texts(samples)), samples)

    def touch(self, texts: Texts) -> dict[int, Outcome]:
        told: dict[int, Outcome] = {}
        for row in range(len(texts)) if self.is_simplifying else _suspects(texts):
            sample = texts.samples[row]
            if sample is not None and (fates := self._fates(fresh := texts.of(row))):
                told[row] = with_texts(sample, fresh), tuple(fates)
        return told

    def _fates(self, texts: list[str]) -> list[Fate]:
        """Mends the texts in their places; what was done, if anything."""
        fates: list[Fate] = []
        if self.is_tidying and not all(map(_is_tidy, texts)):
            texts[:] = _tidied(texts, fates)
        if self.is_simplifying:
            texts[:] = _simplified(texts, fates)
        return fates


def _suspects(texts: Texts) -> Iterator[int]:
    """Rows that may have anything to do. A table over UTF-16 units says quickly that there is nothing in most."""
    table = _table()
    for page in texts.pages():
        yield from texts.suspects_in(page, page.at_table(table))


@functools.cache
def _table() -> npt.NDArray[np.bool_]:
    """UTF-16 units that may need mending: all that expressions here look for, and what is or may not be composed."""
    joining = joining_characters()
    found = [
        bool(_LINE_END.search(char) or _SUSPECT.search(char) or char in joining or unicodedata.combining(char))
        or unicodedata.normalize("NFC", char) != char
        or 0xD800 <= ord(char) < 0xE000  # also of tags and rare compositions; whoever has none is soon told
        for char in map(chr, range(65536))
    ]
    return np.array(found, bool)


def _is_tidy(text: str) -> bool:
    return unicodedata.is_normalized("NFC", text) and _UNSEEN.search(text) is None and _LINE_END.search(text) is None


def _tidied(texts: Sequence[str], fates: list[Fate]) -> list[str]:
    fresh, num_unseen, is_rewritten = [], 0, False
    for text in texts:
        lines = _LINE_END.sub("\n", text)
        seen, num = _UNSEEN.subn("", lines)
        composed = unicodedata.normalize("NFC", seen)
        num_unseen += num
        is_rewritten |= composed != seen or lines != text
        fresh.append(composed)
    if num_unseen:
        fates.append(Fate("change", "unseen_removed", {"num": num_unseen}))
    if is_rewritten:
        fates.append(Fate("change", "normal_form"))
    return fresh


def _simplified(texts: Sequence[str], fates: list[Fate]) -> list[str]:
    convert = _converter()
    fresh = [text if text.isascii() else convert(text) for text in texts]
    if num := sum(old != new for pair in zip(texts, fresh, strict=True) for old, new in zip(*pair, strict=False)):
        fates.append(Fate("change", "simplified", {"num": num}))
    return fresh


@functools.cache
def _converter() -> Any:
    try:
        import opencc  # lazy: only recipes that ask for simplified characters need its tables
    except ImportError as error:
        raise DataError(
            "data.missing_package", where="data.cleaning.simplified", package="opencc", what="simplified"
        ) from error
    return opencc.OpenCC("t2s").convert
