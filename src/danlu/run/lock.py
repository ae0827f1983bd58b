"""One writer per run: a lock file that the operating system frees when its holder is gone, however it went.

The file holds the writer's process id, for the message only. It stays behind, empty: removing a file that others may be
waiting for would let two of them in.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from danlu.core.errors import RunError

_HELD: set[Path] = set()
"""Locks of this process: acts nest."""
WAIT_S = 30.0


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` for this process; raises RunError naming the holder when another living process has it."""
    key = path.resolve()
    if key in _HELD:
        yield
        return
    with path.open("a+b") as file:
        if not _grab(file):
            raise RunError("run.locked", where=str(path.parent), pid=_holder(file))
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        file.flush()
        _HELD.add(key)
        try:
            yield
        finally:
            _HELD.discard(key)
            file.truncate(0)


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """`locked`, waiting for another process that has it; RunError when it does not let go."""
    until = time.monotonic() + WAIT_S
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(path))
            except RunError:
                if time.monotonic() > until:
                    raise
            else:
                yield
                return
        time.sleep(0.002)


if sys.platform == "win32":
    import msvcrt

    def _grab(file: BinaryIO) -> bool:
        file.seek(1 << 30)  # far behind the text, which others may read
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _grab(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _holder(file: BinaryIO) -> str:
    file.seek(0)
    return file.read(20).decode("ascii", "replace") or "?"
