"""Small questions to an engine: is it ready, load this, render that. Answers themselves do not come this way.

One connection a question; no redirects, no proxy of the environment, replies of bounded size. Also what drivers have
in common: a socket's place, a fresh secret.
"""

from __future__ import annotations

import secrets
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import EngineError

MAX_REPLY_BYTES = 32 * 2**20
MAX_SOCKET_PATH = 100
"""Bytes; the kernel takes 107."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def value(self) -> Any:
        """The JSON, or None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def said(self) -> str:
        """What it complains of, short, without what could command a terminal."""
        told = self.value
        error = told.get("error", told.get("message", told)) if isinstance(told, dict) else told
        text = error.get("message", error) if isinstance(error, dict) else error or self.body.decode(errors="replace")
        return "".join(c if c.isprintable() else " " for c in str(text))[:400]


async def ask(
    address: str,
    url: str,
    secret: str,
    body: Mapping[str, Any] | None = None,
    *,
    method: str = "",
    timeout_s: float = 30.0,
) -> Reply:
    """GET, or POST where there is a body. EngineError when nobody answers."""
    import aiohttp  # the extra `serve`; drivers' names and tables are read without it

    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    connector = aiohttp.UnixConnector(address.removeprefix("unix:")) if address.startswith("unix:") else None
    asked = method or ("GET" if body is None else "POST")
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=timeout_s)) as session,
            session.request(
                asked, url, headers=headers, json=None if body is None else dict(body), allow_redirects=False
            ) as reply,
        ):
            content = await reply.content.read(MAX_REPLY_BYTES)
            while not reply.content.at_eof() and len(content) < MAX_REPLY_BYTES:
                content += await reply.content.read(MAX_REPLY_BYTES - len(content))
            return Reply(reply.status, content)
    except (TimeoutError, aiohttp.ClientError, OSError) as fault:
        raise EngineError("drivers.silent", where=address, said=str(fault) or type(fault).__name__) from fault


async def demand(
    address: str,
    url: str,
    secret: str,
    body: Mapping[str, Any] | None = None,
    *,
    method: str = "",
    timeout_s: float = 30.0,
) -> Any:
    """The JSON of a good reply; EngineError with its words otherwise."""
    reply = await ask(address, url, secret, body, method=method, timeout_s=timeout_s)
    if not reply.is_good:
        raise EngineError("drivers.refused", where=url, status=reply.status, said=reply.said)
    return reply.value


async def is_good(address: str, url: str, secret: str) -> bool:
    """A question for readiness: whoever does not answer well within seconds is not ready."""
    try:
        return (await ask(address, url, secret, timeout_s=5.0)).is_good
    except EngineError:
        return False


def fresh_secret() -> str:
    return secrets.token_urlsafe(32)


def socket_in(folder: Path) -> Path:
    """A unix socket's path in `folder`, or, where that is longer than the kernel takes, in a private one of its own."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder.resolve() / "engine.sock"
    if len(str(path).encode()) > MAX_SOCKET_PATH:
        path = Path(tempfile.mkdtemp(prefix="danlu-")) / "engine.sock"
    path.unlink(missing_ok=True)
    return path


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
