"""A Ctrl-C that something swallowed still stops what looks for it."""

import contextlib
import os
import signal
import threading

import pytest

from danlu.core.interrupts import noticing_interrupts


def test_a_swallowed_interrupt_is_noticed() -> None:
    before = signal.getsignal(signal.SIGINT)
    with noticing_interrupts() as look:
        look()
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(5)
        with pytest.raises(KeyboardInterrupt):
            look()
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_change_nothing() -> None:
    seen = []

    def work() -> None:
        with noticing_interrupts() as look:
            look()
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
