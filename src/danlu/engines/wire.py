"""HTTP to one model server with the standard library: one connection per thread, no redirects, bounded replies.

Knows nothing of chat. Faults worth another try are `TransientError`; the rest are EngineErrors that name the fix. The
key goes into one header and nowhere else: `scrub` takes it out of whatever a server echoes back.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

from danlu.core.errors import EngineError
from danlu.openai.address import Address
from danlu.openai.sse import BrokenError, Cutter, data_of, events

MAX_REPLY_BYTES = 32 * 2**20
MAX_QUOTE_CHARS = 300


class TransientError(Exception):
    """A fault that may pass: busy, broken or unreachable. `reached` is False when no server answered at all."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None, reached: bool = True) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s, self.reached = reason, retry_after_s, reached


class DeclinedError(Exception):
    """The server understood this one request and declines it (too long, malformed); others may still be answered."""


class Wire:
    """POSTs JSON bytes to one address, and GETs what it tells of itself."""

    def __init__(
        self, address: Address, *, key: str = "", timeout_s: float = 120.0, ca_file: Path | None = None
    ) -> None:
        self.address, self.timeout_s = address, timeout_s
        self._key = key
        self._tls = ssl.create_default_context(cafile=ca_file) if address.scheme == "https" else None
        self._own = threading.local()

    def post(self, path: str, body: bytes) -> bytes:
        """The body of a 200 reply. TransientError, DeclinedError or EngineError otherwise."""
        with self._faults():
            return self._read(self._send(path, body))

    def get(self, path: str) -> bytes:
        """The body of a 200 reply; faults as in `post`."""
        with self._faults():
            return self._read(self._send(path, None))

    def stream(self, path: str, body: bytes) -> Iterator[str]:
        """The data lines of a server-sent event stream, without `[DONE]`; TransientError when it ends before that."""
        with self._faults():
            response = self._send(path, body)
            kind = response.headers.get_content_type()
            if kind != "text/event-stream":
                self._close()
                raise TransientError(f"expected text/event-stream, got {kind}")
            for data in self._events(response):
                if data == b"[DONE]":
                    self._close()  # what the server sends after the end is nobody's
                    return
                if data:  # else a comment, or a name
                    yield data.decode("utf-8", errors="replace")
            raise TransientError("the stream ended before [DONE]")

    def _events(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        """What each event's data lines say."""
        cutter, size = Cutter(MAX_REPLY_BYTES), 0
        try:
            while piece := response.read1(65536):
                size += len(piece)
                if size > MAX_REPLY_BYTES:
                    raise BrokenError
                yield from map(data_of, events(cutter.feed(piece)))
        except BrokenError:
            self._close()
            raise DeclinedError(f"the stream is larger than {MAX_REPLY_BYTES} bytes") from None
        yield from map(data_of, events(cutter.feed(b"\n\n")))  # an end that was left out

    def scrub(self, text: str) -> str:
        """A server's words, short and without the key."""
        text = text.replace(self._key, "***") if self._key else text
        text = "".join(c if c.isprintable() or c in "\n\t" else " " for c in text)  # no commands to a terminal
        return text if len(text) <= MAX_QUOTE_CHARS else text[:MAX_QUOTE_CHARS] + "…"

    def _send(self, path: str, body: bytes | None) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json, text/event-stream"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connection = self._connection()
        connection.request("GET" if body is None else "POST", self.address.path + path, body=body, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            self._complain(response)
        return response

    def _connection(self) -> http.client.HTTPConnection:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is None:
            if self._tls is None:
                connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=self.timeout_s)
            else:
                connection = http.client.HTTPSConnection(
                    self.address.host, self.address.port, timeout=self.timeout_s, context=self._tls
                )
            self._own.connection = connection
        return connection

    def _close(self) -> None:
        connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
        if connection is not None:
            connection.close()
            self._own.connection = None

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """The whole reply within the time and size limits, however slowly it drips."""
        deadline, parts, size = time.monotonic() + self.timeout_s, [], 0
        while part := response.read1(65536):
            parts.append(part)
            size += len(part)
            if size > MAX_REPLY_BYTES:
                self._close()
                raise DeclinedError(f"the reply is larger than {MAX_REPLY_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError
        if response.length:  # Content-Length promised more
            raise http.client.IncompleteRead(b"".join(parts), response.length)
        response.close()  # read1 does not notice the end by itself; without this the connection cannot serve again
        return b"".join(parts)

    def _complain(self, response: http.client.HTTPResponse) -> None:
        """Raise what a status other than 200 means."""
        status, after_s = response.status, retry_after_s(response.headers.get("Retry-After"))
        if 300 <= status < 400:
            location = self.scrub(response.headers.get("Location", ""))
            self._close()
            raise EngineError("engine.redirect", where=str(self.address), status=status, location=location)
        said = self.scrub(self._read(response).decode("utf-8", errors="replace").strip()) or response.reason
        if status in (401, 403):
            raise EngineError("engine.unauthorized", where=str(self.address), status=status, said=said)
        if status in (402, 404, 405):
            raise EngineError("engine.not_served", where=str(self.address), status=status, said=said)
        if status in (408, 409, 425, 429) or status >= 500:
            raise TransientError(f"HTTP {status}: {said}", retry_after_s=after_s)
        raise DeclinedError(f"HTTP {status}: {said}")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Sort what can go wrong below HTTP; a connection that failed is not used again."""
        try:
            yield
        except ssl.SSLCertVerificationError as fault:
            self._close()
            raise EngineError("engine.tls", where=str(self.address), said=fault.verify_message) from fault
        except TimeoutError as fault:
            self._close()
            raise TransientError(f"no answer within {self.timeout_s:g} s") from fault
        except (ConnectionResetError, BrokenPipeError, http.client.HTTPException) as fault:
            self._close()
            raise TransientError(f"connection lost ({type(fault).__name__})") from fault
        except OSError as fault:  # refused, unknown host, no route
            self._close()
            raise TransientError(f"{fault}", reached=False) from fault
        except GeneratorExit:
            self._close()
            raise


def retry_after_s(header: str | None) -> float | None:
    """Seconds from a Retry-After header, given as seconds or as an HTTP date; None when absent or senseless."""
    if not header:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return None
