"""What only the limiter in Redis does: leases, and a Redis that is away, frozen, or has lost its memory."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest
from limit_kit import NOW, key

from danlu.serving.limits import Admission, Refusal
from danlu.serving.redis_limits import RedisLimiter
from servers import RedisServer, running_redis
from waiting_kit import until


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """One that may be stopped."""
    pytest.importorskip("redis")
    with running_redis() as server:
        yield server


def test_a_dead_workers_leases_run_out(redis_url: str) -> None:
    async def ask() -> None:
        dead, asked = (
            RedisLimiter(redis_url, lease_s=5.0, uses_own_clock=True),
            key(concurrency=1, tokens_per_minute=100, tokens_per_month=100),
        )
        lost = await dead.reserve(asked, 80, NOW)
        living = RedisLimiter(redis_url, lease_s=5.0, uses_own_clock=True)
        assert (await living.reserve(asked, 10, NOW + 4.9)).what == "concurrency"
        found = await living.reserve(asked, 100, NOW + 5.1)
        assert isinstance(found, Admission)  # concurrency, the minute's tokens and the quota came back
        await living.settle(found, 10, NOW + 5.2)
        await dead.settle(lost, 70, NOW + 6)  # it was not dead: what it used is charged in full
        assert (await living.reserve(asked, 21, NOW + 7)).what == "tokens"
        assert (await living.reserve(asked, 21, NOW + 70)).what == "quota"
        assert isinstance(await living.reserve(asked, 20, NOW + 71), Admission)
        await dead.close()
        await living.close()

    asyncio.run(ask())


def test_a_living_workers_leases_are_renewed(redis_url: str) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(redis_url, lease_s=0.6), key(concurrency=1)
        found = await limiter.reserve(asked, 1, time.time())
        await asyncio.sleep(1.5)
        assert (await limiter.reserve(asked, 1, time.time())).what == "concurrency"
        await limiter.settle(found, 1, time.time())
        assert isinstance(await limiter.reserve(asked, 1, time.time()), Admission)
        await limiter.close()

    asyncio.run(ask())


def test_without_redis_quotas_are_closed_and_rates_are_shared_out(own_redis: RedisServer) -> None:
    async def ask() -> None:
        limiter = RedisLimiter(own_redis.url, num_workers=4)
        rate, quota, small = key("r", requests_per_minute=10), key("q", tokens_per_month=100), key("s", concurrency=3)
        kept = await limiter.reserve(rate, 5, time.time())
        own_redis.stop()
        assert (await limiter.reserve(quota, 1, time.time())).what == "store"
        assert "Redis is away" in limiter.alarm
        found = [await limiter.reserve(rate, 1, time.time()) for _ in range(4)]
        assert [isinstance(one, Admission) for one in found] == [True, False, False, False]  # 10 // 4, and one before
        assert (await limiter.reserve(small, 1, time.time())).what == "store"  # 3 // 4: better none than too many
        assert isinstance(await limiter.reserve(key("u"), 1, time.time()), Admission)
        await limiter.settle(kept, 3, time.time())
        await limiter.settle(found[0], 1, time.time())
        own_redis.start()
        await until(lambda: not limiter.alarm)
        assert isinstance(await limiter.reserve(quota, 1, time.time()), Admission)
        after = await limiter.reserve(rate, 1, time.time())
        assert dict(after.headers)[b"x-ratelimit-remaining-requests"] == b"8"  # it was told what passed without it
        await limiter.close()

    asyncio.run(ask())


def test_a_frozen_redis_delays_one_request_not_all(own_redis: RedisServer) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(own_redis.url), key(requests_per_minute=1000)
        await limiter.reserve(asked, 1, time.time())
        own_redis.freeze()
        began = time.monotonic()
        for _ in range(20):
            assert isinstance(await limiter.reserve(asked, 1, time.time()), Admission)
        assert time.monotonic() - began < 30 and limiter.alarm
        own_redis.thaw()
        await limiter.close()

    asyncio.run(ask())


def test_what_is_settled_while_redis_is_away_is_paid_once(own_redis: RedisServer) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(own_redis.url, lease_s=1e6, uses_own_clock=True), key(tokens_per_month=100)
        found = await limiter.reserve(asked, 60, NOW)
        own_redis.freeze()
        await limiter.settle(found, 30, NOW)  # sent, and no word comes back
        assert limiter.alarm
        own_redis.thaw()
        await until(lambda: not limiter.alarm)
        assert isinstance(await limiter.reserve(asked, 70, NOW), Admission)
        assert (await limiter.reserve(asked, 1, NOW)).what == "quota"
        await limiter.close()

    asyncio.run(ask())


def test_a_redis_that_lost_its_memory_asks_usage_first(own_redis: RedisServer) -> None:
    async def ask() -> None:
        async def spent(key_id: str, now: float) -> int | None:
            return told.get(key_id)

        told: dict[str, int] = {}
        limiter, asked = RedisLimiter(own_redis.url, spent=spent), key("q", tokens_per_month=100)
        assert (await limiter.reserve(asked, 1, time.time())).what == "store"  # usage cannot tell either
        told["q"] = 95
        assert (await limiter.reserve(asked, 6, time.time())).what == "quota"
        assert isinstance(await limiter.reserve(asked, 5, time.time()), Admission)
        await limiter.close()

    asyncio.run(ask())


def test_a_caller_that_hangs_up_while_it_reserves_leaves_nothing_reserved(redis_url: str) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(redis_url), key(concurrency=1, tokens_per_month=10)
        reserving = asyncio.create_task(limiter.reserve(asked, 10, time.time()))
        await asyncio.sleep(0)
        reserving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reserving
        found: Admission | Refusal = await limiter.reserve(asked, 10, time.time())
        while isinstance(found, Refusal):  # for ever, if its place never comes back
            await asyncio.sleep(0.02)
            found = await limiter.reserve(asked, 10, time.time())
        assert isinstance(found, Admission)
        await limiter.close()

    asyncio.run(ask())


def test_a_caller_that_is_cancelled_still_settles(redis_url: str) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(redis_url), key(concurrency=1)
        found = await limiter.reserve(asked, 1, time.time())
        settling = asyncio.create_task(limiter.settle(found, 1, time.time()))
        await asyncio.sleep(0)
        settling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await settling
        await asyncio.sleep(0.2)
        assert isinstance(await limiter.reserve(asked, 1, time.time()), Admission)
        await limiter.close()

    asyncio.run(ask())


def test_a_worker_that_starts_without_redis_restores_quotas_when_it_is_there(own_redis: RedisServer) -> None:
    async def ask() -> None:
        own_redis.stop()
        limiter, asked = RedisLimiter(own_redis.url, lease_s=1e6, uses_own_clock=True), key("q", tokens_per_month=100)
        await limiter.restore({"q": 95}, NOW)
        assert limiter.alarm and (await limiter.reserve(asked, 1, NOW)).what == "store"
        own_redis.start()
        await until(lambda: not limiter.alarm)
        assert (await limiter.reserve(asked, 6, NOW)).what == "quota"
        assert isinstance(await limiter.reserve(asked, 5, NOW), Admission)
        await limiter.close()

    asyncio.run(ask())
