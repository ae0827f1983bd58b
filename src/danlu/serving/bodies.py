"""Bodies: questions and answers of keys that asked for it (`--keep-bodies`), kept with personal data masked.

Off by default. What is kept goes through the detectors of the data furnace, question and answer alike, before it
touches a disk: `<MOBILE>` stands where a number was. Detectors are no proof, so the file is its owner's alone (0600)
and is deleted after some days. The journal holds the digest of each line, by which an altered body is told.

What is forwarded to an engine is never changed here. Masking a client's question on its way would change its answer,
and what a detector overlooks would go through all the same: that promise could not be kept.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.data.privacy.fakes import type_token
from danlu.data.privacy.scan import Scanner
from danlu.data.privacy.structured import kept_valid

FOLDER = "bodies"
DAYS = 30
_MOST_WAITING = 1000


@dataclass(frozen=True, slots=True)
class Body:
    """`question` is the request as it was forwarded, `answer` the text of what came back."""

    id: str
    time: float
    key: str
    model: str
    lens: str
    question: dict[str, Any]
    answer: str


class Mask:
    """`Mask()(text)`: personal data replaced by the name of its kind. Loads the detectors when first asked."""

    def __init__(self) -> None:
        self._scanner: Scanner | None = None
        self._turn = threading.Lock()

    def __call__(self, text: str) -> str:
        with self._turn:
            if self._scanner is None:
                self._scanner = Scanner()
            (found,) = self._scanner.scan([text])
        return kept_valid(text, [(one.start, one.end, type_token(one.kind, text)) for one in found])

    def all_of(self, value: Any) -> Any:
        """The same for every text in a JSON value; names of members stay."""
        match value:
            case str():
                return self(value)
            case dict():
                return {name: self.all_of(inner) for name, inner in value.items()}
            case list() | tuple():
                return [self.all_of(inner) for inner in value]
            case _:
                return value


class Bodies:
    """A worker's file of a day. `keep` returns at once; a thread masks and writes. `noted` is the journal's."""

    def __init__(
        self, home: Path, worker: str, *, days: int = DAYS, noted: Callable[[str, str], None] | None = None
    ) -> None:
        self._folder, self._worker, self._days = home / FOLDER, worker, days
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        self._mask, self._noted = Mask(), noted
        self._waiting: queue.Queue[Body | None] = queue.Queue(_MOST_WAITING)
        self.num_dropped = 0
        """Those that came faster than they could be masked, or found no room on the disk."""
        self._day = ""
        self._thread = threading.Thread(target=self._write_all, name="bodies", daemon=True)
        self._thread.start()

    def keep(self, body: Body) -> None:
        try:
            self._waiting.put_nowait(body)
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
        while (body := self._waiting.get()) is not None:
            try:
                self._write(body)
            except OSError:
                self.num_dropped += 1

    def _write(self, body: Body) -> None:
        day = datetime.datetime.fromtimestamp(body.time, datetime.UTC)
        if self._day != f"{day:%Y-%m-%d}":
            self._day = f"{day:%Y-%m-%d}"
            self.forget_old(day.date())
        line = orjson.dumps({
            "id": body.id, "time": body.time, "key": body.key, "model": body.model, "lens": body.lens,
            "question": self._mask.all_of(body.question), "answer": self._mask(body.answer),
        })  # fmt: skip
        path = self._folder / f"{self._day}-{self._worker}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(line + b"\n")
        if self._noted is not None:
            self._noted(body.id, hashlib.sha256(line).hexdigest())
