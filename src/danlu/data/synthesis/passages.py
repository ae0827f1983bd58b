"""What a teacher is asked about: passages of documents, their place and clearance, and a small index over them.

The index answers one question: which passages speak of the same things as a sentence? Character bigrams for Chinese,
word stems for English, weighted by rarity (tf-idf without the tf). No embeddings, no dependencies.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from danlu.core.files import sha256_bytes
from danlu.data.identity import sample_id
from danlu.data.language import HAN, Language, language_of
from danlu.data.passages import cut_documents
from danlu.data.sample import Document, Origin, replace
from danlu.data.synthesis.evidence import Span
from danlu.data.synthesis.teacher import Clearance
from danlu.data.synthesis.words import content_of

MAX_TOKENS, MIN_TOKENS = 1200, 300
MIN_CHARACTERS = 40
"""Less is not worth a question."""
_WIDE = re.compile(f"[{HAN}]")
_HAN_RUN = re.compile(f"[{HAN}]{{2,}}")


@dataclass(frozen=True, slots=True)
class Passage:
    """A run of a document's text. `origin` says where it stands, `parents` which samples it is of."""

    text: str
    origin: Origin
    group: str
    parents: tuple[str, ...]
    headings: str
    """Title of the document and the headings above the passage, one per line."""
    clearance: Clearance

    @property
    def language(self) -> Language:
        return language_of(self.text)

    @property
    def digest(self) -> str:
        return sha256_bytes(f"{self.headings}\x00{self.text}".encode("utf-8", "backslashreplace"))

    def cite(self, span: Span) -> dict[str, Any]:
        """The evidence as a sample's tags hold it: offsets into the document's extracted text, and what stands there.

        Masking that changed the length moves what follows; then the range is the passage's own, and `approximate`.
        """
        start, end = self.origin.start or 0, self.origin.end or 0
        is_moved = end - start != len(self.text)
        place = {"start": start, "end": end} if is_moved else {"start": start + span.start, "end": start + span.end}
        cited = {
            "document": self.origin.document or self.origin.file,
            **place,
            "text": self.text[span.start : span.end],
        }
        return cited | ({"approximate": True} if is_moved else {})


def passages_of(documents: Sequence[Document]) -> list[Passage]:
    """All passages worth a question, in the order of the documents. A passage that runs over two pages is as closed as
    the more closed of them."""
    clearances: dict[str, list[Clearance]] = defaultdict(list)
    placed = []
    for document in documents:
        clearances[sample_id(document)].append(Clearance.of(document))
        origin = document.origin
        whole = origin if origin.start is not None else replace(origin, start=0, end=len(document.text))
        placed.append(replace(document, origin=whole))
    found = []
    for cut in cut_documents(placed, max_tokens=MAX_TOKENS, min_tokens=MIN_TOKENS, count=_weight):
        if len(cut.text) < MIN_CHARACTERS:
            continue
        parents = tuple(cut.tags["parents"])
        headings = "\n".join(dict.fromkeys(name for name in (cut.title, *cut.tags["headings"]) if name))
        group = cut.group or cut.origin.document or cut.origin.file
        clearance = Clearance.highest(shown for parent in parents for shown in clearances[parent])
        found.append(Passage(cut.text, cut.origin, group, parents, headings, clearance))
    return found


def _weight(text: str) -> int:
    """About what a text takes in tokens: a Han character one, a Latin letter 0.4 at most."""
    wide = len(_WIDE.findall(text))
    return wide + -(-(len(text) - wide) * 2 // 5)


class Library:
    """All passages, findable by what they speak of."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self.passages = passages
        self._posted: dict[str, array[int]] = defaultdict(lambda: array("I"))
        for number, passage in enumerate(passages):
            for feature in _features(f"{passage.headings}\n{passage.text}"):
                self._posted[feature].append(number)

    def nearest(self, question: str, num: int) -> list[Passage]:
        """The `num` passages that share most with the question, best first; fewer where nothing is shared."""
        scores: Counter[int] = Counter()
        for feature in sorted(_features(question)):
            posted = self._posted.get(feature)
            if posted is None:
                continue
            weight = math.log(1 + len(self.passages) / len(posted))
            for number in posted:
                scores[number] += weight  # type: ignore[assignment]
        ranked = sorted(scores, key=lambda number: (-scores[number], number))
        return [self.passages[number] for number in ranked[:num]]


def _features(text: str) -> set[str]:
    pairs = {run[index : index + 2] for run in _HAN_RUN.findall(text) for index in range(len(run) - 1)}
    return pairs | {word for word in content_of(text) if len(word) > 1}
