"""Limits: requests and tokens a minute, concurrency and a monthly quota, reserved before an engine is asked and settled
to what it counted. Exact: what is admitted never exceeds a limit, however many ask at once or hang up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from danlu.serving.keys import Key

What = Literal["requests", "tokens", "concurrency", "quota", "store"]


@dataclass(frozen=True, slots=True)
class Admission:
    """An accepted reservation: hand it back to `settle` exactly once."""

    key: Key
    reserved_tokens: int
    time: float
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """`x-ratelimit-…` as OpenAI names them, ready to send."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit, its value, and after how many seconds it is worth asking again (0: never by waiting)."""

    what: What
    limit: int
    retry_s: float
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Limiter(Protocol):
    """Local limiters answer at once; Redis takes a round trip, hence the coroutine."""

    async def reserve(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal: ...

    async def settle(self, admission: Admission, num_tokens: int, now: float) -> None:
        """What was reserved and not used is given back; more than was reserved is charged."""
        ...
