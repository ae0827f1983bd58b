"""Where the local limiter's figures lie: in the worker's own memory, or in a file that all workers of a machine map.

A record is a row of 64-bit integers for one key (the names below are places in it). What is open is kept by seat: each
worker holds one, as a lock that the operating system frees when it is gone, however it went; the next one to need the
room clears what a dead worker left. A worker killed in the middle of a change leaves `CHANGING` set, and whoever comes
next adds the sums up anew.

The file outlives restarts, so a restart opens no window. Not for several machines (redis_limits.py), not for Windows.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from pathlib import Path
from typing import Protocol, TypeAlias

from danlu.core.errors import RunError

Record: TypeAlias = "memoryview[int]"
RING = 64
"""Seconds of the window, and some to spare."""
SEATS = 128
ID, CHANGING, OLDEST, SUM_REQUESTS, SUM_TOKENS, MONTH, SPENT, OTHER_MONTH, OTHER_SPENT = 0, 2, 3, 4, 5, 6, 7, 8, 9
REQUESTS = 10
TOKENS = REQUESTS + RING
CONCURRENCY = TOKENS + RING
OPEN = CONCURRENCY + SEATS
WIDTH = OPEN + SEATS
"""Words of a record."""
_WORD = 8
_HEAD = 4096
"""Bytes before the first record: magic, number of records, number of seats that were ever taken."""
_LAYOUT = 3
_MAGIC = int.from_bytes(b"danlulm%d" % _LAYOUT, "little")
_ID = struct.Struct("16s")


class Table(Protocol):
    """`with table:` is alone with all records."""

    seat: int

    def record(self, key_id: str) -> Record | None:
        """None when there is no room for another key."""
        ...

    def fits(self, record: Record, column: int, more: int, limit: int) -> bool:
        """Whether what all seats hold open, and `more`, stays within a limit."""
        ...

    def begin(self, record: Record) -> None: ...

    def end(self, record: Record) -> None: ...

    def __enter__(self) -> object: ...

    def __exit__(self, *stopped: object) -> None: ...

    def close(self) -> None: ...


class PrivateTable:
    """Memory of one process, used from one thread."""

    seat = 0

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def record(self, key_id: str) -> Record | None:
        found = self._records.get(key_id)
        if found is None:
            found = self._records[key_id] = memoryview(bytearray(WIDTH * _WORD)).cast("q")
        return found

    def fits(self, record: Record, column: int, more: int, limit: int) -> bool:
        return record[column] + more <= limit

    def begin(self, record: Record) -> None:
        pass

    def end(self, record: Record) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *stopped: object) -> None:
        pass

    def close(self) -> None:
        pass


def mend(record: Record) -> None:
    """Add the sums up anew, where a writer was killed in the middle of a change."""
    record[SUM_REQUESTS] = sum(record[REQUESTS : REQUESTS + RING])
    record[SUM_TOKENS] = sum(record[TOKENS : TOKENS + RING])
    record[CHANGING] = 0


if sys.platform != "win32":
    import fcntl

    class SharedTable:
        """A mapped file. One lock guards all of it, held for microseconds. Each layout of records has a file of its own
        (`path` and its number): workers of two versions may run side by side while one takes over from the other."""

        def __init__(self, path: Path, *, most_keys: int = 16_384) -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._path, self._most = path.with_name(f"{path.name}-{_LAYOUT}"), most_keys
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._records: dict[str, Record] = {}
            self.seat, self._seat_fd = self._take_seat()
            with self:
                size = _HEAD + most_keys * WIDTH * _WORD
                head = os.pread(self._fd, 2 * _WORD, 0)
                is_half_full = len(head) == 2 * _WORD and struct.unpack("qq", head)[1] > most_keys // 2
                if is_half_full and self._is_alone():
                    os.ftruncate(self._fd, 0)  # keys that are long gone are never taken out otherwise
                if os.fstat(self._fd).st_size < size:
                    os.ftruncate(self._fd, size)  # sparse: pages come as keys do
                self._map = mmap.mmap(self._fd, size)
                self._words = memoryview(self._map).cast("q")
                if self._words[0] != _MAGIC:
                    self._words[0], self._words[1], self._words[2] = _MAGIC, 0, 0
                self._words[2] = max(self._words[2], self.seat + 1)
                self._learn()
                for record in self._records.values():
                    record[CONCURRENCY + self.seat] = record[OPEN + self.seat] = 0

        def record(self, key_id: str) -> Record | None:
            found = self._records.get(key_id)
            if found is None:
                with self:
                    self._learn()
                    if key_id not in self._records and self._words[1] < self._most:
                        at = _HEAD + self._words[1] * WIDTH * _WORD
                        _ID.pack_into(self._map, at, key_id.encode())
                        self._words[1] += 1
                        self._learn()
                found = self._records.get(key_id)
            return found

        def fits(self, record: Record, column: int, more: int, limit: int) -> bool:
            if sum(record[column : column + SEATS]) + more <= limit:
                return True
            cleared = [
                self._clear(record, seat) for seat in range(SEATS) if record[column + seat] and seat != self.seat
            ]
            return any(cleared) and sum(record[column : column + SEATS]) + more <= limit

        def begin(self, record: Record) -> None:
            record[CHANGING] = 1

        def end(self, record: Record) -> None:
            record[CHANGING] = 0

        def __enter__(self) -> None:
            fcntl.flock(self._fd, fcntl.LOCK_EX)

        def __exit__(self, *stopped: object) -> None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

        def close(self) -> None:
            for record in self._records.values():
                record.release()
            self._words.release()
            self._map.close()
            os.close(self._fd)
            os.close(self._seat_fd)

        def _learn(self) -> None:
            """Take in records that others made."""
            for number in range(len(self._records), self._words[1]):
                at = _HEAD + number * WIDTH * _WORD
                (name,) = _ID.unpack_from(self._map, at)
                first = at // _WORD
                self._records[name.rstrip(b"\0").decode()] = self._words[first : first + WIDTH]

        def _clear(self, record: Record, seat: int) -> bool:
            """Whether a seat's worker is dead, whose part of a record is cleared then."""
            fd = _grab(self._seat_path(seat))
            if fd is None:
                return False
            record[CONCURRENCY + seat] = record[OPEN + seat] = 0
            os.close(fd)
            return True

        def _take_seat(self) -> tuple[int, int]:
            for seat in range(SEATS):
                if (fd := _grab(self._seat_path(seat))) is not None:
                    return seat, fd
            raise RunError("keys.no_seat", where=str(self._path), most=SEATS)

        def _is_alone(self) -> bool:
            taken = [_grab(self._seat_path(seat)) for seat in range(SEATS) if seat != self.seat]
            for fd in taken:
                if fd is not None:
                    os.close(fd)
            return None not in taken

        def _seat_path(self, seat: int) -> Path:
            return self._path.with_name(f"{self._path.name}.seat{seat:02d}")

    def _grab(path: Path) -> int | None:
        """A file with its lock held, unless another holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        return fd
