"""One writer per run: a lock file that holds the writer's process id, and is free again when that process is gone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from danlu.core.errors import RunError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold `path` for this process; raises RunError naming the holder when another living process has it."""
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            holder = _holder(path)
            if holder == os.getpid():  # acts nest inside one process
                yield
                return
            if holder is not None and _is_alive(holder):
                raise RunError("run.locked", where=str(path.parent), pid=holder) from None
            path.unlink(missing_ok=True)  # left by a killed process
    with os.fdopen(handle, "w") as file:
        file.write(str(os.getpid()))
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _holder(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _is_alive(pid: int) -> bool:
    if os.name == "nt":
        return True  # Windows has no harmless signal to ask with; the message names the file to remove
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
