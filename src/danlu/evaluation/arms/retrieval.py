"""Finding passages for a question: BM25, where wished beside vectors from an endpoint, and a reranker behind it.

Two rankings become one by reciprocal rank (Cormack, Clarke & Büttcher 2009). Vectors of passages are kept on disk by
content, so documents are sent once.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from danlu.core.errors import EvaluationError
from danlu.core.files import dump_json, sha256_json, write_bytes
from danlu.engines.remote import Endpoint
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.evaluation.arms.bm25 import BM25, words
from danlu.openai.address import Address

POOL = 50
"""Passages that enter fusion and reranking."""
RANK_DAMPING = 60.0
SENT_TOGETHER = 32
NUM_TRIES = 4
Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Passage:
    """What can be found: a text, the document it stands in, the headings above it."""

    text: str
    document: str = ""
    headings: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Headings belong to what is searched and read: a table's row says little without its title."""
        first = self.text[:200]
        head = " > ".join(heading for heading in self.headings if heading not in first)
        return f"{head}\n{self.text}" if head else self.text


@dataclass(frozen=True, slots=True)
class Found:
    """Passages for one question, best first, and how sure the word search is of the first, in [0, 1]."""

    passages: tuple[Passage, ...]
    certainty: float
    seconds: float


class Retriever:
    """`embedder` and `reranker` are optional; without them nothing leaves this machine."""

    def __init__(
        self, passages: Sequence[Passage], *, embedder: Embedder | None = None, reranker: Reranker | None = None
    ) -> None:
        if not passages:
            raise EvaluationError("arms.no_passages")
        began = time.perf_counter()
        self.passages, self.embedder, self.reranker = tuple(passages), embedder, reranker
        self.index = BM25([words(passage.shown) for passage in passages])
        self.vectors = embedder.vectors([passage.shown for passage in passages]) if embedder else None
        self.build_s = time.perf_counter() - began

    def find(self, question: str, num: int) -> Found:
        began = time.perf_counter()
        query = words(question)
        by_words = self.index.search(query, POOL)
        certainty = self.index.certainty(query, by_words[0][1]) if by_words else 0.0
        order = [place for place, _ in by_words]
        if self.embedder is not None and self.vectors is not None:
            near_N = self.vectors @ self.embedder.vectors([question])[0]
            order = fused(order, np.argsort(-near_N, kind="stable")[:POOL].tolist())
        if self.reranker is not None and order:
            best = self.reranker.order(question, [self.passages[place].shown for place in order[:POOL]])
            order = [order[place] for place in best]
        chosen = tuple(self.passages[place] for place in order[:num])
        return Found(chosen, certainty, time.perf_counter() - began)


def fused(*rankings: Sequence[int]) -> list[int]:
    """One ranking of several: Σ 1 / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, place in enumerate(ranking, start=1):
            scores[place] = scores.get(place, 0.0) + 1 / (RANK_DAMPING + rank)
    return sorted(scores, key=lambda place: (-scores[place], place))


class Embedder:
    """`POST /embeddings` of an OpenAI-compatible server."""

    def __init__(self, endpoint: Endpoint, folder: Path | None = None) -> None:
        self.endpoint, self.folder, self._wire = endpoint, folder, _wire(endpoint)
        self._sizes: set[int] = set()

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, one a text."""
        found: dict[int, list[float]] = {}
        for place, text in enumerate(texts):
            if (known := self._known(text)) is not None:
                found[place] = known
        todo = [place for place in range(len(texts)) if place not in found]
        for start in range(0, len(todo), SENT_TOGETHER):
            some = todo[start : start + SENT_TOGETHER]
            body = {"model": self.endpoint.model, "input": [texts[place] for place in some]}
            reply = _post(self._wire, "/embeddings", body)
            try:
                rows = sorted(reply["data"], key=lambda row: row["index"])
                fresh = [[float(number) for number in row["embedding"]] for row in rows]
                is_whole = [row["index"] for row in rows] == list(range(len(some)))
            except (KeyError, TypeError, ValueError) as fault:
                raise self._bad_reply() from fault
            if not is_whole or not all(math.isfinite(number) for vector in fresh for number in vector):
                raise self._bad_reply()
            for place, vector in zip(some, fresh, strict=True):
                found[place] = vector
                self._keep(texts[place], vector)
        self._sizes |= {len(vector) for vector in found.values()}
        if len(self._sizes) > 1 or 0 in self._sizes:  # the server changed its model under the same name
            raise self._bad_reply()
        vectors_ND = np.asarray([found[place] for place in range(len(texts))], dtype=np.float64)
        norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return np.asarray(vectors_ND / np.maximum(norms_N1, 1e-12))

    def _bad_reply(self) -> EvaluationError:
        return EvaluationError("arms.bad_reply", where=str(self._wire.address), path="/embeddings")

    def _place(self, text: str) -> Path | None:
        digest = sha256_json([str(self._wire.address), self.endpoint.model, text])
        return self.folder / digest[:2] / f"{digest}.json" if self.folder else None

    def _known(self, text: str) -> list[float] | None:
        place = self._place(text)
        if place is None:
            return None
        with contextlib.suppress(OSError, orjson.JSONDecodeError):
            value = orjson.loads(place.read_bytes())
            is_vector = isinstance(value, list) and all(isinstance(number, int | float) for number in value)
            return value if is_vector and value else None
        return None

    def _keep(self, text: str, vector: list[float]) -> None:
        if place := self._place(text):
            write_bytes(place, dump_json(vector, indent=False))


class Reranker:
    """`POST /rerank` as Jina, Cohere, vLLM and SiliconFlow speak it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self._wire = endpoint, _wire(endpoint)

    def order(self, question: str, texts: Sequence[str]) -> list[int]:
        """Places of the texts, most relevant first; those the server leaves out stay behind in their order."""
        body = {"model": self.endpoint.model, "query": question, "documents": list(texts), "top_n": len(texts)}
        reply = _post(self._wire, "/rerank", body)
        try:
            scored = [(float(row["relevance_score"]), int(row["index"])) for row in reply["results"]]
        except (KeyError, TypeError, ValueError) as fault:
            raise EvaluationError("arms.bad_reply", where=str(self._wire.address), path="/rerank") from fault
        if any(math.isnan(score) for score, _ in scored):
            raise EvaluationError("arms.bad_reply", where=str(self._wire.address), path="/rerank")
        order = [place for _, place in sorted(scored, key=lambda row: (-row[0], row[1])) if 0 <= place < len(texts)]
        return list(dict.fromkeys([*order, *range(len(texts))]))


def _wire(endpoint: Endpoint) -> Wire:
    address = Address.parse(endpoint.url)
    return Wire(address, key=endpoint.read_key(), timeout_s=endpoint.timeout_s, ca_file=endpoint.ca_file)


def _post(wire: Wire, path: str, body: dict[str, Any]) -> Any:
    """The reply, tried again while that may help."""
    content = dump_json(body, indent=False)
    for attempt in range(NUM_TRIES):
        try:
            return orjson.loads(wire.post(path, content))
        except TransientError as fault:
            if attempt + 1 == NUM_TRIES:
                raise EvaluationError("arms.no_reply", where=str(wire.address), path=path, said=str(fault)) from fault
            time.sleep(min(30.0, fault.retry_after_s if fault.retry_after_s is not None else 0.2 * 2**attempt))
        except (DeclinedError, orjson.JSONDecodeError) as fault:
            raise EvaluationError("arms.no_reply", where=str(wire.address), path=path, said=str(fault)[:200]) from fault
    raise AssertionError("the last try returns or raises")
