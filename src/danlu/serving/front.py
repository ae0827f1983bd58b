"""What stands before the gateway in a worker: three small pages that need no key, and a bound on how much is under way.

`/` says how to ask, `/identity` answers a challenge by which `danlu chat` knows this server again. Whatever else is
asked goes to the gateway untouched.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

import orjson

from danlu.openai.refused import RefusedError
from danlu.serving.caps import Caps
from danlu.serving.door import Call, Receive, Scope, Send, check_headers
from danlu.serving.keys import Key, Pepper
from danlu.serving.known_servers import IDENTITY, VERIFIER, proof_of, verifier_of
from danlu.serving.replies import Reply, error_reply, json_reply, new_id, retry_after
from danlu.serving.tally import Meters

App = Callable[[Scope, Receive, Send], Awaitable[None]]
_ASKED = re.compile(r"[0-9a-f]{16,128}")
_KEY_ID = re.compile(r"[a-z0-9]{1,64}")
PROBES = ("/healthz", "/readyz")
"""Answered however much is under way."""


class Front:
    """ASGI. `pages` are `snippets.pages`; `most_waiting` counts requests, streams included."""

    def __init__(
        self, gateway: App, *, pages: dict[str, Any], pepper: Pepper, caps: Caps, meters: Meters, most_waiting: int
    ) -> None:
        self._gateway, self._pages, self._pepper, self._caps = gateway, pages, pepper, caps
        self._meters, self._most = meters, most_waiting
        self.num_waiting = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._gateway(scope, receive, send)
            return
        path = scope["path"]
        if path == "/" or path == IDENTITY:
            await self._page(Call(scope, receive, send), path, scope["query_string"].decode("latin-1"))
        elif self.num_waiting >= self._most and path not in PROBES:
            await self._busy(Call(scope, receive, send))
        else:
            self.num_waiting += 1
            try:
                await self._gateway(scope, receive, send)
            finally:
                self.num_waiting -= 1

    async def _page(self, call: Call, path: str, asked: str) -> None:
        try:
            check_headers(call, self._caps)
            if call.method not in ("GET", "HEAD"):
                raise RefusedError(
                    "gateway.method_not_allowed", status=405, headers=((b"allow", b"GET"),), allowed="GET"
                )
            query = dict(parse_qsl(asked, max_num_fields=4)) if asked else {}
            reply = self._snippets(call, query) if path == "/" else self._identity(query)
        except RefusedError as refused:
            reply = error_reply(refused)
        except ValueError:  # too many fields
            reply = error_reply(RefusedError("gateway.not_found", status=404))
        await call.reply(reply)

    def _snippets(self, call: Call, query: dict[str, str]) -> Reply:
        spoken = call.values(b"accept-language")
        wished = query.get("lang") or ("zh" if spoken and spoken[0][:2].lower() == b"zh" else "en")
        body, headers = self._pages.get(wished, self._pages["en"])
        return Reply(200, body, headers)

    def _identity(self, query: dict[str, str]) -> Reply:
        key, nonce = query.get("key", ""), query.get("nonce", "")
        if not _KEY_ID.fullmatch(key) or not _ASKED.fullmatch(nonce):
            raise RefusedError("gateway.not_found", status=404)
        return json_reply({"server": "danlu", "proof": proof_of(verifier_of(self._pepper, key), nonce)})

    async def _busy(self, call: Call) -> None:
        call.tally.id, call.tally.code = new_id("req_"), "overloaded"
        self._meters.began()
        refused = RefusedError("serve.overloaded", status=503, headers=(*retry_after(1), (b"connection", b"close")))
        try:
            await call.reply(error_reply(refused))
        finally:
            call.tally.whole_s = time.monotonic() - call.started
            self._meters.ended(call.tally)


def verifier_endpoint(pepper: Pepper) -> tuple[tuple[str, str], Callable[[Key, bytes], Awaitable[bytes]]]:
    """The gateway's endpoint that tells a key's holder what the server's proofs to it are made of."""

    async def endpoint(key: Key, body: bytes) -> bytes:
        return orjson.dumps({"verifier": verifier_of(pepper, key.id)})

    return ("POST", VERIFIER), endpoint
