"""ROUGE-1, 2, L and Lsum for Chinese and English: our own, because the common ones drop or cut Chinese.

A token is a single Chinese character (or kana), or a lower-cased run of other letters and digits; punctuation is none.
Full and half width are one. On ASCII text without stemming this is the tokenizer of Google's rouge-score, and the
values are equal. Source: Lin 2004.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.evaluation.fold import CJK

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


@dataclass(frozen=True, slots=True)
class Overlap:
    """Precision, recall and their harmonic mean, each in [0, 1]."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def words_of(text: str) -> list[str]:
    """Tokens: Chinese characters one by one, other letters and digits as words, lower case."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def rouge_n(answer: Sequence[str], reference: Sequence[str], n: int) -> Overlap:
    """Overlap of the two bags of n-grams."""
    said, wanted = _ngrams(answer, n), _ngrams(reference, n)
    common = sum(min(count, said[gram]) for gram, count in wanted.items())
    return Overlap(common / max(1, said.total()), common / max(1, wanted.total()))


def rouge_l(answer: Sequence[str], reference: Sequence[str]) -> Overlap:
    """Longest common subsequence over both lengths."""
    from rapidfuzz.distance import LCSseq  # bit-parallel; in the extras that evaluation needs

    if not answer or not reference:
        return Overlap(0.0, 0.0)
    common = LCSseq.similarity(answer, reference)
    return Overlap(common / len(answer), common / len(reference))


def rouge_lsum(answer: Sequence[Sequence[str]], reference: Sequence[Sequence[str]]) -> Overlap:
    """Over sentences: for each of the reference the union of its common subsequences with all of the answer, no token
    counted oftener than it occurs (Lin 2004, 3.2)."""
    num_said, num_wanted = sum(map(len, answer)), sum(map(len, reference))
    if not num_said or not num_wanted:
        return Overlap(0.0, 0.0)
    said = Counter(token for sentence in answer for token in sentence)
    wanted = Counter(token for sentence in reference for token in sentence)
    hits = 0
    for sentence in reference:
        for place in sorted({place for other in answer for place in _common_places(sentence, other)}):
            token = sentence[place]
            if said[token] > 0 and wanted[token] > 0:
                hits += 1
                said[token] -= 1
                wanted[token] -= 1
    return Overlap(hits / num_said, hits / num_wanted)


def best(overlaps: Sequence[Overlap]) -> Overlap:
    """The reference that fits best."""
    return max(overlaps, key=lambda overlap: overlap.f1)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _common_places(sentence: Sequence[str], other: Sequence[str]) -> list[int]:
    """Places in `sentence` of one longest common subsequence; of several, the one read from the ends."""
    lengths = [[0] * (len(other) + 1)]
    for token in sentence:
        above, row = lengths[-1], [0]
        for place, word in enumerate(other):
            row.append(above[place] + 1 if token == word else max(above[place + 1], row[place]))
        lengths.append(row)
    places, i, j = [], len(sentence), len(other)
    while i and j:
        if sentence[i - 1] == other[j - 1]:
            places.append(i - 1)
            i, j = i - 1, j - 1
        elif lengths[i][j - 1] > lengths[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places[::-1]
