"""What serving has to tell others, on disk until they have it: a line an event, written before anything is sent. Who
reads it keeps its own place, a byte counted from the first event there ever was, and so goes on after a crash.

One process writes. A line is one system call: SIGKILL loses nothing that was told, and after `sync` a power cut does
not either, for all lines at once. It is bounded: where a receiver is away for so long that the file is full, its oldest
half goes, and `add` says how much that was.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from danlu.core.files import write_bytes

MOST_BYTES = 4 << 20


class Outbox:
    """`add` and `read` from any thread. `close` at the end."""

    def __init__(self, path: Path, *, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most = path, most_bytes
        self._turn = threading.Lock()
        self._is_dirty = False
        content = path.read_bytes() if path.is_file() else b""
        head, _, events = content.partition(b"\n")
        self._base = _base_of(head)
        whole = events[: events.rfind(b"\n") + 1]
        self._put(whole)

    @property
    def end(self) -> int:
        """The place behind the last event."""
        return self._base + self._size - self._head

    def add(self, event: Mapping[str, Any], places: Mapping[str, int]) -> dict[str, int]:
        """Write an event down. `places`: who still reads, and from where. What the full file lost for whom, in events;
        OSError where the disk takes nothing."""
        line = orjson.dumps(event, default=str, option=orjson.OPT_APPEND_NEWLINE)
        with self._turn:
            lost = self._shrink(places) if self._size + len(line) > self._most else {}
            written = os.write(self._fd, line)
            if written < len(line):
                os.ftruncate(self._fd, self._size)
                raise OSError(28, os.strerror(28), str(self._path))  # ENOSPC
            self._size += written
            self._is_dirty = True
        return lost

    def sync(self) -> None:
        """What was added before is on the disk when this returns; who adds meanwhile does not wait. OSError where the
        disk fails: it is tried again next time."""
        with self._turn:
            if not self._is_dirty:
                return
            self._is_dirty = False
            descriptor = os.dup(self._fd)
        try:
            os.fsync(descriptor)
        except OSError:
            self._is_dirty = True
            raise
        finally:
            os.close(descriptor)

    def read(self, place: int) -> list[tuple[dict[str, Any], int]]:
        """Events from a place on, each with the place behind it."""
        found = []
        with self._turn:
            at = max(place, self._base)
            content = os.pread(self._fd, self._size, at - self._base + self._head)
        for line in content.splitlines(keepends=True):
            at += len(line)
            found.append((orjson.loads(line), at))
        return found

    def close(self) -> None:
        os.close(self._fd)

    def _shrink(self, places: Mapping[str, int]) -> dict[str, int]:
        """Take out what everybody has, and as much as it needs of what somebody has not."""
        content = os.pread(self._fd, self._size, self._head)
        needed = min([*places.values(), self.end]) - self._base
        cut = max(needed, 0)
        if len(content) - cut > self._most // 2:
            cut = content.find(b"\n", len(content) - self._most // 2) + 1
        lost = {
            name: content.count(b"\n", max(0, place - self._base), cut)
            for name, place in places.items()
            if place - self._base < cut
        }
        os.close(self._fd)
        self._base += cut
        self._put(content[cut:])
        return lost

    def _put(self, events: bytes) -> None:
        """The file anew, there whole or not at all."""
        head = orjson.dumps({"from": self._base}, option=orjson.OPT_APPEND_NEWLINE)
        write_bytes(self._path, head + events)
        self._path.chmod(0o600)
        self._head, self._size = len(head), len(head) + len(events)
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)


def _base_of(head: bytes) -> int:
    try:
        return int(orjson.loads(head)["from"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):  # there was none, or it is none
        return 0
