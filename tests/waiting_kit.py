"""Waiting for what happens, not for a clock: nothing is judged by how busy the machine is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE_S = 300.0
"""For what has to happen at some time: only what never happens costs so much."""


def until_true(holds: Callable[[], object], why: Callable[[], str] = lambda: "", *, every_s: float = 0.02) -> None:
    """Wait for what has to become true; looked at so often."""
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, why()
        time.sleep(every_s)


async def until(holds: Callable[[], object], within_s: float = PATIENCE_S) -> None:
    """`until_true` in an event loop."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.02)


def a_moment() -> None:
    """For what must not happen. A busy machine lets some of it pass unseen, and never says that it happened."""
    time.sleep(0.05)


def has_ended(pid: int) -> bool:
    """Gone, or dead and not yet collected by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
