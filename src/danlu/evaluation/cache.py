"""Answers and scores kept on disk, so that an evaluation that was stopped goes on where it stood.

One JSON line per answer, keyed by the digest of (engine digest, sampling, rendered prompt); a line torn by a crash is
passed by. What an engine gives while it works is written at once, not when all is done. `CachedEngine` is itself an
Engine, and counts what was asked and what it took. Failed answers are not kept.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from danlu.core.files import dump_json, sha256_bytes, sha256_json
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Engine, Flowing, Question, Rendering, Sampling, Score
from danlu.evaluation.usage import Usage

CHUNK = 64
"""So many are scored, or asked of an engine that tells only at the end, between two writes."""
WRITE_EVERY_S = 0.5
"""A crash loses no more than what came within so long."""


class CachedEngine:
    """An engine whose answers are remembered in `folder` (None: only for this object's life)."""

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self.engine, self.name, self.digest = engine, engine.name, engine.digest
        self._identity = sha256_json([engine.digest or engine.name])  # a remote engine may know no digest
        self._path = None if folder is None else folder / f"{self._identity[:16]}.jsonl"
        self._known: dict[str, Any] = dict(_read(self._path)) if self._path is not None else {}
        self.num_asked = 0
        """How many answers and scores had to be computed, the remembered ones left out."""
        self.usage = Usage()

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        keys = [self._key("answer", asdict(sampling), self._prompt(question)) for question in questions]
        todo = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._known}
        if watch is not None and len(keys) > len(todo):
            watch(len(keys) - len(todo))
        failed: dict[str, Answer] = {}
        fresh: dict[str, Any] = {}
        told = time.monotonic()
        try:
            for key, answer in self._asked(todo, sampling, watch):
                self.num_asked += 1
                if answer.finish == "error":
                    failed[key] = answer
                    continue
                fresh[key] = asdict(answer)
                if time.monotonic() - told > WRITE_EVERY_S:
                    self._keep(fresh)
                    fresh, told = {}, time.monotonic()
        finally:  # Ctrl-C: what was answered is paid for
            self._keep(fresh)
        answers = [failed[key] if key in failed else _answer(self._known[key]) for key in keys]
        self.usage.count(answers, num_asked=len(todo))
        return answers

    def _asked(
        self, todo: dict[str, Question], sampling: Sampling, watch: Callable[[int], None] | None
    ) -> Iterator[tuple[str, Answer]]:
        """Answers as they come, where the engine gives them so, else a chunk at a time."""
        if isinstance(self.engine, Flowing):
            keys = list(todo)
            for number, answer in self.engine.answers(list(todo.values()), sampling):
                if watch is not None:
                    watch(1)
                yield keys[number], answer
            return
        for chunk in _chunks(list(todo)):
            answers = self.engine.generate([todo[key] for key in chunk], sampling, watch=watch)
            yield from zip(chunk, answers, strict=True)

    def _prompt(self, question: Question) -> Any:
        """What the engine really reads: another template or system prompt is another question."""
        if isinstance(self.engine, Rendering):
            return sha256_json(self.engine.prompt_ids(question))
        return _spoken(question)

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        return self.engine.stream(question, sampling)

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        keys = [self._key("score", sha256_bytes(s.ids.tobytes()), sha256_bytes(s.weights.tobytes())) for s in samples]
        todo = {key: sample for key, sample in zip(keys, samples, strict=True) if key not in self._known}
        for chunk in _chunks(list(todo)):
            scores = self.engine.score([todo[key] for key in chunk])
            self._keep({key: list(score.log_probs) for key, score in zip(chunk, scores, strict=True)})
            self.num_asked += len(chunk)
        return [_score(self._known[key]) for key in keys]

    def _key(self, *parts: Any) -> str:
        return sha256_json([self._identity, *parts])

    def _keep(self, fresh: dict[str, Any]) -> None:
        self._known |= fresh
        if self._path is None or not fresh:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = b"".join(dump_json({"key": key, "value": value}, indent=False) + b"\n" for key, value in fresh.items())
        with self._path.open("ab") as file:
            # A line torn by a crash must not swallow the next one.
            file.write((b"\n" if file.tell() else b"") + lines)
            file.flush()
            os.fsync(file.fileno())


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue  # empty, or torn by a crash
        if isinstance(entry, dict) and "key" in entry and "value" in entry:
            yield entry["key"], entry["value"]


def _spoken(question: Question) -> Any:
    """The question as JSON; asdict would copy tool schemas deeply for nothing."""
    spoken: list[Any] = [[asdict(turn) for turn in question.messages], list(question.tools)]
    return spoken if question.schema is None else [*spoken, question.schema]


def _answer(kept: dict[str, Any]) -> Answer:
    return Answer(
        text=kept["text"], finish=kept["finish"], num_prompt_tokens=kept["num_prompt_tokens"],
        num_tokens=kept["num_tokens"], ids=tuple(kept["ids"]), seconds=kept["seconds"], error=kept["error"],
    )  # fmt: skip


def _score(kept: list[float | None]) -> Score:
    """JSON has no infinity: a token that cannot occur was written as null."""
    return Score(tuple(-math.inf if value is None else value for value in kept))


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
