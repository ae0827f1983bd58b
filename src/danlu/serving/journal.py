"""What a worker writes down about each request: one line before the first byte of an answer, one after the last.

Each line is hashed together with the one before (as `run/audit.py` does), a file a worker and start. A line is written
with one system call, so a killed process loses nothing that was answered; what the machine loses is bounded by the
`sync` interval. Usage is folded from these lines and from nothing else.

A line is a JSON object whose last member is `hash`: SHA-256 over the hash of the line before and the bytes of the
object without that member. Line 0 says who writes, and which line of the worker's file before it follows; so the chain
goes on over restarts and over files that grew too large or too old. While its writer lives it holds the file's lock,
by which a reader knows that what is still open there will never be settled (usage.py).
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import re
import secrets
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from danlu.core.files import sync_folder

Outcome = Literal["done", "aborted", "failed", "refused", "lost"]
FOLDER = "journal"
SYNC_S = 0.05
MOST_BYTES = 256 << 20
START = "0" * 64
"""What stands for the hash before a worker's first line."""
_HASH_BYTES = len(b',"hash":""}') + 64
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known before the first byte."""

    id: str
    time: float
    key: str
    """Its id."""
    model: str
    lens: str
    """The immutable name that answers."""
    replica: str
    reserved_tokens: int
    kind: str


@dataclass(frozen=True, slots=True)
class Closing:
    """What is known after the last byte. `is_counted` is False where the engine gave no usage and tokens were counted
    from its events."""

    id: str
    time: float
    outcome: Outcome
    status: int
    prompt_tokens: int
    answer_tokens: int
    is_counted: bool
    first_s: float
    whole_s: float
    error: str = ""


class Journal(Protocol):
    def opened(self, opening: Opening) -> None:
        """OSError when it cannot be written (a full disk): then nothing may be answered."""
        ...

    def closed(self, closing: Closing) -> None:
        """Never fails: what cannot be written now is owed, and written before the next opening."""
        ...

    def noted(self, what: str, **facts: str | int | float) -> None:
        """A line of another kind. OSError as `opened`."""
        ...


class FileJournal:
    """One worker's journal. `close` at the end."""

    def __init__(self, folder: Path, worker: str, *, sync_s: float = SYNC_S, most_bytes: int = MOST_BYTES) -> None:
        assert re.fullmatch(r"[\w.]{1,64}", worker, re.ASCII), "a worker's name is part of a file's"
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder, self._worker, self._most = folder, worker, most_bytes
        self._alone = threading.RLock()
        self._turn = threading.Lock()
        self._files: list[_File] = []
        """The one that is written, last, and those before it whose requests are not all closed."""
        self._places: dict[str, tuple[_File, int]] = {}
        self._owed: list[Closing] = []
        self.is_failing = False
        before = newest(folder, worker)
        self._begin(None if before is None else (before.stem, *tail(before)))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sync, args=(sync_s,), name="journal", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """Of the file that is written now."""
        return self._files[-1].name

    @property
    def head(self) -> tuple[int, str]:
        return self._files[-1].n, self._files[-1].head

    @property
    def num_open(self) -> int:
        return len(self._places)

    def opened(self, opening: Opening) -> None:
        with self._alone:
            self._pay()
            self._turn_over(opening.time)
            file = self._files[-1]
            n = file.write({
                "what": "opened", "id": opening.id, "time": opening.time, "key": opening.key, "model": opening.model,
                "lens": opening.lens, "replica": opening.replica, "reserved_tokens": opening.reserved_tokens,
                "kind": opening.kind,
            })  # fmt: skip
            file.num_open += 1
            self._places[opening.id] = file, n

    def closed(self, closing: Closing) -> None:
        with self._alone:
            if closing.id not in self._places:
                return  # closed before: what is settled stays
            try:
                self._settle(closing)
            except OSError:
                self.is_failing = True
                self._owed.append(closing)

    def noted(self, what: str, **facts: str | int | float) -> None:
        """A line that is neither: a body that was kept, a chain's other events. OSError as `opened`."""
        with self._alone:
            self._files[-1].write({"what": what, **facts})

    def close(self) -> None:
        """End the file: what is open now is settled as lost by whoever reads it."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # a full disk: the reader finds the same by the lock
            self._pay()
            self._files[-1].write({"what": "ended"})
        for file in self._files:
            file.close()

    def _settle(self, closing: Closing) -> None:
        file, n = self._places[closing.id]
        written = self._files[-1]
        line: dict[str, Any] = {
            "what": "closed", "of": n, "time": closing.time, "outcome": closing.outcome, "status": closing.status,
            "prompt_tokens": closing.prompt_tokens, "answer_tokens": closing.answer_tokens,
            "is_counted": closing.is_counted, "first_s": closing.first_s, "whole_s": closing.whole_s,
        }  # fmt: skip
        if closing.error:
            line["error"] = closing.error
        if file is not written:
            line["in"] = file.name
        written.write(line)
        del self._places[closing.id]
        file.num_open -= 1
        if file is not written and not file.num_open:
            with self._turn:
                self._files.remove(file)
            file.close()

    def _pay(self) -> None:
        while self._owed:
            self._settle(self._owed[0])
            del self._owed[0]
        self.is_failing = False

    def _turn_over(self, now: float) -> None:
        """A new file when this one is large, or of another day (UTC)."""
        file = self._files[-1]
        if file.size < self._most and now < file.until:
            return
        file.write({"what": "turned"})
        self._begin((file.name, file.n, file.head))
        if not file.num_open:
            with self._turn:
                self._files.remove(file)
            file.close()

    def _begin(self, before: tuple[str, int, str] | None) -> None:
        now = datetime.datetime.now(datetime.UTC)
        name = f"{self._worker}-{now:%Y%m%dT%H%M%S}{now.microsecond:06d}{secrets.token_hex(2)}"
        file = _File(self._folder / f"{name}.jsonl", now)
        file.write({
            "what": "began", "worker": self._worker, "host": socket.gethostname(), "pid": os.getpid(),
            "time": now.timestamp(), "after": list(before) if before else None,
        })  # fmt: skip
        sync_folder(self._folder)
        with self._turn:
            self._files.append(file)

    def _sync(self, every_s: float) -> None:
        while not self._stop.wait(every_s):
            with self._turn:
                files = list(self._files)
            for file in files:
                file.sync()


class _File:
    """One file of a chain, its writer's side."""

    def __init__(self, path: Path, now: datetime.datetime) -> None:
        self.name = path.stem
        self.n, self.head, self.size, self.num_open = -1, START, 0, 0
        self.until = (now.replace(hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(days=1)).timestamp()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._turn = threading.Lock()
        self._is_dirty = self._is_closed = False
        hold(self._fd)

    def write(self, line: dict[str, Any]) -> int:
        """Its number. Where the disk takes a part only, that part is taken back, and OSError says so."""
        n = self.n + 1
        body = orjson.dumps({"n": n, **line})
        head = chained(self.head, body)
        whole = b'%b,"hash":"%b"}\n' % (body[:-1], head.encode())
        written = os.write(self._fd, whole)
        if written < len(whole):
            os.ftruncate(self._fd, self.size)
            raise OSError(28, os.strerror(28), self.name)  # ENOSPC
        self.n, self.head, self.size = n, head, self.size + written
        self._is_dirty = True
        return n

    def sync(self) -> None:
        if not self._is_dirty:
            return
        with self._turn:
            if not self._is_closed:
                self._is_dirty = False
                os.fsync(self._fd)

    def close(self) -> None:
        self.sync()
        with self._turn:
            self._is_closed = True
            os.close(self._fd)


def chained(head: str, body: bytes) -> str:
    """The hash of a line: `body` is its object without the member `hash`."""
    return hashlib.sha256(head.encode() + body).hexdigest()


def parted(line: bytes) -> tuple[bytes, str]:
    """Body and claimed hash of a line without its end; ValueError when it has no such form."""
    if len(line) <= _HASH_BYTES or line[-_HASH_BYTES:-66] != b',"hash":"' or line[-2:] != b'"}':
        raise ValueError("no line of a journal")
    return line[:-_HASH_BYTES] + b"}", line[-66:-2].decode("ascii", "replace")


def journals(folder: Path) -> list[Path]:
    """The files of a folder, a worker's in the order of their starts."""
    return sorted(folder.glob("*.jsonl"))


def newest(folder: Path, worker: str) -> Path | None:
    return max(folder.glob(f"{worker}-*.jsonl"), default=None)


def tail(path: Path) -> tuple[int, str]:
    """Number and hash of the last whole line: (-1, START) where there is none."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    for line in reversed(lines[:-1]):
        with contextlib.suppress(ValueError):
            body, digest = parted(line)
            return int(orjson.loads(body)["n"]), digest
    return -1, START


if sys.platform == "win32":

    def hold(fd: int) -> None:
        """Windows keeps no lock: there a journal counts as its writer's for as long as the writer can be found."""

    def is_dead(path: Path) -> bool:
        return False

else:
    import fcntl

    def hold(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def is_dead(path: Path) -> bool:
        """Whether nobody writes a file any more."""
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True
