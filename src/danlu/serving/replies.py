"""What the gateway itself says: errors in OpenAI's shape, small JSON answers, and the headers of both.

Clients parse errors, so `message` is English and `code` is the machine's word for it; the texts of both languages lie
in the catalogues, where the documentation takes them from.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import orjson

from danlu.openai.refused import Headers, RefusedError
from danlu.serving.limits import Refusal

JSON_TYPE = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    headers: Headers = (JSON_TYPE,)


def new_id(prefix: str) -> str:
    """Not to be guessed: feedback is given by it."""
    return prefix + os.urandom(12).hex()


def json_reply(value: Any, headers: Headers = ()) -> Reply:
    return Reply(200, orjson.dumps(value), (JSON_TYPE, *headers))


def error_reply(refused: RefusedError) -> Reply:
    return Reply(refused.status, orjson.dumps(refused.to_json()), (JSON_TYPE, *refused.headers))


def error_event(refused: RefusedError) -> bytes:
    """The last event of a stream that broke: OpenAI's clients raise it, and no `[DONE]` follows."""
    return b"data: " + orjson.dumps(refused.to_json()) + b"\n\n"


def limit_error(refusal: Refusal) -> RefusedError:
    """What a limiter's refusal is to a client. `x-should-retry: false` keeps OpenAI's client from trying in vain."""
    headers, never = refusal.headers, (b"x-should-retry", b"false")
    if refusal.retry_s > 0 and not any(name == b"retry-after" for name, _ in headers):
        headers += retry_after(refusal.retry_s)
    if refusal.what == "store":
        return RefusedError("gateway.limits_unavailable", status=503, headers=headers)
    if refusal.what == "quota":
        return RefusedError("gateway.insufficient_quota", status=429, headers=(*headers, never), limit=refusal.limit)
    if refusal.retry_s <= 0:
        key, headers = "gateway.request_too_large", (*headers, never)
    else:
        key = "gateway.rate_limit_exceeded"
    return RefusedError(key, status=429, headers=headers, what=refusal.what, limit=refusal.limit)


def retry_after(seconds: float) -> Headers:
    return ((b"retry-after", b"%d" % max(1, math.ceil(seconds))),)
