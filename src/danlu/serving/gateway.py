"""The gateway's data plane: an ASGI application that takes OpenAI's requests, and lets pass what is allowed.

The steps of a question, in order, are the lines of `Gateway._question`. Whatever is not listed in `_routes` is refused.
It knows no engine, no file and no client library; a worker process builds it from its parts and gives it to uvicorn.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from danlu.openai.bodies import PATHS, Kind, bodies
from danlu.openai.refused import RefusedError
from danlu.serving.account import Account
from danlu.serving.ask import Ask
from danlu.serving.caps import Caps
from danlu.serving.client import Client
from danlu.serving.door import (
    PREFLIGHT,
    Call,
    GoneError,
    Receive,
    Scope,
    Send,
    check_headers,
    credential_of,
    decode,
    read_body,
    unauthorized,
)
from danlu.serving.events import Usage
from danlu.serving.journal import Journal
from danlu.serving.keys import Key, KeyStore
from danlu.serving.limits import Limiter, Refusal
from danlu.serving.notes import Notes
from danlu.serving.openapi import document
from danlu.serving.redact import Redaction
from danlu.serving.relay import Relay
from danlu.serving.replies import JSON_TYPE, Reply, error_reply, json_reply, limit_error, new_id
from danlu.serving.router import Router
from danlu.serving.schema import fit, understand
from danlu.serving.tally import Meters

_LOG = logging.getLogger("danlu.serving.gateway")

Endpoint = Callable[[Key, bytes], Awaitable[bytes]]
"""Another authenticated endpoint: the key and the request's bytes in, the JSON answer's out. It raises RefusedError."""
Route = Callable[[Call], Awaitable[Reply | None]]
"""None: it has answered already."""
KINDS: dict[str, Kind] = {f"/v1{path}": kind for kind, path in PATHS.items()}
MODELS = "/v1/models"


class Keeper(Protocol):
    """Keeps questions and answers of keys that want it. It must not wait for anything."""

    def keep(self, id: str, key: Key, lens: str, question: bytes, answer: bytes, is_stream: bool) -> None: ...


class Gateway:
    """One a worker. `is_draining` makes `/readyz` say no; what is under way is answered all the same."""

    def __init__(
        self,
        router: Router,
        keys: KeyStore,
        limiter: Limiter,
        journal: Journal,
        meters: Meters,
        caps: Caps,
        *,
        endpoints: Mapping[tuple[str, str], Endpoint] | None = None,
        keeper: Keeper | None = None,
        redaction: Redaction | None = None,
        notes: Notes | None = None,
    ) -> None:
        self.router, self.keys, self.limiter, self.journal = router, keys, limiter, journal
        self.meters, self.caps, self.keeper = meters, caps, keeper
        self.redaction, self.notes = redaction, notes
        self.is_draining = False
        self._client = Client()
        self._relay = Relay(self._client, router, caps)
        self._records = bodies(caps)
        self._endpoints = dict(endpoints or {})
        self._document = json_reply(document(caps))
        self._routes = self._all_routes()

    def _all_routes(self) -> dict[str, dict[str, Route]]:
        """Everything that is answered: path, method, who answers."""
        routes: dict[str, dict[str, Route]] = {
            "/healthz": {"GET": self._health},
            "/readyz": {"GET": self._readiness},
            "/openapi.json": {"GET": self._describe},
            MODELS: {"GET": self._models},
        }
        for path, kind in KINDS.items():
            routes[path] = {"POST": self._question_of(kind)}
        for (method, path), endpoint in self._endpoints.items():
            routes.setdefault(path, {})[method] = self._through(endpoint)
        return routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(Call(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:  # no websockets
            await receive()
            await send({"type": "websocket.close", "code": 1008})

    async def close(self) -> None:
        """Close the connections to engines."""
        await self._client.close()

    async def _serve(self, call: Call) -> None:
        """One request, whatever it is: found, answered or refused, and counted."""
        route = self._routes.get(call.path) or ({"GET": self._model} if call.path.startswith(MODELS + "/") else None)
        call.tally.id = new_id("req_")
        call.tally.path = (MODELS if call.path not in self._routes else call.path) if route else ""
        is_counted = call.path not in ("/healthz", "/readyz")
        if is_counted:
            self.meters.began()
        try:
            reply = await self._answered(call, route)
            if reply is not None:
                await call.reply(reply)
        except GoneError:
            call.tally.status = call.tally.status or 499
        finally:
            if is_counted:
                call.tally.whole_s = call.since()
                self.meters.ended(call.tally)

    async def _answered(self, call: Call, route: dict[str, Route] | None) -> Reply | None:
        try:
            check_headers(call, self.caps)
            if route is None:
                raise RefusedError("gateway.not_found", status=404)
            if call.method == "OPTIONS" and call.origin:
                return PREFLIGHT
            answer = route.get(call.method)
            if answer is None:
                allow = ((b"allow", ", ".join(route).encode()),)
                raise RefusedError("gateway.method_not_allowed", status=405, headers=allow, allowed=", ".join(route))
            return await answer(call)
        except RefusedError as refused:
            call.tally.code = refused.code
            return error_reply(refused)
        except GoneError:
            raise
        except Exception:  # a fault of ours ends one request, not the worker, and the client gets an error it can parse
            _LOG.exception("request %s", call.tally.id)
            call.tally.code = "internal_error"
            if call.is_begun:
                raise GoneError from None
            return error_reply(RefusedError("gateway.internal_error", status=500))

    # ---- a question, step by step

    async def _question(self, call: Call, kind: Kind) -> None:
        key = self._authenticate(call)
        body = await read_body(call, self.caps)
        ask = understand(kind, decode(body), self._records[kind], self.caps)
        self._note(call, ask)
        self._authorise(key, ask)
        fit(ask, self.router.lenses_of(ask.model), self.router.can(ask.model), self.caps)
        account = await self._reserve(call, key, ask)
        try:
            if self.notes is not None:
                account.noted = self.notes.question(ask)
            if self.redaction is not None:
                account.redacted = await self.redaction.question(ask)
            account.open(self.router, call.since())
            answer = await self._relay.carry(call, ask, account)
        finally:
            nothing = Usage(0, 0)
            await account.settle("failed", call.tally.status, nothing, is_counted=False, whole_s=call.since())
        if key.keeps_bodies and self.keeper is not None:
            if account.noted is not None:
                body, answer = account.noted.kept_question(body), account.noted.kept_answer(answer)
            self.keeper.keep(ask.id, key, call.tally.lens, body, answer, ask.is_stream)

    def _question_of(self, kind: Kind) -> Route:
        async def answer(call: Call) -> None:
            await self._question(call, kind)

        return answer

    def _authenticate(self, call: Call) -> Key:
        key = self.keys.find(credential_of(call), time.time())
        if key is None:
            raise unauthorized()
        call.tally.key = key.id
        return key

    def _note(self, call: Call, ask: Ask) -> None:
        tally = call.tally
        tally.id, tally.kind, tally.model, tally.is_stream = ask.id, ask.kind, ask.model, ask.is_stream

    def _authorise(self, key: Key, ask: Ask) -> None:
        """The same words for a model that is none and for one that this key may not use."""
        if not (key.may_use(ask.model) and self.router.knows(ask.model)):
            raise RefusedError("gateway.model_not_found", status=404, param="model", model=ask.model)

    async def _reserve(self, call: Call, key: Key, ask: Ask) -> Account:
        admission = await self.limiter.reserve(key, ask.reserve_tokens, time.time())
        if isinstance(admission, Refusal):
            raise limit_error(admission)
        return Account(ask, call.tally, admission, self.limiter, self.journal)

    # ---- the rest

    async def _models(self, call: Call) -> Reply:
        key = self._authenticate(call)
        data = [_model_json(model.name, model.created) for model in self.router.models(key)]
        return json_reply({"object": "list", "data": data})

    async def _model(self, call: Call) -> Reply:
        key = self._authenticate(call)
        name = call.path.removeprefix(MODELS + "/")
        for model in self.router.models(key):
            if model.name == name:
                return json_reply(_model_json(model.name, model.created))
        raise RefusedError("gateway.model_not_found", status=404, param="model", model=name[:256])

    def _through(self, endpoint: Endpoint) -> Route:
        async def answer(call: Call) -> Reply:
            key = self._authenticate(call)
            return Reply(200, await endpoint(key, await read_body(call, self.caps)))

        return answer

    async def _health(self, call: Call) -> Reply:
        return json_reply({"status": "ok"})

    async def _readiness(self, call: Call) -> Reply:
        """Ready: something can be asked, and nobody is closing the house."""
        is_ready = not self.is_draining and any(one.state == "ready" for one in self.router.board.replicas)
        return Reply(
            200 if is_ready else 503, b'{"status":"ready"}' if is_ready else b'{"status":"not ready"}', (JSON_TYPE,)
        )

    async def _describe(self, call: Call) -> Reply:
        return self._document

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return
            await send({"type": "lifespan.startup.complete"})


def _model_json(name: str, created: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": created, "owned_by": "danlu"}
