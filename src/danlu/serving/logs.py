"""One line of JSON for each request and each event: who (the key's id), what, how it ended and how long it took.

Never a question, an answer, a credential or a header: what is not in `_FIELDS` cannot get in. A line is one line,
whatever a client wrote into a model's name.

Written by a thread of its own, so that no answer waits for a disk; when the disk cannot keep up, lines are dropped and
counted, never requests. The thread looks twenty times a second instead of being woken: to wake it for each line costs a
request more than the line does. Files rotate by size.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import orjson

from danlu.serving.tally import Tally

_FIELDS = (
    "id", "path", "kind", "key", "model", "lens", "replica", "status", "code", "outcome", "is_stream", "prompt_tokens",
    "answer_tokens", "num_tries", "before_s", "first_s", "whole_s",
)  # fmt: skip
MOST_TEXT = 1000
"""Characters of any value: a model's name may be as long as a body."""
MOST_LINES = 20_000
"""That wait to be written; beyond it lines are dropped."""
MOST_BYTES = 64 * 2**20
NUM_FILES = 4
EVERY_S = 0.05


class RequestLog:
    """`RequestLog(folder / "worker-0.jsonl")`; a file of its own for each worker."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self.path, self.most_bytes = path, most_bytes
        self.num_dropped = 0
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = _open(path)
        self._size = os.fstat(self._file).st_size
        self._lines: deque[tuple[float, Tally | dict[str, Any]]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def ended(self, tally: Tally) -> None:
        """A request's line."""
        self._put((time.time(), tally))

    def event(self, event: str, **facts: Any) -> None:
        """`started`, `stopping` and the like."""
        self._put((time.time(), {"event": event, **facts}))

    def close(self) -> None:
        """All that waits is written first."""
        self._stop.set()
        self._thread.join(10.0)

    def _put(self, line: tuple[float, Tally | dict[str, Any]]) -> None:
        if len(self._lines) < MOST_LINES:
            self._lines.append(line)
        else:
            self.num_dropped += 1

    def _write_all(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(EVERY_S)
            self._write_waiting()
        os.close(self._file)

    def _write_waiting(self) -> None:
        while self._lines:
            lines = [line_of(*self._lines.popleft()) for _ in range(min(512, len(self._lines)))]
            if self.num_dropped:
                dropped, self.num_dropped = self.num_dropped, 0
                lines.append(line_of(time.time(), {"event": "dropped", "lines": dropped}))
            try:
                self._append(b"".join(lines))
            except OSError:  # a full disk: requests are still answered
                self.num_dropped += len(lines)

    def _append(self, content: bytes) -> None:
        if self._size + len(content) > self.most_bytes:
            for number in range(NUM_FILES - 1, 0, -1):
                older = self.path.with_name(f"{self.path.name}.{number}")
                if older.exists():
                    older.replace(self.path.with_name(f"{self.path.name}.{number + 1}"))
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            os.close(self._file)
            self._file, self._size = _open(self.path), 0
        self._size += os.write(self._file, content)


def line_of(when: float, what: Tally | dict[str, Any]) -> bytes:
    """Its JSON, with a line end that is the only one."""
    facts = {name: getattr(what, name) for name in _FIELDS} if isinstance(what, Tally) else what
    if isinstance(what, Tally) and not what.lens and what.status < 400:
        facts["outcome"] = ""  # a list of models, feedback: nothing was asked of an engine, and nothing refused
    clean = {name: _short(value) for name, value in facts.items()}
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(when))}.{int(when * 1000) % 1000:03d}Z"
    return orjson.dumps({"time": stamp, **clean}, default=str, option=orjson.OPT_APPEND_NEWLINE)


def _short(value: Any) -> Any:
    """JSON escapes control characters; line ends of Unicode, which some readers split at, are told apart here."""
    if isinstance(value, float):
        return round(value, 6)
    if not isinstance(value, str):
        return value
    text = value[:MOST_TEXT]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text).encode("utf-8", "replace").decode()


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
