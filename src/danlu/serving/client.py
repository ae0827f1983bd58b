"""HTTP to engines: one pool of connections a worker, over TCP, TLS or unix sockets. Nothing is followed, decoded or
kept: a redirect is an answer like any other, there are no cookies, and of a client's headers none goes on.
"""

from __future__ import annotations

import aiohttp
import orjson

from danlu.openai.bodies import PATHS, Kind
from danlu.openai.sse import BrokenError
from danlu.serving.drivers.driver import bare, endpoint
from danlu.serving.events import Usage, usage_of

CONNECT_S = 5.0
KEEP_S = 4.0
"""Idle connections are closed before engines do it (uvicorn, and so vLLM: 5 s): no request meets a dying one."""


class Client:
    """Sessions are made on first use, inside the loop that uses them."""

    def __init__(self) -> None:
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._urls: dict[tuple[str, Kind], str] = {}

    async def post(self, address: str, kind: Kind, body: bytes, *, secret: str, id: str) -> aiohttp.ClientResponse:
        """The engine's answer, its headers read and its body not. Engines that know `x-request-id` take the answer's id
        from it, and their logs have it. aiohttp.ClientError, OSError."""
        url = self._urls.get((address, kind))
        if url is None:
            url = self._urls[address, kind] = endpoint(address, PATHS[kind])
        headers = _headers(secret) | {"x-request-id": id}
        payload = aiohttp.BytesPayload(body)  # told what it is, aiohttp need not look for it
        return await self._session(address).post(url, data=payload, headers=headers, allow_redirects=False)

    async def stop(self, address: str, id: str, *, secret: str) -> Usage:
        """End an answer; what the engine computed for it in all, told once it computes no more. aiohttp.ClientError,
        OSError, BrokenError."""
        try:
            return await self._stop(address, id, secret)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):  # an old connection; twice said is once said
            return await self._stop(address, id, secret)

    async def _stop(self, address: str, id: str, secret: str) -> Usage:
        session, body = self._session(address), orjson.dumps({"id": id})
        async with session.post(
            bare(address, "/cancel"), data=body, headers=_headers(secret), allow_redirects=False
        ) as response:
            usage = usage_of(await response.read()) if response.status == 200 else None
        if usage is None:
            raise BrokenError(f"{response.status} to the end of an answer")
        return usage

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    def _session(self, address: str) -> aiohttp.ClientSession:
        where = address if address.startswith("unix:") else ""
        session = self._sessions.get(where)
        if session is None:
            session = self._sessions[where] = _session(where)
        return session


def _headers(secret: str) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    return headers | {"authorization": f"Bearer {secret}"} if secret else headers


def _session(where: str) -> aiohttp.ClientSession:
    connector: aiohttp.BaseConnector
    if where:
        connector = aiohttp.UnixConnector(where.removeprefix("unix:"), limit=0, keepalive_timeout=KEEP_S)
    else:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_S, ttl_dns_cache=30)
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("user-agent", "accept"),
    )
