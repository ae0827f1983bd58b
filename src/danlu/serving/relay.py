"""From an engine to the client: bytes, as they come. Another replica is asked as long as the client has seen nothing;
after the first byte an error is an event of the stream. Who hangs up stops the engine's work at once; an engine that
can say what it had computed by then is asked, and only then is the answer settled and its seat free.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from danlu.openai.bodies import Kind
from danlu.openai.refused import RefusedError
from danlu.openai.sse import BrokenError
from danlu.serving.account import Account
from danlu.serving.ask import Ask
from danlu.serving.caps import Caps
from danlu.serving.client import Client
from danlu.serving.door import Call, GoneError
from danlu.serving.events import Events, Usage, cleaned, usage_in
from danlu.serving.journal import Outcome
from danlu.serving.notes import NotedEvents
from danlu.serving.redact_stream import RedactedEvents
from danlu.serving.replies import JSON_TYPE, error_event, retry_after
from danlu.serving.router import Router
from danlu.serving.watch import Reason, Watch

_LOG = logging.getLogger("danlu.serving.relay")
DRAIN_S = 1.0
"""After `[DONE]`, for the end of the engine's message, so that its connection can be used again."""
STOP_S, GONE_STOP_S = 2.0, 10.0
"""For an engine to say what an answer came to that ended before its time: a step of it, as a rule, which on a busy
machine is a long one. The first while a client still waits for its answer's end."""
MOST_SAID_BYTES = 64 * 2**10
MOST_SAID_CHARS = 300
MOST_KEPT_BYTES = 2**20
"""Of an answer whose key keeps bodies."""
_PATHS_IN_TEXT = re.compile(r"(?:/[\w.@-]+){2,}/?")
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
_LONG_CODES = frozenset(("context_length_exceeded", "exceed_context_size_error"))
"""OpenAI's, and ours; llama.cpp's."""
_TOO_LONG = re.compile(
    r"maximum (?:context|model) length|model's context length|context (?:length|size|window).{0,40}exceeded"
    r"|input \(\d+ tokens\) is too large|exceeds? (?:the|this model's) (?:available |maximum )?context",
    re.IGNORECASE,
)
"""How engines without a code for it say that a prompt is too long: vLLM, SGLang, others. llama.cpp says it of a text to
embed as a fault of its own, with 500, which would let any client have it taken for broken."""
_PROMPTS: dict[Kind, str] = {"chat": "messages", "completion": "prompt", "embedding": "input"}
_DECLINED = frozenset((400, 413, 415, 422))
_BUSY = frozenset((429, 503))
_WORTH_ANOTHER = frozenset((404, 429, 502, 503, 504))
"""Not 500: what broke one engine would break the next."""


class _StatusError(Exception):
    """An engine's answer other than 200."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Relay:
    """Carries answers. One a worker; what belongs to one answer is in `_Passage`."""

    def __init__(self, client: Client, router: Router, caps: Caps) -> None:
        self.client, self.router, self.caps = client, router, caps

    async def carry(self, call: Call, ask: Ask, account: Account) -> bytes:
        """Ask, pass on, settle. What was passed on is returned where the key keeps bodies. RefusedError while the
        client can still be told; GoneError where it cannot."""
        passage = _Passage(self, call, ask, account)
        try:
            await (passage.stream() if ask.is_stream else passage.whole())
        except asyncio.CancelledError as cancelled:
            if not passage.watch.reason:  # the worker is being stopped
                await passage.cut()
                raise
            await passage.interrupted(passage.watch.took(cancelled))
        except (aiohttp.ClientError, OSError, BrokenError, _StatusError) as fault:
            await passage.broken(fault)
        except RefusedError as refused:  # the engine declined
            await passage.fail(refused, "refused")
        finally:
            passage.close()
        return b"".join(passage.kept)


class _Passage:
    """One answer on its way."""

    def __init__(self, relay: Relay, call: Call, ask: Ask, account: Account) -> None:
        self.relay, self.call, self.ask, self.account = relay, call, ask, account
        self.watch = Watch(call, relay.caps, is_stream=ask.is_stream)
        self.response: aiohttp.ClientResponse | None = None
        self.events = self._new_events()
        self.kept: list[bytes] = []
        self._num_kept = 0
        self._is_sending = False
        self._whole: dict[str, Any] = {}
        """The answer that is no stream."""

    # ---- the two kinds of answers

    async def whole(self) -> None:
        said = await self._begun()
        ask, account = self.ask, self.account
        usage = usage_in(self._whole)
        answer = cleaned(self._whole, ask.id, account.lease.lens.name)
        if account.redacted is not None:
            answer = await account.redacted.whole(answer)
        body = orjson.dumps(answer if account.noted is None else account.noted.whole(answer))
        self.watch.end()
        found = usage or Usage(ask.num_prompt_tokens, min(ask.most_tokens, self._tokens_in(said)))
        await account.settle("done", 200, found, is_counted=usage is not None, whole_s=self.call.since())
        self._keep(body)
        await self.call.begin(200, [JSON_TYPE, *self._headers(), (b"content-length", b"%d" % len(body))])
        await self._end(body)

    async def stream(self) -> None:
        data = await self._begun()
        assert self.response is not None, "an answer that began has a response"
        content, events, watch = self.response.content, self.events, self.watch
        await self.call.begin(200, [*_STREAM_HEADERS, *self._headers()])
        while not events.is_done:
            if data:
                self._keep(data)
                self._is_sending = True
                await self.call.more(data)
                self._is_sending = False
            if events.fault:
                raise BrokenError(events.fault)
            piece = await content.readany()
            if not piece:
                raise BrokenError("the stream ended before [DONE]")
            watch.seen()
            data = events.feed(piece)
        watch.end()
        self._keep(data)
        await self._settle_stream("done", 200)
        await self._end(data)
        await self._drain()

    async def _begun(self) -> bytes:
        """An answer that has begun well: of a stream the first events, else all of it."""
        while True:
            lease = self.account.lease
            try:
                self.response = await self.relay.client.post(
                    lease.address, self.ask.kind, lease.body, secret=lease.secret, id=self.ask.id
                )
                await self._check_status(self.response)
                data = await self._first(self.response)
            except (aiohttp.ClientError, OSError, BrokenError, _StatusError) as fault:
                if not self._again(fault):
                    raise
            else:
                self.account.tally.first_s = self.call.since()
                return data

    def _again(self, fault: Exception) -> bool:
        if self.response is not None:
            self.response.close()
            self.response = None
        status = fault.status if isinstance(fault, _StatusError) else 0
        if status and status not in _WORTH_ANOTHER:
            return False
        self.events = self._new_events()
        outcome: Outcome = "refused" if status == 429 else "failed"
        return self.account.again(self.relay.router, self.relay.caps, fault, outcome)

    async def _first(self, response: aiohttp.ClientResponse) -> bytes:
        content, caps = response.content, self.relay.caps
        wanted = "text/event-stream" if self.ask.is_stream else "application/json"
        if response.content_type != wanted:
            raise BrokenError(f"{response.content_type} instead of {wanted}")
        if self.ask.is_stream:
            while piece := await content.readany():
                self.watch.seen()
                if data := self.events.feed(piece):
                    return data
                if self.events.fault:
                    break
            raise BrokenError(self.events.fault or "the stream ended before it began")
        parts, size = [], 0
        while piece := await content.readany():
            parts.append(piece)
            size += len(piece)
            if size > caps.most_reply_bytes:
                raise BrokenError(f"an answer of more than {caps.most_reply_bytes} bytes")
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._whole = _checked(body, self.ask)
        return body

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == 200:
            return
        if status in _DECLINED or status == 500:
            refused = self._declined(await response.content.read(MOST_SAID_BYTES))
            if status in _DECLINED or refused.code == "context_length_exceeded":
                raise refused
        raise _StatusError(status)

    def _declined(self, body: bytes) -> RefusedError:
        """The engine's own words, under OpenAI's code where they say what OpenAI has a code for."""
        said, code = _said(body, self.account.lease.secret)
        if code in _LONG_CODES or _TOO_LONG.search(said):
            param = _PROMPTS[self.ask.kind]
            return RefusedError("gateway.context_length_exceeded_said", param=param, said=said)
        return RefusedError("gateway.engine_declined", said=said)

    # ---- how it can end otherwise

    async def interrupted(self, reason: Reason) -> None:
        """By the watch."""
        self.close()
        is_left = reason == "gone" or self._is_sending  # or it takes nothing any more
        usage = await self._stopped(GONE_STOP_S if is_left else STOP_S)
        if is_left:
            self.account.tally.code = "client_gone" if reason == "gone" else "client_stalled"
            if not self.call.is_begun:
                self.call.tally.status = 499
            await self._settle_aborted(usage)
            raise GoneError
        caps = self.relay.caps
        most_s = {"first": caps.first_s, "between": caps.between_s}.get(reason, caps.whole_s)
        await self.fail(RefusedError("gateway.engine_timeout", status=504, what=reason, most_s=most_s), "failed", usage)

    async def cut(self) -> None:
        """By ourselves: what was answered so far is settled, and the client sees the connection end."""
        self.close()
        self.account.tally.code = "server_stopped"
        try:
            usage = await self._stopped(STOP_S)
        except asyncio.CancelledError:  # again: there is no time left to ask
            usage = None
        await self._settle_aborted(usage)

    async def broken(self, fault: Exception) -> None:
        """By the engine."""
        status = fault.status if isinstance(fault, _StatusError) else 0
        if status in _BUSY:
            refused = RefusedError("gateway.engine_busy", status=503, headers=retry_after(1.0))
        else:
            refused = RefusedError("gateway.engine_failed", status=502)
        self.watch.end()
        usage = None
        if self.call.is_begun:
            self.close()
            usage = await self._stopped(STOP_S)
        await self.fail(refused, "refused" if status == 429 else "failed", usage)

    async def fail(self, refused: RefusedError, outcome: Outcome, usage: Usage | None = None) -> None:
        """Settle, and tell the client as long as it can be told: by the reply, or by the stream's last event."""
        self.watch.end()
        self.account.tally.code = refused.code
        refused.headers += tuple(self._headers())
        if not self.call.is_begun:
            found, is_counted = usage or Usage(0, 0), usage is not None
            await self.account.settle(outcome, refused.status, found, is_counted=is_counted, whole_s=self.call.since())
            raise refused
        await self._settle_stream("failed", 200, usage)
        await self._end(error_event(refused))

    def close(self) -> None:
        """Let the engine go: a connection that is not at its end is closed, and that stops its work."""
        self.watch.end()
        if self.response is not None:
            if self.response.content.at_eof():
                self.response.release()
            else:
                self.response.close()

    # ---- settling

    async def _stopped(self, within_s: float) -> Usage | None:
        """What the engine computed for this answer, which it has ended by now; None where it cannot say, or does not.
        Less than it had told already is another process' word."""
        account = self.account
        if not account.lease.stops:
            return None
        try:
            async with asyncio.timeout(within_s):
                client = self.relay.client
                usage = await client.stop(account.lease.address, self.ask.id, secret=account.lease.secret)
        except (TimeoutError, aiohttp.ClientError, OSError, BrokenError) as fault:
            _LOG.warning("%s did not say what %s came to: %r", account.lease.replica.name, self.ask.id, fault)
            usage = None
        told = self.events.usage
        if usage is not None and (told is None or usage.answer_tokens >= told.answer_tokens):
            return usage
        account.tally.is_unstopped = True
        return None

    async def _settle_stream(self, outcome: Outcome, status: int, usage: Usage | None = None) -> None:
        """`usage`: the engine's last word where the stream has not got it."""
        events, tally = self.events, self.account.tally
        usage = usage or events.usage
        found = usage or Usage(self.ask.num_prompt_tokens, events.num_tokens)
        is_counted = usage is not None and not tally.is_unstopped
        tally.num_events = events.num_tokens
        await self.account.settle(outcome, status, found, is_counted=is_counted, whole_s=self.call.since())

    async def _settle_aborted(self, usage: Usage | None) -> None:
        """What an engine did for an answer that nobody waited for is unknown where neither it nor a stream tells: as
        reserved."""
        if self.ask.is_stream:
            await self._settle_stream("aborted", 200 if self.call.is_begun else 499, usage)
            return
        found, is_counted = usage or Usage(self.ask.num_prompt_tokens, self.ask.most_tokens), usage is not None
        await self.account.settle("aborted", 499, found, is_counted=is_counted, whole_s=self.call.since())

    async def _drain(self) -> None:
        assert self.response is not None, "an answer that was sent has a response"
        content = self.response.content
        try:
            async with asyncio.timeout(DRAIN_S):
                while not content.at_eof() and await content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            self.response.close()

    # ---- small things

    async def _end(self, data: bytes) -> None:
        """The last bytes. Nothing watches any more, so a client that does not take them is left here."""
        try:
            async with asyncio.timeout(self.relay.caps.between_s):
                await self.call.end(data)
        except TimeoutError:
            raise GoneError from None

    def _new_events(self) -> Events | RedactedEvents | NotedEvents:
        lens = self.account.lease.lens.name
        redacted, noted, caps = self.account.redacted, self.account.noted, self.relay.caps
        own = Events(self.ask.id, lens, wants_usage=self.ask.wants_usage, most_bytes=caps.most_event_bytes)
        events = own if redacted is None else redacted.events(own)
        return events if noted is None else noted.events(events)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        found = [(b"x-danlu-lens", quote(self.account.lease.lens.name, safe="@:").encode())]
        if self.ask.ignored:
            found.append((b"x-danlu-ignored", ", ".join(self.ask.ignored).encode()))
        if self.account.redacted is not None:
            found += self.account.redacted.headers()
        if self.account.noted is not None:
            found += self.account.noted.headers()
        return found + list(self.account.admission.headers)

    def _keep(self, data: bytes) -> None:
        if self.account.admission.key.keeps_bodies and self._num_kept < MOST_KEPT_BYTES:
            self.kept.append(data[: MOST_KEPT_BYTES - self._num_kept])
            self._num_kept += len(data)

    def _tokens_in(self, body: bytes) -> int:
        return math.ceil(len(body) / self.relay.caps.bytes_per_token)


def _checked(body: bytes, ask: Ask) -> dict[str, Any]:
    """The answer as JSON: an object with what its kind must have. BrokenError."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BrokenError("an answer that is no JSON") from None
    if type(value) is not dict or ("data" if ask.kind == "embedding" else "choices") not in value:
        raise BrokenError("an answer without choices")
    return value


def _said(body: bytes, secret: str) -> tuple[str, str]:
    """An engine's own words about a request, for the client: short, on one line, without paths and secrets. And its
    code, or type, for them."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "it gives no reason", ""
    code = ""
    for name in ("error", "message", "detail"):
        while type(value) is dict and name in value:
            code = next((one for one in (value.get("code"), value.get("type")) if type(one) is str), code)
            value = value[name]
    text = value if type(value) is str else "it gives no reason"
    text = text.replace(secret, "***") if secret else text
    text = _PATHS_IN_TEXT.sub("…", "".join(c if c.isprintable() else " " for c in text))
    return text[:MOST_SAID_CHARS], code
