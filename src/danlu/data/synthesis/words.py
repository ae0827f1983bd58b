"""What synthesis has to know of words: how alike two texts are, what carries content.

ROUGE-L (Lin 2004) counts a Chinese character and a Latin word as one token each; a tokeniser for English alone finds
nothing in Chinese.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import DataError
from danlu.data.language import HAN
from danlu.data.synthesis.lexicon import FUNCTION_CHARACTERS, FUNCTION_WORDS

_TOKEN = re.compile(rf"[{HAN}\u3041-\u30ff]|[^\W_{HAN}\u3041-\u30ff]+")


@dataclass(frozen=True, slots=True)
class Reading:
    """How texts are held against each other, handed in because the rules that judge answers stand above this room:
    `fold` turns text into comparable tokens (evaluation's), `declines` says whether an answer says "not stated"."""

    fold: Callable[[str], tuple[str, ...]]
    declines: Callable[[str], bool]


def tokens_of(text: str) -> list[str]:
    """One token per Chinese character or Latin word, case folded, punctuation gone."""
    return _TOKEN.findall(text.casefold())


def rouge_l(left: Sequence[str], right: Sequence[str], *, at_least: float = 0.0) -> float:
    """F1 of the longest common subsequence of two token lists; 0.0 for all that is below `at_least`, found out fast."""
    try:
        from rapidfuzz.distance import Indel  # compiled; with the data extra
    except ModuleNotFoundError as error:
        raise DataError("data.missing_package", what="ROUGE-L", package="rapidfuzz") from error
    if not left or not right:
        return 0.0
    # Indel similarity is 2·LCS / (m + n), which is ROUGE-L's F1
    return float(Indel.normalized_similarity(left, right, score_cutoff=at_least))


def content_of(text: str) -> list[str]:
    """Tokens that carry content: no function words, no numbers, English words without their endings."""
    found = []
    for token in tokens_of(text):
        if token in FUNCTION_CHARACTERS or token in FUNCTION_WORDS or token[0].isdigit():
            continue
        found.append(stem(token))
    return found


def stem(word: str) -> str:
    """An English word without the commonest endings; enough to see "approves" in "approved"."""
    if not word.isascii() or len(word) < 5:
        return word.rstrip("s") if word.isascii() and len(word) == 4 else word
    for ending in ("ations", "ation", "ments", "ment", "ings", "ing", "ies", "ied", "ers", "er", "ed", "es", "ly", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word.rstrip("e").rstrip("y") if len(word) > 3 else word


def chinese_words(text: str) -> list[str]:
    """The text in words; joined again it is the text."""
    pieces: list[str] = _jieba().cut(text)
    return list(pieces) if "".join(pieces) == text else list(text)


def chinese_names(text: str) -> list[str]:
    """Words that a tagger takes for people, places or organisations; it errs both ways, and is one opinion of two."""
    return [word for word, kind in chinese_tagged(text) if kind.startswith(("nr", "ns", "nt")) and len(word) > 1]


def chinese_tagged(text: str) -> list[tuple[str, str]]:
    """Words with a tagger's opinion of their kind."""
    tagged: list[tuple[str, str]] = _jieba().tag(text)
    return tagged


def _jieba() -> Any:
    try:
        import rjieba  # compiled; in the data extra, and only Chinese needs it
    except ModuleNotFoundError as error:
        raise DataError("data.missing_package", what="中文", package="rjieba") from error
    return rjieba
