"""Waiting for what happens, not for a clock: nothing is judged by how busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 90.0
"""For what has to happen at some time."""


def until_true(holds: Callable[[], object], why: Callable[[], str] = lambda: "", *, every_s: float = 0.02) -> None:
    """Wait for what has to become true; looked at so often."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, why()
        time.sleep(every_s)


def has_ended(pid: int) -> bool:
    """Gone, or dead and not yet collected by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
