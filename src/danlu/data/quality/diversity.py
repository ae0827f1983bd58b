"""How differently the rows speak: distinct n-grams (Li et al. 2016), nearest neighbours, topics. Of a sample of rows.

All three depend on how much is looked at, so that is fixed: the first 20,000 tokens, 1,000 rows, 2,000 rows. A Chinese
character or a Latin word is a token here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from danlu.data.excerpts import VEIL, veil_all
from danlu.data.quality.facts import DiversityFacts, Topic
from danlu.data.quality.vectors import Ints, Vectors, nearest_of, vectors_of

NUM_TOKENS = 20_000
NUM_NEIGHBOURS = 1000
MAX_TOPICS = 12
_ROUNDS = 12
_MIN_ROWS = 60
_ALONE = r"\u3400-\u9fff\u3040-\u30ff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_ALONE}]|[^\W_{_ALONE}]+(?:['’][^\W_{_ALONE}]+)?")
_WORD = re.compile(r"[\u3400-\u9fff]{2,}|[A-Za-zÀ-ɏ]{3,}")
_SEEN = 200
_PARTICLES = frozenset(
    "的了是在有我你他她它们和就都这那不个一之其以可及与而或也还很被把将对为从到会要能着过给让请问吗呢吧啊什么怎哪"
)
_TOO_COMMON = frozenset(
    {"the", "and", "for", "you", "that", "with", "this", "are", "was", "have", "not", "your", "from", "what", "which"}
)


def diversity_of(texts: Sequence[str], labels: Sequence[str] = ()) -> DiversityFacts:
    """`texts` are the sampled rows, in the order they were drawn; `labels` as many, or none."""
    if not texts:
        return DiversityFacts()
    nearest = nearest_of(vectors_of(texts[:NUM_NEIGHBOURS], sizes=(2, 3), bits=13))
    return DiversityFacts(
        len(texts),
        {str(size): distinct(texts, size) for size in (1, 2, 3)},
        round(float(nearest.mean()), 4) if len(nearest) > 1 else 0.0,
        tuple(topics_of(texts, labels)),
    )


def distinct(texts: Sequence[str], size: int) -> float:
    """Differing n-grams over all n-grams of the first NUM_TOKENS tokens; 1 where none comes twice."""
    seen: set[tuple[str, ...]] = set()
    num = left = 0
    left = NUM_TOKENS
    for text in texts:
        tokens = _TOKEN.findall(text.casefold())[:left]
        left -= len(tokens)
        grams = list(zip(*(tokens[offset:] for offset in range(size)), strict=False))
        seen.update(grams)
        num += len(grams)
        if left <= 0:
            break
    return round(len(seen) / num, 4) if num else 0.0


def topics_of(texts: Sequence[str], labels: Sequence[str] = ()) -> list[Topic]:
    """Clusters of the texts (spherical k-means from a k-centre start: no dice), largest first, each with the words that
    set it apart. None where the rows are too few to speak of topics."""
    if len(texts) < _MIN_ROWS:
        return []
    vectors = vectors_of(texts, sizes=(2,), bits=16)
    num = int(min(MAX_TOPICS, max(3, round((len(texts) / 20) ** 0.5))))
    owners = _k_means(vectors, num)
    words = [_words(text) for text in veil_all(texts, _SEEN)]
    overall = Counter(word for found in words for word in found)
    topics = []
    for topic in range(num):
        members = np.flatnonzero(owners == topic)
        if len(members):
            label = Counter(labels[int(index)] for index in members).most_common(1)[0][0] if labels else ""
            told = _telling([words[int(index)] for index in members], overall, len(texts))
            topics.append(Topic(round(len(members) / len(texts), 4), told, label))
    return sorted(topics, key=lambda topic: (-topic.share, topic.words))


def _k_means(vectors: Vectors, num: int) -> Ints:
    """The topic of each row. Starts from rows far from each other, of which the first is nearest to the mean."""
    middle = vectors.dot(vectors.mean(np.arange(len(vectors))))
    chosen = [int(middle.argmax())]
    nearest = vectors.dot(vectors.dense(chosen[0]))
    for _ in range(num - 1):
        # far from what is chosen, yet near to the middle: an odd row makes no topic
        chosen.append(int((middle * (1 - nearest)).argmax()))
        nearest = np.maximum(nearest, vectors.dot(vectors.dense(chosen[-1])))
    centres = [vectors.dense(index) for index in chosen]
    owners = np.zeros(len(vectors), np.int64)
    for _ in range(_ROUNDS):
        fresh = np.stack([vectors.dot(centre) for centre in centres]).argmax(axis=0)
        if (fresh == owners).all():
            break
        owners = fresh
        for topic in range(num):
            members = np.flatnonzero(owners == topic)
            if len(members):
                centres[topic] = vectors.mean(members)
    return owners


def _words(text: str) -> set[str]:
    """Latin words, and of Chinese every run of two to four characters that no particle begins or ends: which of them
    are words shows in how often they recur. The beginning of a text says what it is about."""
    found: set[str] = set()
    for word in _WORD.findall(text.replace(VEIL, " ").casefold()):
        if not "\u3400" <= word[0] <= "\u9fff":
            if word not in _TOO_COMMON:
                found.add(word)
        else:
            found.update(
                word[start : start + size]
                for size in (2, 3, 4)
                for start in range(len(word) - size + 1)
                if word[start] not in _PARTICLES and word[start + size - 1] not in _PARTICLES
            )
    return found


def _telling(members: Sequence[set[str]], overall: Counter[str], num_rows: int) -> tuple[str, ...]:
    """Up to five words that stand in much of this topic and little of the rest; longer ones before their own parts."""
    inside = Counter(word for found in members for word in found)
    least = max(2, len(members) // 20)
    scores = {
        word: count / len(members) * np.log(count * num_rows / (overall[word] * len(members))) * len(word) ** 0.5
        for word, count in inside.items()
        if count >= least
    }
    best: list[str] = []
    for word, score in sorted(scores.items(), key=lambda entry: (-entry[1], entry[0])):
        if score <= 0 or len(best) == 5:
            break
        if word.isascii() or not any(set(word) & set(other) for other in best if not other.isascii()):
            best.append(word)
    return tuple(best)
