"""Ctrl-C that is not lost. Python turns it into a KeyboardInterrupt wherever the main thread is; libraries in C++ that
look an attribute up and clear whatever comes of it lose the exception, rarely, and the program goes on as if nobody had
asked it to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def noticing_interrupts() -> Iterator[Callable[[], None]]:
    """What is given raises KeyboardInterrupt where one was asked for in here and has not arrived. Elsewhere than in the
    main thread, or where SIGINT is ignored, nothing is changed."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    was_asked = threading.Event()

    def take(number: int, frame: FrameType | None) -> None:
        was_asked.set()
        before(number, frame)

    def look() -> None:
        if was_asked.is_set():
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, take)
    try:
        yield look
    finally:
        signal.signal(signal.SIGINT, before)
