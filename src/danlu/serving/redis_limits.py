"""The limiter of `limits.py` for several machines: the same window and the same quota, kept in Redis (`limits.lua`).

One script call reserves and one settles; Redis runs them one after another, by its own clock (`TIME`, a wall clock: one
that jumps ahead opens a window once; one that is set back keeps what counted for a minute). What is open is a lease;
a living worker renews its leases, so a killed one's concurrency and reservations come back after `LEASE_S`. A settling
that comes later than that charges what was used in full.

Where Redis is away: a key with a monthly quota is refused, for nobody knows what is left of it; for all others each of
`num_workers` counts by itself and admits its share of the limits (rounded down: a share of nothing is refused), and
`alarm` says so. A worker counts what it admitted with Redis into its share, and tells Redis what it admitted without:
so the minute of such a change goes over a limit only as far as its requests were spread unevenly over workers, at
worst to just below twice of it. Settlings are kept and sent when Redis is back. One that lost its memory is told the
month's usage by `spent` before a quota admits anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import secrets
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import resources
from typing import Any, TypeAlias

from danlu.core.errors import RunError
from danlu.serving.absence import Absence
from danlu.serving.keys import Key
from danlu.serving.limits import AGAIN_S, Admission, LocalLimiter, Month, Refusal, What, begin_of, headers_of, month_of
from danlu.serving.redis_calls import Calls

LEASE_S = 15.0
ANSWER_S = 1.0
"""So long one call may take before Redis counts as away."""
PAUSE_S = 1.0
"""How often it is looked for then."""
_MOST_OWED = 100_000
_WHATS: tuple[What, ...] = ("requests", "tokens", "concurrency", "quota")
Spent: TypeAlias = Callable[[str, float], Awaitable[int | None]]


class RedisLimiter:
    """See the file's docstring. One a worker; `spent(key_id, now)` tells a month's usage, or None when it cannot. Who
    wants to know that Redis is away, and for how long it was: `gone`, `back`, once each."""

    def __init__(
        self,
        url: str,
        *,
        num_workers: int = 1,
        spent: Spent | None = None,
        lease_s: float = LEASE_S,
        uses_own_clock: bool = False,
        gone: Callable[[Exception], None] | None = None,
        back: Callable[[float], None] | None = None,
    ) -> None:
        try:
            import redis.asyncio as redis  # an extra: most have one machine
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as error:
            raise RunError("keys.no_redis", where="serving.limits") from error
        try:
            # no second try by itself: it would count a request twice
            self._client = redis.Redis.from_url(
                url, socket_timeout=ANSWER_S, socket_connect_timeout=ANSWER_S, retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )  # fmt: skip
        except ValueError as error:
            raise RunError("keys.bad_redis_url", where="serving.limits") from error
        script = resources.files("danlu.serving").joinpath("limits.lua").read_text(encoding="utf-8")
        self._calls = Calls(self._client, script, self._given_up)
        self._errors: tuple[type[Exception], ...] = (redis.RedisError, OSError, TimeoutError)
        self._spent, self._uses_own_clock = spent, uses_own_clock
        self._lease_s = lease_s
        self._month, self._alone, self._num_workers = Month(), LocalLimiter(), num_workers
        self._shares: dict[Key, Key | None] = {}
        self._worker, self._count = secrets.token_hex(6), itertools.count()
        self._open: dict[str, Admission | None] = {}
        """Leases to renew, with what stands for them in this worker's own count."""
        self._owed: deque[tuple[Admission, int, bool]] = deque(maxlen=_MOST_OWED)
        self._untold: deque[tuple[Admission, int]] = deque(maxlen=_MOST_OWED)
        """What was admitted while Redis was away."""
        self._unrestored: dict[str, int] = {}
        self._care: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._absence = Absence(gone, back)
        self.alarm = ""

    async def reserve(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal:
        assert num_tokens >= 0, "tokens are counted from nothing"
        if not (key.requests_per_minute or key.tokens_per_minute or key.concurrency or key.tokens_per_month):
            return Admission(key, num_tokens, now)
        self._begin()
        if self.alarm:
            return self._reserve_alone(key, num_tokens, now)
        try:
            told = await self._ask_reserve(key, num_tokens, now, -1)
            if told[0] == -1:
                spent = await self._spent(key.id, begin_of(told[5])) if self._spent is not None else 0
                if spent is None:
                    return Refusal("store", 0, AGAIN_S, headers_of(key, 0, 0, AGAIN_S))
                told = await self._ask_reserve(key, num_tokens, now, spent)
        except self._errors as error:
            self._lose_sight(error)
            return self._reserve_alone(key, num_tokens, now)
        what, requests, tokens, retry, lease, month = told
        if what:
            return self._refused(key, _WHATS[what - 1], requests, tokens, float(retry), num_tokens, now)
        self._open[lease] = self._alone.count_now(key, num_tokens, now)
        second = int(lease.split("|")[1])
        return Admission(key, num_tokens, now, headers_of(key, requests, tokens), second, month, lease)

    async def settle(self, admission: Admission, num_tokens: int, now: float) -> None:
        """As the protocol says; a caller that is cancelled meanwhile does not undo it."""
        assert num_tokens >= 0, "tokens are counted from nothing"
        if not admission.lease:
            self._alone.settle_now(admission, num_tokens, now)
            if admission.second >= 0:
                self._untold.append((admission, num_tokens))
            return
        counted = self._open.pop(admission.lease, None)
        if counted is not None:
            self._alone.settle_now(counted, num_tokens, now)
        if self.alarm:
            self._owed.append((admission, num_tokens, False))
            return
        await asyncio.shield(asyncio.create_task(self._settle(admission, num_tokens, now)))

    async def restore(self, spent: Mapping[str, int], now: float) -> None:
        """Where Redis is away: as soon as it is back."""
        self._begin()
        self._unrestored |= spent
        if self.alarm:
            return
        try:
            await self._restore(now)
        except self._errors as error:
            self._lose_sight(error)

    async def close(self) -> None:
        if self._care is not None:
            self._care.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._care
        if not self.alarm:
            with contextlib.suppress(*self._errors):
                await self._pay()
        await self._client.aclose()

    def _begin(self) -> None:
        if self._care is None:
            self._care = asyncio.create_task(self._look_after())

    async def _restore(self, now: float) -> None:
        month = month_of(now)[1]
        await asyncio.gather(*(self._act(key_id, "restore", now, n, month) for key_id, n in self._unrestored.items()))
        self._unrestored.clear()

    async def _ask_reserve(self, key: Key, num_tokens: int, now: float, spent: int) -> Any:
        return await self._act(
            key.id, "reserve", now, num_tokens, key.requests_per_minute, key.tokens_per_minute, key.concurrency,
            key.tokens_per_month, spent, f"{self._worker}.{next(self._count)}", self._lease_s,
        )  # fmt: skip

    async def _act(self, key_id: str, act: str, now: float, *more: str | float) -> Any:
        names = f"danlu:{{{key_id}}}", f"danlu:{{{key_id}}}:open"
        clock = now if self._uses_own_clock else 0
        return await self._calls.ask(names, (act, clock, *more))

    def _given_up(self, keys: Sequence[str], args: Sequence[str | float], answer: Any) -> None:
        """A caller hung up while its reservation was made: nobody will settle it but we."""
        if args[0] != "reserve" or answer[0] != 0:
            return
        _, second, month, tokens = answer[4].split("|")
        nobody = Key(keys[0].removeprefix("danlu:{").removesuffix("}"), "", ())
        self._owed.append(
            (Admission(nobody, int(tokens), time.time(), (), int(second), int(month), answer[4]), 0, False)
        )
        self._wake.set()

    async def _settle(self, admission: Admission, num_tokens: int, now: float) -> None:
        try:
            await self._ask_settle(admission, num_tokens, False, now)
        except self._errors as error:
            self._owed.append((admission, num_tokens, True))  # it may have come there all the same
            self._lose_sight(error)

    async def _ask_settle(self, admission: Admission, num_tokens: int, is_repeated: bool, now: float) -> None:
        await self._act(
            admission.key.id, "settle", now, admission.lease, admission.second, admission.month,
            admission.reserved_tokens, num_tokens, int(is_repeated),
        )  # fmt: skip

    def _refused(
        self, key: Key, what: What, requests: int, tokens: int, retry_s: float, num_tokens: int, now: float
    ) -> Refusal:
        limits = {
            "requests": key.requests_per_minute, "tokens": key.tokens_per_minute, "concurrency": key.concurrency,
            "quota": key.tokens_per_month,
        }  # fmt: skip
        if what == "quota" and num_tokens <= key.tokens_per_month:
            self._month.number(now)
            retry_s = self._month.ends - now
        return Refusal(what, limits[what], retry_s, headers_of(key, requests, tokens, retry_s))

    def _lose_sight(self, error: Exception) -> None:
        self._absence.missed(error)
        self.alarm = f"Redis is away: {type(error).__name__}: {error}"[:300]
        self._wake.set()

    def _reserve_alone(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal:
        share = self._share(key)
        if share is None:
            return Refusal("store", 0, PAUSE_S, headers_of(key, 0, 0, PAUSE_S))
        found = self._alone.reserve_now(share, num_tokens, now)
        return dataclasses.replace(found, key=key) if isinstance(found, Admission) else found

    def _share(self, key: Key) -> Key | None:
        """The key with this worker's part of its limits; None where it has none to give."""
        if key not in self._shares:
            if len(self._shares) > _MOST_OWED:
                self._shares.clear()
            limits = key.requests_per_minute, key.tokens_per_minute, key.concurrency
            requests, tokens, concurrency = parts = [limit // self._num_workers for limit in limits]
            is_none = key.tokens_per_month or any(limit and not part for limit, part in zip(limits, parts, strict=True))
            share = dataclasses.replace(
                key, requests_per_minute=requests, tokens_per_minute=tokens, concurrency=concurrency
            )
            self._shares[key] = None if is_none else share
        return self._shares[key]

    async def _look_after(self) -> None:
        """Renew leases; when Redis is away, look for it, and pay what is owed when it is back."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease_s / 3):  # `wait_for` may swallow a cancellation
                    await self._wake.wait()
            self._wake.clear()
            if self.alarm:
                await asyncio.sleep(PAUSE_S)
            try:
                await self._renew()
                await self._pay()
            except self._errors as error:
                self._lose_sight(error)
            else:
                self.alarm = ""
                self._absence.found()

    async def _renew(self) -> None:
        of_key: dict[str, list[str]] = defaultdict(list)
        for lease, counted in self._open.items():
            if counted is not None:
                of_key[counted.key.id].append(lease)
        for key_id, leases in of_key.items():
            for first in range(0, len(leases), 1000):
                await self._act(key_id, "renew", 0, self._lease_s, *leases[first : first + 1000])
        if not of_key:
            await self._client.ping()

    async def _pay(self) -> None:
        if self._unrestored:
            await self._restore(time.time())
        while self._owed:
            admission, num_tokens, is_repeated = self._owed[0]
            self._owed[0] = admission, num_tokens, True
            await self._ask_settle(admission, num_tokens, is_repeated, admission.time)
            self._owed.popleft()
        while self._untold:
            admission, num_tokens = self._untold[0]
            ago = max(0, int(self._alone.clock()) - admission.second)
            await self._act(admission.key.id, "charge", admission.time, ago, 1, num_tokens)
            self._untold.popleft()
