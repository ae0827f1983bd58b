"""The door: what a request shows before its body is read, and the reading of that body under limits.

Everything is decided on ASGI's own `path` and on headers seen once; nothing is rebuilt from `Host` (a client's word).
One place takes the credential out of whatever header carries it, so no header has rights of its own.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from danlu.openai.refused import RefusedError
from danlu.serving.caps import Caps
from danlu.serving.replies import Reply
from danlu.serving.tally import Tally

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MOST_HEADERS = 64
MOST_CREDENTIAL_BYTES = 512
CLOSE = ((b"connection", b"close"),)
"""Sent with errors that leave a body unread."""
LINGER_BYTES, LINGER_S, LINGER_PAUSE_S = 64 * 2**20, 10.0, 2.0
"""How much of such a body is still taken, how long, and how long after its last piece."""
_EXPOSED = (b"access-control-expose-headers", b"x-request-id, x-danlu-lens, x-danlu-ignored, retry-after")
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}))(?::[0-9]{1,5})?")


class GoneError(Exception):
    """The client hung up."""


class Call:
    """One HTTP request at the door, and the way back to who sent it."""

    __slots__ = ("_send", "headers", "is_begun", "is_taken", "method", "origin", "path", "receive", "started", "tally")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.started = time.monotonic()
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.receive, self._send = receive, send
        self.tally = Tally("", "")
        self.origin = b""
        """Set when it is an allowed one."""
        self.is_begun = False
        self.is_taken = False
        """The body is here to its end."""

    def values(self, name: bytes) -> list[bytes]:
        return [value for told, value in self.headers if told == name]

    def since(self) -> float:
        return time.monotonic() - self.started

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        headers.append((b"x-content-type-options", b"nosniff"))
        if self.tally.id:
            headers.append((b"x-request-id", self.tally.id.encode()))
        if self.origin:
            headers += [(b"access-control-allow-origin", self.origin), (b"vary", b"Origin"), _EXPOSED]
        self.is_begun = True
        self.tally.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes = b"") -> None:
        await self._send({"type": "http.response.body", "body": body})

    async def reply(self, reply: Reply) -> None:
        await self.begin(reply.status, [*reply.headers, (b"content-length", b"%d" % len(reply.body))])
        body = b"" if self.method == "HEAD" else reply.body
        if CLOSE[0] in reply.headers and not self.is_taken:
            await self.more(body)
            await self._linger()
            body = b""
        await self.end(body)

    async def _linger(self) -> None:
        """Take what the client is still sending, and throw it away. To close upon bytes that nobody read resets the
        connection, and most clients, which send first and read then, would never see the answer."""
        size, until = 0, asyncio.get_running_loop().time() + LINGER_S
        try:
            async with asyncio.timeout_at(until) as limit:
                while size < LINGER_BYTES:
                    limit.reschedule(min(until, asyncio.get_running_loop().time() + LINGER_PAUSE_S))
                    message = await self.receive()
                    size += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
        except TimeoutError:
            pass


def check_headers(call: Call, caps: Caps) -> None:
    """Sizes, `Host` and `Origin`; one pass. RefusedError."""
    size, hosts, origins = 0, [], []
    for name, value in call.headers:
        size += len(name) + len(value)
        if name == b"host":
            hosts.append(value)
        elif name == b"origin":
            origins.append(value)
    if size > caps.most_header_bytes or len(call.headers) > MOST_HEADERS:
        raise RefusedError("gateway.headers_too_large", status=431, headers=CLOSE, most=caps.most_header_bytes)
    told = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if told is None or (caps.hosts and told[1].decode().strip("[]").lower() not in caps.hosts):
        raise RefusedError("gateway.invalid_host")
    if origins:
        if len(origins) != 1 or origins[0].decode("latin-1") not in caps.origins:
            raise RefusedError("gateway.origin_refused", status=403)
        call.origin = origins[0]


def credential_of(call: Call) -> str:
    """What the client shows, "" for nothing: `Authorization: Bearer …` as OpenAI's clients send it, or `api-key` and
    `x-api-key` as others do. All are the same key with the same rights; more than one must agree. RefusedError."""
    found = set()
    for name, value in call.headers:
        if name == b"authorization":
            scheme, _, rest = value.partition(b" ")
            found.add(rest.strip() if scheme.lower() == b"bearer" else b"\0")
        elif name == b"x-api-key" or name == b"api-key":
            found.add(value.strip())
    found.discard(b"")
    if not found:
        return ""
    told = found.pop()
    if found or len(told) > MOST_CREDENTIAL_BYTES or not told.isascii() or b"\0" in told:
        raise unauthorized()
    return told.decode()


def unauthorized() -> RefusedError:
    headers = ((b"www-authenticate", b'Bearer realm="danlu"'),)
    return RefusedError("gateway.invalid_api_key", status=401, headers=headers)


async def read_body(call: Call, caps: Caps) -> bytes:
    """The whole body, under the size and time limits. RefusedError, GoneError."""
    lengths = call.values(b"content-length")
    if lengths and (len(lengths) > 1 or not lengths[0].isdigit() or int(lengths[0]) > caps.most_body_bytes):
        raise _too_large(caps)
    if call.values(b"content-encoding"):
        raise RefusedError("gateway.content_encoding", status=415, headers=CLOSE)
    kinds = call.values(b"content-type")
    if len(kinds) != 1 or kinds[0].partition(b";")[0].strip().lower() != b"application/json":
        raise RefusedError("gateway.content_type", status=415, headers=CLOSE)
    try:
        async with asyncio.timeout(caps.body_s):
            return await _read(call, caps)
    except TimeoutError:
        raise RefusedError("gateway.body_too_slow", status=408, headers=CLOSE, most_s=caps.body_s) from None


async def _read(call: Call, caps: Caps) -> bytes:
    parts, size, is_more = [], 0, True
    while is_more:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        part: bytes = message.get("body", b"")
        is_more = message.get("more_body", False)
        call.is_taken = not is_more
        parts.append(part)
        size += len(part)
        if size > caps.most_body_bytes:
            raise _too_large(caps)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def decode(body: bytes) -> Any:
    """JSON, strictly: UTF-8, no NaN, no lone surrogates, bounded nesting. RefusedError."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise RefusedError("gateway.invalid_json", line=fault.lineno, column=fault.colno) from None


def _too_large(caps: Caps) -> RefusedError:
    return RefusedError("gateway.body_too_large", status=413, headers=CLOSE, most=caps.most_body_bytes)


PREFLIGHT = Reply(
    204,
    b"",
    (
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"authorization, content-type, x-api-key, api-key"),
        (b"access-control-max-age", b"600"),
    ),
)
"""The answer to a browser's question before its request; its origin was checked already."""
