"""The HTTP API of the native engine's server: a bare ASGI application for a gateway, and nobody else. Every path wants
the secret. A connection that closes cancels what it asked for.

`/v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/models`, `/cancel`, `/tokenize`, `/adapters`,
`/ready`, `/metrics`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DanluError, EngineError
from danlu.engines.asking import Asked, AskedMeans, Reader, seeded
from danlu.engines.bills import Bills
from danlu.engines.embeddings import embedding_answer
from danlu.engines.live import ONE, Live, Ticket, Update
from danlu.engines.replies import Reply, error_body
from danlu.engines.sampling_extras import TokenLogProb
from danlu.openai.bodies import PATHS, PREFIXES, Kind
from danlu.openai.refused import RefusedError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
MAX_BODY_BYTES = 32 * 2**20
MOST_WAITING = 1024
"""Requests in the queue; more are sent away."""
LONG_BODY = 1 << 16
"""Bytes of a body from which its rendering leaves the loop; a schema, which is compiled, always does."""
MEANS_AT_ONCE = 32
"""Texts of one request for embeddings that wait or are read."""
KINDS: dict[str, Kind] = {path: kind for kind, path in PATHS.items()}
_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_JSON = (b"content-type", b"application/json")


Mail = asyncio.Queue[tuple[int, Update] | None]


class ServerError(Exception):
    """An answer other than 200 that is not the client's fault."""

    def __init__(self, status: int, text: str, code: str) -> None:
        super().__init__(text)
        self.status, self.code = status, code


class Api:
    """`deliver` is what the engine is given; `bind` tells the loop that answers go to."""

    def __init__(self, reader: Reader, secret: str) -> None:
        assert secret, "without a secret it would be open"
        self.reader = reader
        self.live: Live | None = None
        self.bills = Bills()
        self._secret = f"Bearer {secret}".encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._mail: dict[int, Mail] = {}
        """By the ticket's identity, with the choice's number."""
        self._numbers: dict[int, int] = {}

    def bind(self, live: Live) -> None:
        self.live, self.reader.context = live, live.context

    def deliver(self, updates: list[Update]) -> None:
        """On the computing thread."""
        if self._loop is not None and updates:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                self._loop.call_soon_threadsafe(self._hand_out, updates)

    def _hand_out(self, updates: list[Update]) -> None:
        for update in updates:
            mail = self._mail.get(id(update.ticket))
            if mail is not None:
                mail.put_nowait((self._numbers[id(update.ticket)], update))
            if update.finish is not None:
                self.bills.close(update)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", "no lifespan, no websockets"
        self._loop = self._loop or asyncio.get_running_loop()
        try:
            await self._open(scope, receive, send)
        except RefusedError as refused:
            await _reply(send, refused.status, orjson.dumps(refused.to_json()))
        except EngineError as fault:
            status = 404 if fault.key == "engine.no_lens" else 400
            code = "context_length_exceeded" if fault.key == "engine.prompt_too_long" else fault.key.rpartition(".")[2]
            await _reply(send, status, error_body(fault.text, code=code))
        except DanluError as fault:
            await _reply(send, 400, error_body(fault.text, code=fault.key))
        except ServerError as fault:
            await _reply(send, fault.status, error_body(str(fault), "server_error", code=fault.code))

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._secret):
            await _reply(send, 401, error_body("no key, or not this engine's", "authentication_error"))
            return
        method, path = scope["method"], scope["path"]
        match method, path:
            case "GET", "/ready":
                is_alive = self._engine().is_alive
                await _reply(send, 200 if is_alive else 503, orjson.dumps({"ready": is_alive}))
            case "GET", "/metrics":
                await _reply(send, 200, self._metrics(), kind=b"text/plain; version=0.0.4")
            case "GET", "/v1/models":
                listed = [{"id": name, "object": "model", "owned_by": "danlu"} for name in self._engine().models]
                await _reply(send, 200, orjson.dumps({"object": "list", "data": listed}))
            case "POST", "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings":
                given = headers.get(b"x-request-id", b"").decode("latin-1")
                kind = KINDS[path.removeprefix("/v1")]
                id = given if _ID.fullmatch(given) else f"{PREFIXES[kind]}{secrets.token_hex(12)}"
                asked = await self._read(kind, await _body(receive))
                if isinstance(asked, AskedMeans):
                    await self._embed(asked, id, receive, send)
                else:
                    await self._answer(asked, id, receive, send)
            case "POST", "/cancel":
                usage = await self._cancelled(_parsed(await _body(receive)))
                await _reply(send, 200, orjson.dumps({"usage": usage}))
            case "POST", "/tokenize":
                value = _parsed(await _body(receive))
                value = {"model": self._engine().base, **value} if isinstance(value, dict) else value
                ids = await asyncio.to_thread(self.reader.chat_ids, value)
                self._engine().lens(value["model"])
                await _reply(send, 200, orjson.dumps({"tokens": ids, "count": len(ids)}))
            case "POST", "/adapters":
                value = _parsed(await _body(receive))
                if not isinstance(value, dict) or not all(isinstance(value.get(k), str) for k in ("name", "folder")):
                    raise RefusedError("gateway.missing_parameter", name="name, folder")
                await asyncio.to_thread(self._engine().load, value["name"], Path(value["folder"]))
                await _reply(send, 200, orjson.dumps({"loaded": value["name"]}))
            case "DELETE", _ if path.startswith("/adapters/"):
                self._engine().drop(path.removeprefix("/adapters/"))
                await _reply(send, 200, orjson.dumps({"dropped": path.removeprefix("/adapters/")}))
            case _:
                await _reply(send, 404, error_body("not here", code="not_found"))

    def _engine(self) -> Live:
        assert self.live is not None, "nothing is asked before there is an engine"
        return self.live

    def _metrics(self) -> bytes:
        lines = []
        for name, value in self._engine().facts().items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE danlu_engine_{name} {kind}", f"danlu_engine_{name} {value:g}"]
        return ("\n".join(lines) + "\n").encode()

    # ---- answers

    async def _read(self, kind: Kind, body: bytes) -> Asked | AskedMeans:
        """What is asked; off the loop where that may take a while. RefusedError."""
        value, reader = _parsed(body), self.reader
        reads: dict[Kind, Callable[[Any], Asked | AskedMeans]] = {
            "chat": reader.chat, "completion": reader.text, "embedding": reader.means,
        }  # fmt: skip
        read = reads[kind]
        compiles = isinstance(value, dict) and (value.get("response_format") or value.get("tool_choice"))
        return await asyncio.to_thread(read, value) if compiles or len(body) > LONG_BODY else read(value)

    def _free(self, id: str) -> Live:
        """The engine, where it can take this one. ServerError."""
        live = self._engine()
        if not live.is_alive:
            raise ServerError(503, "the engine computes no more", "dead")
        if self.bills.of(id).is_cancelled:
            raise _cancelled()
        if live.num_waiting >= MOST_WAITING:
            raise ServerError(503, "too many requests are waiting", "overloaded")
        return live

    @contextlib.asynccontextmanager
    async def _errand(self, id: str, receive: Receive) -> AsyncIterator[Errand]:
        """The tickets of one request. Those that are left at its end are given up."""
        errand = Errand(id)
        gone = asyncio.ensure_future(_until_gone(receive, errand.mail))
        try:
            yield errand
        finally:
            gone.cancel()
            for ticket in errand.tickets:
                self._engine().cancel(ticket)
            for key in [key for key, box in self._mail.items() if box is errand.mail]:
                del self._mail[key], self._numbers[key]

    def note(self, errand: Errand, ticket: Ticket) -> None:
        """From now on the ticket's updates go to the errand."""
        self._mail[id_of(ticket)], self._numbers[id_of(ticket)] = errand.mail, len(errand.tickets)
        self.bills.add(errand.id, ticket)
        errand.tickets.append(ticket)

    async def _answer(self, asked: Asked, id: str, receive: Receive, send: Send) -> None:
        live = self._free(id)
        for prompt in asked.prompts:  # all, before any is computed
            live.check(prompt, asked.sampling, model=asked.model)
        async with self._errand(id, receive) as errand:
            for prompt in asked.prompts:
                for choice in range(asked.num_choices):
                    sampling = seeded(asked.sampling, choice)
                    ticket = live.submit(prompt, sampling, asked.extras, model=asked.model, is_streamed=asked.is_stream)
                    self.note(errand, ticket)
            reply = Reply(asked, id, lambda token: self.reader.tokenizer.decode([token], skip_control=False))
            write = _stream if asked.is_stream else _whole
            if await write(reply, len(errand.tickets), errand.mail, send):
                errand.tickets.clear()

    async def _embed(self, asked: AskedMeans, id: str, receive: Receive, send: Send) -> None:
        """Some of many texts at a time: a collection that is embedded does not stand in everybody's way."""
        live = self._free(id)
        for prompt in asked.prompts:
            live.check(prompt, ONE, model=asked.model)
        sums: list[Any] = [None] * len(asked.prompts)
        num_done = 0
        async with self._errand(id, receive) as errand:
            while num_done < len(sums):
                while len(errand.tickets) < min(len(sums), num_done + MEANS_AT_ONCE):
                    self.note(errand, live.submit_mean(asked.prompts[len(errand.tickets)], model=asked.model))
                if (found := await errand.mail.get()) is None:
                    return
                number, update = found
                _check(update)
                if update.finish is not None and update.ticket.row.sum_D is not None:
                    sums[number] = update.ticket.row.sum_D.cpu().numpy()
                    num_done += 1
            errand.tickets.clear()
        await _reply(send, 200, embedding_answer(asked, sums))

    async def _cancelled(self, value: Any) -> dict[str, int]:
        """End the answer of this id, now or when it comes; what it came to, once nothing is computed for it."""
        id = value.get("id") if isinstance(value, dict) else None
        if not isinstance(id, str) or not _ID.fullmatch(id):
            raise RefusedError("gateway.missing_parameter", param="id", name="id")
        bill = self.bills.of(id)
        bill.is_cancelled = True
        for ticket in bill.running.values():
            self._engine().cancel(ticket)
        await bill.is_over.wait()
        return bill.usage


def _cancelled() -> ServerError:
    return ServerError(409, "this answer was cancelled", "cancelled")


def _check(update: Update) -> None:
    """ServerError where it is no step towards an answer."""
    if update.fault is not None:
        raise ServerError(500, "the engine failed at this answer", "engine_failed")
    if update.finish == "cancelled":
        raise _cancelled()


def id_of(ticket: Ticket) -> int:
    return id(ticket)


class Errand:
    """One request under way: its tickets, and the mail that their updates come to (None: the client is gone)."""

    def __init__(self, id: str) -> None:
        self.id, self.tickets = id, list[Ticket]()
        self.mail: Mail = asyncio.Queue()


async def _whole(reply: Reply, num: int, mail: Mail, send: Send) -> bool:
    """False when the client is gone."""
    texts, finishes = [""] * num, [""] * num
    ids: list[list[int]] = [[] for _ in range(num)]
    log_probs: list[tuple[TokenLogProb, ...]] = [()] * num
    left = num
    while left:
        if (found := await mail.get()) is None:
            return False
        number, update = found
        _check(update)
        if update.finish is not None:
            texts[number], finishes[number], log_probs[number] = update.piece, update.finish, update.log_probs
            ids[number] = update.ticket.row.ids
            reply.num_tokens[number] = update.num_tokens
            left -= 1
    await _reply(send, 200, reply.whole(texts, finishes, ids, log_probs))
    return True


async def _stream(reply: Reply, num: int, mail: Mail, send: Send) -> bool:
    """Events as they come, those that wait together in one write. False when the client is gone, the answer was
    cancelled, or the engine failed: then the stream ends without its end mark."""
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    is_open, left = False, num
    while left:
        found = await mail.get()
        parts: list[bytes] = []
        while True:
            if found is None:
                return False
            number, update = found
            if not is_open:
                _check(update)
            if update.fault is not None:
                parts.append(b"data: " + error_body("the engine failed at this answer", "server_error") + b"\n\n")
                await send({"type": "http.response.body", "body": b"".join(parts)})
                return False
            if update.finish == "cancelled":
                await send({"type": "http.response.body", "body": b"".join(parts)})
                return False
            parts += _events(reply, number, update)
            left -= update.finish is not None
            if mail.empty():
                break
            found = mail.get_nowait()
        if not is_open:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            is_open = True
        if not left:
            parts.append(reply.ending())
        content = b"".join(parts)
        if content:
            await send({"type": "http.response.body", "body": content, "more_body": bool(left)})
    return True


def _events(reply: Reply, number: int, update: Update) -> list[bytes]:
    opening = [] if number in reply.num_tokens else [reply.opening(number)]
    before = reply.num_tokens.get(number, 0)
    reply.num_tokens[number] = update.num_tokens
    if not update.piece and update.finish is None and not update.log_probs:
        return opening  # half a character, or what may become a stop
    ids = update.ticket.row.ids[before : update.num_tokens] if update.log_probs else []
    return [*opening, reply.event(number, update.piece, ids, update.log_probs, update.finish)]


async def _until_gone(receive: Receive, mail: Mail) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    mail.put_nowait(None)


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServerError(400, "the request broke off", "broken_off")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise RefusedError("gateway.body_too_large", status=413, most=MAX_BODY_BYTES)
        if not message.get("more_body"):
            return b"".join(parts)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise RefusedError("gateway.invalid_json", line=fault.lineno, column=fault.colno) from fault


async def _reply(send: Send, status: int, content: bytes, *, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
