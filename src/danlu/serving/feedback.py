"""Feedback: what people thought of an answer, taken from whoever asked for it and from nobody else.

`POST /v1/feedback` {"id": "chatcmpl-…", "rating": "up" | "down", "corrected": "…", "comment": "…"}; the id is the
answer's own (also its header x-request-id). Words are kept only where this key's questions and answers are: without
them a correction belongs to no question, and what nobody can use should not lie around. The reply says what was kept.

`rows` makes training data of it: a correction is a preference pair and an example, a thumb alone a judged example.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from danlu.openai.refused import RefusedError
from danlu.serving.keys import Key, store_away
from danlu.serving.tally import Tally
from danlu.serving.usage import STORE_S

PATH = "/v1/feedback"
FOLDER = "feedback"
Rating = Literal["up", "down"]
MOST_CORRECTED, MOST_COMMENT = 64 * 2**10, 2000
"""Characters."""
MOST_REMEMBERED = 20_000
MOST_TIMES = 16
"""One answer may be judged anew so often, at one worker."""
LOOKS_S = (0.0, 0.4, 1.2)
"""When the store is asked for an answer that another worker gave: it learns of it within a second."""
_ID = re.compile(r"(?:chatcmpl|cmpl)-[A-Za-z0-9]{8,64}")
Owner = tuple[str, str, str]
"""(key's id, model, lens) of an answer."""


@dataclass(frozen=True, slots=True)
class Opinion:
    id: str
    time: float
    key: str
    model: str
    lens: str
    rating: Rating
    corrected: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """A question and its answer, as the audit keeps them: personal data masked."""

    messages: tuple[Mapping[str, Any], ...]
    answer: str
    tools: tuple[Mapping[str, Any], ...] = ()


class FeedbackDesk:
    """One a worker. `owner` asks the store who got an answer (in a thread); `mask` takes personal data out of words;
    `keeps_words`: whether the server keeps bodies at all; `away`: what the store raises when it is not there."""

    def __init__(
        self,
        folder: Path,
        worker: str,
        *,
        owner: Callable[[str], Owner | None],
        mask: Callable[[str], str],
        keeps_words: bool,
        away: tuple[type[Exception], ...] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(folder / f"{worker}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._owner, self._mask, self._keeps_words = owner, mask, keeps_words
        self._away: tuple[type[Exception], ...] = (OSError, *away)
        self._answered: OrderedDict[str, Owner] = OrderedDict()
        self._times: Counter[str] = Counter()

    def ended(self, tally: Tally) -> None:
        """Remember whose answer this was: most opinions come while it is on the screen."""
        if tally.lens and tally.status == 200:
            self._answered[tally.id] = (tally.key, tally.model, tally.lens)
            if len(self._answered) > MOST_REMEMBERED:
                gone, _ = self._answered.popitem(last=False)
                self._times.pop(gone, None)

    async def door(self, key: Key, body: bytes) -> bytes:
        """The gateway's door: JSON in, JSON out. RefusedError says what was wrong; an answer that somebody else got is
        as unknown as one that nobody did."""
        asked = _checked(body)
        id = asked["id"]
        owner = await self._owner_of(id)
        if owner is None or owner[0] != key.id:
            raise RefusedError("serve.feedback_unknown", status=404, param="id")
        if self._times[id] >= MOST_TIMES:
            raise RefusedError("serve.feedback_often", status=429, most=MOST_TIMES)
        self._times[id] += 1
        words = {name: asked[name] for name in ("corrected", "comment") if asked.get(name)}
        keeps = self._keeps_words and key.keeps_bodies
        # in a thread: detectors take a second to load, and nobody else's stream shall wait for them
        kept = {name: await asyncio.to_thread(self._mask, text) for name, text in words.items()} if keeps else {}
        opinion = Opinion(id, round(time.time(), 3), *owner, rating=asked["rating"], **kept)
        os.write(self._file, orjson.dumps(opinion, option=orjson.OPT_APPEND_NEWLINE))
        reply = {"id": id, "object": "feedback", "rating": opinion.rating, "stored": ["rating", *kept], "trains": keeps}
        if not keeps:
            reply["note"] = (
                "Questions and answers of this key are not kept, so this trains nothing: only the rating was."
            )
        return orjson.dumps(reply)

    def close(self) -> None:
        os.close(self._file)

    async def _owner_of(self, id: str) -> Owner | None:
        known = self._answered.get(id)
        began = time.monotonic()
        for look_s in () if known else LOOKS_S:
            await asyncio.sleep(max(0.0, began + look_s - time.monotonic()))
            try:
                async with asyncio.timeout(STORE_S):
                    known = await asyncio.to_thread(self._owner, id)
            except self._away:  # a timeout is an OSError
                raise store_away() from None
            if known:
                break
        return known


def _checked(body: bytes) -> dict[str, Any]:
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise RefusedError("serve.feedback_shape", given="no JSON") from None
    if not isinstance(asked, dict):
        raise RefusedError("serve.feedback_shape", given=type(asked).__name__)
    if unknown := sorted(map(str, asked.keys() - {"id", "rating", "corrected", "comment"})):
        raise RefusedError("serve.feedback_shape", param=unknown[0][:64], given=unknown[0][:64])
    if not isinstance(asked.get("id"), str) or not _ID.fullmatch(asked["id"]):
        raise RefusedError("serve.feedback_unknown", status=404, param="id")
    if asked.get("rating") not in ("up", "down"):
        raise RefusedError("serve.feedback_rating", param="rating")
    for name, most in (("corrected", MOST_CORRECTED), ("comment", MOST_COMMENT)):
        said = asked.get(name)
        if said is not None and (not isinstance(said, str) or len(said) > most):
            raise RefusedError("serve.feedback_words", param=name, most=most)
        if isinstance(said, str):
            try:
                said.encode()
            except UnicodeEncodeError:
                raise RefusedError("serve.feedback_words", param=name, most=most) from None
    return asked


# ---- afterwards


def read_opinions(folder: Path) -> list[Opinion]:
    """The last word on each answer, in the order given; a line torn by a crash is none."""
    newest: dict[str, Opinion] = {}
    for path in sorted(folder.glob("*.jsonl")):
        *lines, _torn = path.read_bytes().split(b"\n")
        for line in lines:
            try:
                opinion = Opinion(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError):
                continue
            if opinion.id not in newest or newest[opinion.id].time <= opinion.time:
                newest[opinion.id] = opinion
    return sorted(newest.values(), key=lambda opinion: opinion.time)


@dataclass(frozen=True, slots=True)
class Row:
    """One row for a file: `pairs` (preference), `samples` (conversation) or `judged` (a thumb alone)."""

    file: Literal["pairs", "samples", "judged"]
    value: dict[str, Any]


def rows(opinions: Sequence[Opinion], kept: Callable[[str], Kept | None], fates: Counter[str]) -> Iterator[Row]:
    """Training rows in forms that danlu reads. `fates` counts every opinion: what became of it, or why nothing did."""
    for opinion in opinions:
        found = kept(opinion.id)
        if found is None or not found.messages or not found.answer.strip():
            fates["not_kept"] += 1
            continue
        prompt = [dict(turn) for turn in found.messages]
        told = {"source": f"feedback:{opinion.id}", "lens": opinion.lens}
        extra = {"tools": [dict(tool) for tool in found.tools]} if found.tools else {}
        corrected = opinion.corrected.strip()
        if corrected and corrected != found.answer.strip():
            fates["corrected"] += 1
            better, worse = _answer(corrected), _answer(found.answer)
            yield Row("pairs", {"conversations": prompt, "chosen": [better], "rejected": [worse], **extra, **told})
            yield Row("samples", {"messages": [*prompt, better], **extra, **told})
            continue
        fates[opinion.rating] += 1
        turns = [*prompt, _answer(found.answer)]
        yield Row("judged", {"messages": turns, "label": opinion.rating == "up", **extra, **told})
        if opinion.rating == "up":
            yield Row("samples", {"messages": turns, **extra, **told})


def summary(opinions: Sequence[Opinion]) -> dict[str, dict[str, int]]:
    """Thumbs by lens."""
    by_lens: dict[str, dict[str, int]] = {}
    for opinion in opinions:
        row = by_lens.setdefault(opinion.lens, {"up": 0, "down": 0, "corrected": 0})
        row[opinion.rating] += 1
        row["corrected"] += bool(opinion.corrected)
    return by_lens


def to_json(opinion: Opinion) -> dict[str, Any]:
    return asdict(opinion)


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
