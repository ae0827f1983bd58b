"""Bodies: questions and answers of keys that asked for it (`--keep-bodies`), kept with personal data masked.

Off by default. What is kept goes through the detectors of the data furnace, question and answer alike, before it
touches a disk: `<MOBILE>` stands where a number was. Detectors are no proof, so the file is its owner's alone (0600)
and is deleted after some days. The journal holds the digest of each line, by which an altered body is told.

What is forwarded is not changed here: `redact.py` does that, for those who want it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.openai.sse import BrokenError, decoded, events
from danlu.serving.keys import Key
from danlu.serving.mask import Mask

FOLDER = "bodies"
DAYS = 30
_MOST_WAITING = 1000
_MOST_CALLS = 127


@dataclass(frozen=True, slots=True)
class Body:
    """A question and its answers, masked. `question` is the client's request; `answers` one message a choice."""

    id: str
    time: float
    key: str
    model: str
    lens: str
    question: dict[str, Any]
    answers: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Raw:
    id: str
    time: float
    key: str
    lens: str
    question: bytes
    answer: bytes
    is_stream: bool


class Bodies:
    """A worker's file of a day: the gateway's `Keeper`. A thread masks and writes. `noted(id, digest)`: the journal's
    (`lambda id, digest: journal.noted("kept", id=id, sha256=digest)`)."""

    def __init__(
        self, home: Path, worker: str, *, days: int = DAYS, noted: Callable[[str, str], None] | None = None
    ) -> None:
        self._folder, self._worker, self._days = home / FOLDER, worker, days
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._mask, self._noted = Mask(), noted
        self._waiting: queue.Queue[_Raw | None] = queue.Queue(_MOST_WAITING)
        self.num_dropped = 0
        """Those that came faster than they could be masked, or found no room on the disk."""
        self._day = ""
        self._thread = threading.Thread(target=self._write_all, name="bodies", daemon=True)
        self._thread.start()

    def keep(self, id: str, key: Key, lens: str, question: bytes, answer: bytes, is_stream: bool) -> None:
        """Both as they went over the wire."""
        try:
            self._waiting.put_nowait(_Raw(id, time.time(), key.id, lens, question, answer, is_stream))
        except queue.Full:
            self.num_dropped += 1

    def close(self) -> None:
        """Write what waits, then end."""
        self._waiting.put(None)
        self._thread.join()

    def forget_old(self, today: datetime.date) -> None:
        """Delete the files of days that are too long ago."""
        oldest = f"{today - datetime.timedelta(days=self._days):%Y-%m-%d}"
        for path in self._folder.glob("*.jsonl"):
            if path.name[:10] < oldest:
                path.unlink(missing_ok=True)  # other workers look too

    def _write_all(self) -> None:
        while (raw := self._waiting.get()) is not None:
            try:
                self._write(raw)
            except (
                OSError,
                ValueError,
                TypeError,
                KeyError,
                AttributeError,
                RecursionError,
            ):  # an engine says anything
                self.num_dropped += 1

    def _write(self, raw: _Raw) -> None:
        day = datetime.datetime.fromtimestamp(raw.time, datetime.UTC)
        if self._day != f"{day:%Y-%m-%d}":
            self._day = f"{day:%Y-%m-%d}"
            self.forget_old(day.date())
        question = orjson.loads(raw.question)
        answers = streamed(raw.answer) if raw.is_stream else answered(raw.answer)
        line = orjson.dumps({
            "id": raw.id, "time": raw.time, "key": raw.key, "model": question.get("model", ""), "lens": raw.lens,
            "question": self._mask.all_of(question), "answers": self._mask.all_of(answers),
        })  # fmt: skip
        path = self._folder / f"{self._day}-{self._worker}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line + b"\n")
        if self._noted is not None:
            self._noted(raw.id, hashlib.sha256(line).hexdigest())


def kept_bodies(home: Path) -> Iterator[Body]:
    """All that is kept, days in order; a line torn by a crash is left out."""
    for path in sorted((home / FOLDER).glob("*.jsonl")):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError):
                yield Body(**orjson.loads(line))


def answered(answer: bytes) -> list[dict[str, Any]]:
    """The messages of a whole reply; a completion's text as `content`."""
    choices = orjson.loads(answer).get("choices", ()) if answer else ()
    return [choice["message"] if "message" in choice else {"content": choice.get("text", "")} for choice in choices]


def streamed(answer: bytes) -> list[dict[str, Any]]:
    """The same of a stream of events, its pieces put together; of one that was cut off, what had come."""
    found: dict[int, dict[str, Any]] = {}
    for event in events(answer):
        try:
            value = decoded(event)
        except BrokenError:
            break
        for choice in (value or {}).get("choices", ()):
            message = found.setdefault(choice.get("index", 0), {"content": ""})
            piece = choice.get("delta", {})
            message["content"] += piece.get("content") or choice.get("text") or ""
            for call in piece.get("tool_calls") or ():
                _add_call(message.setdefault("tool_calls", []), call)
    return [found[index] for index in sorted(found)]


def _add_call(calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
    index = piece.get("index", 0)
    while len(calls) <= min(index, _MOST_CALLS):
        calls.append({"function": {"name": "", "arguments": ""}})
    told = piece.get("function", {})
    for name in ("name", "arguments"):
        calls[min(index, _MOST_CALLS)]["function"][name] += told.get(name) or ""
