"""HTTP/1.1 as uvicorn reads it, with what it lacks: bounds on the time and size of a request's head, and a connection
that ends behind its next answer.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S = 15.0
"""From a connection's, or a request's, first byte to the end of its headers (Slowloris holds thousands open)."""
MOST_HEAD_BYTES = 64 * 2**10


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _guard: TimerHandle | None = None
    _head_bytes = 0
    _is_last = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._guard is not None and self.parser is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._guard is None:
            self._watch()

    def on_headers_complete(self) -> None:
        self._unwatch()
        super().on_headers_complete()
        if self._is_last and self.cycle is not None:
            self.cycle.keep_alive = False

    def end_after_answer(self) -> None:
        """The answer under way, or the next one, says `connection: close`."""
        self._is_last = True
        if self.cycle is not None and not self.cycle.response_started:
            self.cycle.keep_alive = False

    def _watch(self) -> None:
        self._guard = self.loop.call_later(HEAD_S, self._refuse)

    def _unwatch(self) -> None:
        if self._guard is not None:
            self._guard.cancel()
            self._guard = None
        self._head_bytes = 0

    def _refuse(self) -> None:
        """Not worth an answer: who sends like this does not read one."""
        self._unwatch()
        self.transport.close()
