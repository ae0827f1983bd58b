"""HTTP/1.1 as uvicorn reads it, with what it lacks: bounds on the time and size of a request's head, a connection that
ends behind its next answer, and answers whose head and body leave in one packet.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from typing import Any

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
        super().connection_made(JoiningTransport(transport, self.loop))
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


class JoiningTransport(asyncio.Transport):
    """Holds an answer's head until its body's first bytes come, which they do in the same turn of the loop as a rule:
    one system call and one packet instead of two. What comes later than that finds the head gone already."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data[-4:] == b"\r\n\r\n" and data[:9] == b"HTTP/1.1 ":
            self._head = bytes(data)
            self._loop.call_soon(self._send_head)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._send_head()
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def _send_head(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""
