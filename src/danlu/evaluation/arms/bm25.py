"""BM25 (Robertson & Zaragoza 2009, as Lucene computes it) over words that are right for Chinese.

Chinese is read as overlapping pairs of characters, Latin words and numbers as wholes, in the spelling in which answers
are judged ("八十元", "80 yuan" and "80元" meet). Everything is in memory: for the documents of a firm, not the web.

Shapes: N passages.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from danlu.evaluation.fold import fold, is_chinese

K1, B = 1.2, 0.75

Floats = npt.NDArray[np.float64]
# A comma between full-width digits may part thousands.
_PAUSE = re.compile("[。；：？！、…“”《》（）\n]|(?<![0-9０-９])，|，(?![0-9０-９])")


def words(text: str) -> list[str]:
    """Words, numbers, and pairs of neighbouring Chinese characters, none across a pause; a character that stands alone
    is a word."""
    return [word for part in _PAUSE.split(text) for word in _words(part)]


def _words(part: str) -> list[str]:
    found: list[str] = []
    run: list[str] = []
    for token in fold(part):
        if len(token) == 1 and is_chinese(token):
            run.append(token)
            continue
        found += _pairs(run)
        run.clear()
        found.append(token)
    return found + list(_pairs(run))


def _pairs(run: Sequence[str]) -> Iterator[str]:
    if len(run) == 1:
        yield run[0]
    for one, other in itertools.pairwise(run):
        yield one + other


class BM25:
    """`passages` as lists of words. Σ over the query's words of idf · tf / (tf + k1 (1 - b + b · length / mean)),
    idf = ln(1 + (N - n + 1/2) / (n + 1/2)); a word asked twice counts twice."""

    def __init__(self, passages: Sequence[Sequence[str]], *, k1: float = K1, b: float = B) -> None:
        self.num_passages = len(passages)
        lengths_N = np.asarray([len(words) for words in passages], dtype=np.float64)
        mean = float(lengths_N.mean()) if len(passages) else 0.0
        share_N = lengths_N / mean if mean > 0 else np.ones_like(lengths_N)
        damping_N = k1 * (1 - b + b * share_N)
        places: dict[str, list[int]] = {}
        counts: dict[str, list[int]] = {}
        for place, passage in enumerate(passages):
            for word, count in Counter(passage).items():
                places.setdefault(word, []).append(place)
                counts.setdefault(word, []).append(count)
        self._places = {word: np.asarray(held, dtype=np.int64) for word, held in places.items()}
        self._weights: dict[str, Floats] = {}
        for word, held_P in self._places.items():
            tf_P = np.asarray(counts[word], dtype=np.float64)
            self._weights[word] = self.idf(word) * tf_P / (tf_P + damping_N[held_P])

    def idf(self, word: str) -> float:
        held = self._places.get(word)
        num = 0 if held is None else len(held)
        return math.log(1 + (self.num_passages - num + 0.5) / (num + 0.5))

    def scores(self, query: Sequence[str]) -> Floats:
        """scores_N"""
        scores_N = np.zeros(self.num_passages)
        for word, times in Counter(query).items():
            if word in self._places:
                scores_N[self._places[word]] += times * self._weights[word]
        return scores_N

    def search(self, query: Sequence[str], num: int) -> list[tuple[int, float]]:
        """The best passages, best first, the earlier one where two are equal; none that shares no word."""
        scores_N = self.scores(query)
        order = np.argsort(-scores_N, kind="stable")[:num]
        return [(int(place), float(scores_N[place])) for place in order if scores_N[place] > 0]

    def certainty(self, query: Sequence[str], score: float) -> float:
        """How much of what a passage could at most score this one does, in [0, 1]: comparable between questions."""
        most = sum(self.idf(word) for word in query)
        return min(1.0, score / most) if most > 0 else 0.0
