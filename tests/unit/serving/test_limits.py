"""Limiters of all kinds against one model, and what clients are told."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limit_kit import JANUARY, LIMITS, NOW, STEPS, Clocked, hold_to_model, key

from danlu.serving.limits import Admission, Limiter, LocalLimiter, Refusal
from danlu.serving.redis_limits import RedisLimiter


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=150)
def test_a_local_limiter_does_what_the_model_does(limits: dict[str, int], steps: list, begins: float) -> None:
    asyncio.run(hold_to_model(Clocked(), key(**limits), steps, begins))


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=60)
def test_a_shared_table_does_what_the_model_does(
    tmp_path: Path, limits: dict[str, int], steps: list, begins: float
) -> None:
    limiter = Clocked(tmp_path / os.urandom(6).hex(), most_keys=4)
    asyncio.run(hold_to_model(limiter, key(**limits), steps, begins))
    asyncio.run(limiter.close())


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=60)
def test_redis_does_what_the_model_does(redis_url: str, limits: dict[str, int], steps: list, begins: float) -> None:
    async def hold() -> None:
        limiter = RedisLimiter(redis_url, lease_s=1e6, uses_own_clock=True)
        await hold_to_model(limiter, key(os.urandom(6).hex(), **limits), steps, begins)
        assert not limiter.alarm
        await limiter.close()

    asyncio.run(hold())


@pytest.fixture(params=["private", "shared", "redis"])
def limiter_of(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    """Makes a limiter of each kind, by the caller's clock, with leases that do not run out."""

    @contextlib.asynccontextmanager
    async def make() -> AsyncIterator[Limiter]:
        if request.param == "redis":
            url = request.getfixturevalue("redis_url")
            limiter: Limiter = RedisLimiter(url, lease_s=1e6, uses_own_clock=True)
        else:
            limiter = Clocked(tmp_path / "table" if request.param == "shared" else None)
        try:
            yield limiter
        finally:
            await limiter.close()

    return make


def test_retry_after_tells_the_truth(limiter_of) -> None:
    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(requests_per_minute=2)
            await limiter.reserve(asked, 1, NOW)
            await limiter.reserve(asked, 1, NOW + 30)
            refusal = await limiter.reserve(asked, 1, NOW + 40)
            assert isinstance(refusal, Refusal)
            early = await limiter.reserve(asked, 1, NOW + 40 + refusal.retry_s - 0.01)
            assert isinstance(early, Refusal)
            assert isinstance(await limiter.reserve(asked, 1, NOW + 40 + refusal.retry_s), Admission)

    asyncio.run(ask())


def test_headers_are_those_openai_sends(limiter_of) -> None:
    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(requests_per_minute=1, tokens_per_minute=100)
            found = await limiter.reserve(asked, 40, NOW)
            assert dict(found.headers) == {
                b"x-ratelimit-limit-requests": b"1", b"x-ratelimit-remaining-requests": b"0",
                b"x-ratelimit-reset-requests": b"60s", b"x-ratelimit-limit-tokens": b"100",
                b"x-ratelimit-remaining-tokens": b"60", b"x-ratelimit-reset-tokens": b"60s",
            }  # fmt: skip
            refused = await limiter.reserve(asked, 40, NOW)
            assert dict(refused.headers)[b"retry-after"] == b"61"

    asyncio.run(ask())


def test_more_than_was_reserved_is_charged(limiter_of) -> None:
    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(tokens_per_minute=100, tokens_per_month=1000)
            await limiter.settle(await limiter.reserve(asked, 10, NOW), 95, NOW + 1)
            refusal = await limiter.reserve(asked, 10, NOW + 2)
            assert refusal.what == "tokens" and dict(refusal.headers)[b"x-ratelimit-remaining-tokens"] == b"5"
            assert isinstance(await limiter.reserve(asked, 5, NOW + 3), Admission)

    asyncio.run(ask())


def test_a_quota_is_restored_from_usage_and_ends_with_the_month(limiter_of) -> None:
    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(tokens_per_month=100)
            await limiter.restore({asked.id: 95}, JANUARY - 100)
            refusal = await limiter.reserve(asked, 10, JANUARY - 100)
            assert (refusal.what, refusal.retry_s) == ("quota", 100.0)
            over_midnight = await limiter.reserve(asked, 5, JANUARY - 1)
            await limiter.settle(over_midnight, 5, JANUARY + 1)  # is December's, whatever the clock says now
            assert isinstance(await limiter.reserve(asked, 100, JANUARY + 2), Admission)

    asyncio.run(ask())


def test_large_numbers_stay_whole(limiter_of) -> None:
    """Lua prints 1e15 and more as 1e+15 unless it is told not to."""

    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(tokens_per_minute=4 * 10**15, tokens_per_month=4 * 10**15)
            for _ in range(3):
                await limiter.settle(await limiter.reserve(asked, 10**15 + 1, NOW), 10**15 + 1, NOW)
            assert isinstance(await limiter.reserve(asked, 10**15 - 2, NOW), Refusal)
            assert isinstance(await limiter.reserve(asked, 10**15 - 3, NOW), Admission)

    asyncio.run(ask())


def test_a_reservation_costs_little() -> None:
    limiter, asked = LocalLimiter(), key(requests_per_minute=10**6, tokens_per_minute=10**9, tokens_per_month=10**9)

    async def pairs(num: int) -> float:
        began = time.process_time()
        for _ in range(num):
            await limiter.settle(await limiter.reserve(asked, 100, NOW), 50, NOW)
        return (time.process_time() - began) / num

    assert min(asyncio.run(pairs(2000)) for _ in range(5)) < 40e-6  # 6 us on a quiet core
