"""Both limiters against one model, and each at what only it does: seats and killed workers, leases and a Redis that is away."""

import asyncio
import contextlib
import datetime
import multiprocessing
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from danlu.serving.keys import Key
from danlu.serving.limit_table import CHANGING, SUM_TOKENS, Shared
from danlu.serving.limits import Admission, Limiter, LocalLimiter, Refusal, month_of
from danlu.serving.redis_limits import RedisLimiter
from servers import RedisServer, running_redis

NOW = 1_795_357_000.25
JANUARY = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp()


def key(id: str = "abcdefghijkl", **limits: int) -> Key:
    return Key(id, "a", ("*",), **limits)


@dataclass
class Model:
    """Limits as the docs say them, over a list of all that was admitted: slow and plain."""

    key: Key
    admitted: list[dict[str, float]] = field(default_factory=list)

    def reserve(self, tokens: int, now: float) -> str:
        window = [one for one in self.admitted if one["second"] >= int(now) - 60]
        month = [one for one in self.admitted if one["month"] == month_of(now)[1]]
        if self.key.requests_per_minute and len(window) + 1 > self.key.requests_per_minute:
            return "requests"
        if self.key.tokens_per_minute and sum(one["tokens"] for one in window) + tokens > self.key.tokens_per_minute:
            return "tokens"
        if self.key.concurrency and sum(one["open"] for one in self.admitted) + 1 > self.key.concurrency:
            return "concurrency"
        if self.key.tokens_per_month and sum(one["tokens"] for one in month) + tokens > self.key.tokens_per_month:
            return "quota"
        self.admitted.append({"second": int(now), "time": now, "month": month_of(now)[1], "tokens": tokens, "open": 1})
        return ""

    def settle(self, number: int, tokens: int) -> None:
        self.admitted[number] |= {"tokens": tokens, "open": 0}

    def most_in_a_minute(self, what: str) -> float:
        """The most in any 60 s, wherever they begin."""
        amount = (lambda one: one["tokens"]) if what == "tokens" else (lambda one: 1)
        starts = [one["time"] for one in self.admitted]
        return max(
            (sum(amount(one) for one in self.admitted if at <= one["time"] < at + 60) for at in starts), default=0
        )


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 60)),
        st.tuples(st.just("end"), st.tuples(st.integers(0, 50), st.floats(0, 1))),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.4, 1.0, 7.3, 59.7, 60.0, 61.0, 400.0])),
    ),
    max_size=80,
)
LIMITS = st.fixed_dictionaries({
    "requests_per_minute": st.sampled_from([0, 3, 8]), "tokens_per_minute": st.sampled_from([0, 50, 150]),
    "concurrency": st.sampled_from([0, 1, 4]), "tokens_per_month": st.sampled_from([0, 200, 400]),
})  # fmt: skip


async def hold_to_model(limiter: Limiter, asked: Key, steps: list[tuple[str, object]], now: float) -> None:
    """Settled tokens never exceed what was reserved here, as with an engine that keeps to its cap."""
    model, open_, num = Model(asked), [], 0
    for what, how in steps:
        if what == "wait":
            now += how
        elif what == "ask":
            found, told = await limiter.reserve(asked, how, now), model.reserve(how, now)
            assert (found.what if isinstance(found, Refusal) else "") == told, (what, how, now)
            if isinstance(found, Refusal):
                await check_retry(limiter, asked, found, how)
            else:
                open_.append((num, found))
                num += 1
        elif open_:
            number, admission = open_.pop(how[0] % len(open_))
            used = int(admission.reserved_tokens * how[1])
            await limiter.settle(admission, used, now)
            model.settle(number, used)
    if asked.requests_per_minute:
        assert model.most_in_a_minute("requests") <= asked.requests_per_minute
    if asked.tokens_per_minute:
        assert model.most_in_a_minute("tokens") <= asked.tokens_per_minute


async def check_retry(limiter: Limiter, asked: Key, refusal: Refusal, tokens: int) -> None:
    limits = {"requests": asked.requests_per_minute, "tokens": asked.tokens_per_minute,
              "concurrency": asked.concurrency, "quota": asked.tokens_per_month}  # fmt: skip
    assert refusal.limit == limits[refusal.what]
    never = refusal.what in ("tokens", "quota") and tokens > refusal.limit
    assert (refusal.retry_s == 0.0) == never
    if refusal.what in ("requests", "tokens"):
        assert refusal.retry_s <= 61
    assert (b"retry-after" in dict(refusal.headers)) == (not never)


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=150, deadline=None)
def test_a_local_limiter_does_what_the_model_does(limits: dict[str, int], steps: list, begins: float) -> None:
    asyncio.run(hold_to_model(LocalLimiter(), key(**limits), steps, begins))


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_shared_table_does_what_the_model_does(
    tmp_path: Path, limits: dict[str, int], steps: list, begins: float
) -> None:
    limiter = LocalLimiter(Shared(tmp_path / os.urandom(6).hex(), most_keys=4))
    asyncio.run(hold_to_model(limiter, key(**limits), steps, begins))
    asyncio.run(limiter.close())


@given(limits=LIMITS, steps=STEPS, begins=st.sampled_from([NOW, JANUARY - 70.5]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
            limiter = LocalLimiter(Shared(tmp_path / "table", most_keys=8) if request.param == "shared" else None)
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


def test_a_clock_that_is_set_back_opens_no_window(limiter_of) -> None:
    async def ask() -> None:
        async with limiter_of() as limiter:
            asked = key(requests_per_minute=3, concurrency=3, tokens_per_month=100)
            found = [await limiter.reserve(asked, 1, now) for now in (NOW, NOW - 3600, NOW - 40 * 86400)]
            assert isinstance(await limiter.reserve(asked, 1, NOW), Refusal)
            for one in found:
                await limiter.settle(one, 1, NOW - 3600)
            again = await limiter.reserve(asked, 97, NOW + 62)
            assert isinstance(again, Admission)  # nothing of concurrency or quota stayed behind

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


# What only the shared table does


def _hammer(path: Path, asked: Key, all_there: object, counts: object) -> None:
    async def work() -> None:
        limiter, admitted = LocalLimiter(Shared(path)), 0
        all_there.wait()
        for _ in range(400):
            time.sleep(0.0005)  # all get a turn
            found = await limiter.reserve(asked, 7, time.time())
            if isinstance(found, Admission):
                admitted += 1
                await limiter.settle(found, 3, time.time())
        counts.put(admitted)

    asyncio.run(work())


def test_workers_of_one_machine_count_together(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    counts, asked, all_there = spawn.Queue(), key(requests_per_minute=300), spawn.Barrier(3)
    children = [spawn.Process(target=_hammer, args=(tmp_path / "table", asked, all_there, counts)) for _ in range(3)]
    for child in children:
        child.start()
    admitted = [counts.get(timeout=30) for _ in children]
    for child in children:
        child.join()
    assert sum(admitted) == 300 and max(admitted) < 300


def _hold_open(path: Path, asked: Key, ready: object) -> None:
    async def work() -> None:
        limiter = LocalLimiter(Shared(path))
        found = [await limiter.reserve(asked, 50, time.time()) for _ in range(2)]
        ready.put(all(isinstance(one, Admission) for one in found))
        time.sleep(60)

    asyncio.run(work())


def test_a_killed_workers_places_come_back(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, asked = spawn.Queue(), key(concurrency=2, tokens_per_month=110)
    child = spawn.Process(target=_hold_open, args=(tmp_path / "table", asked, ready))
    child.start()
    assert ready.get(timeout=30)
    limiter = LocalLimiter(Shared(tmp_path / "table"))
    assert limiter.reserve_now(asked, 50, time.time()).what == "concurrency"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert isinstance(limiter.reserve_now(asked, 50, time.time()), Admission)


def test_a_worker_killed_in_the_middle_of_a_change_leaves_no_wrong_sum(tmp_path: Path) -> None:
    limiter, asked = LocalLimiter(Shared(tmp_path / "table")), key(tokens_per_minute=100)
    limiter.reserve_now(asked, 40, NOW)
    record = limiter._table.record(asked.id)
    record[CHANGING], record[SUM_TOKENS] = 1, 0  # died between the ring and the sum
    assert isinstance(limiter.reserve_now(asked, 61, NOW), Refusal)
    assert isinstance(limiter.reserve_now(asked, 60, NOW), Admission)


def test_a_restart_opens_no_window(tmp_path: Path) -> None:
    first, asked = LocalLimiter(Shared(tmp_path / "table")), key(requests_per_minute=1, concurrency=1)
    assert isinstance(first.reserve_now(asked, 1, NOW), Admission)
    asyncio.run(first.close())
    second = LocalLimiter(Shared(tmp_path / "table"))
    assert second.reserve_now(asked, 1, NOW + 1).what == "requests"
    assert isinstance(second.reserve_now(asked, 1, NOW + 61), Admission)


def test_a_full_table_refuses_and_is_made_anew_when_nobody_uses_it(tmp_path: Path) -> None:
    limiter = LocalLimiter(Shared(tmp_path / "table", most_keys=2))
    found = [limiter.reserve_now(key(f"k{number:011d}", concurrency=1), 1, NOW) for number in range(3)]
    assert [getattr(one, "what", "") for one in found] == ["", "", "store"]
    asyncio.run(limiter.close())
    limiter = LocalLimiter(Shared(tmp_path / "table", most_keys=2))
    assert isinstance(limiter.reserve_now(key("k00000000002", concurrency=1), 1, NOW), Admission)


# What only Redis does


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
        until = time.monotonic() + 10
        while limiter.alarm and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert not limiter.alarm
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
        assert time.monotonic() - began < 3 and limiter.alarm
        own_redis.thaw()
        await limiter.close()

    asyncio.run(ask())


def test_what_is_settled_while_redis_is_away_is_paid_once(own_redis: RedisServer) -> None:
    async def ask() -> None:
        limiter, asked = RedisLimiter(own_redis.url), key(tokens_per_month=100)
        found = await limiter.reserve(asked, 60, time.time())
        own_redis.freeze()
        await limiter.settle(found, 30, time.time())  # sent, and no word comes back
        assert limiter.alarm
        own_redis.thaw()
        until = time.monotonic() + 10
        while limiter.alarm and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert isinstance(await limiter.reserve(asked, 70, time.time()), Admission)
        assert (await limiter.reserve(asked, 1, time.time())).what == "quota"
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
        until = time.monotonic() + 5
        while isinstance(found := await limiter.reserve(asked, 10, time.time()), Refusal) and time.monotonic() < until:
            await asyncio.sleep(0.02)
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
        limiter, asked = RedisLimiter(own_redis.url), key("q", tokens_per_month=100)
        await limiter.restore({"q": 95}, time.time())
        assert limiter.alarm and (await limiter.reserve(asked, 1, time.time())).what == "store"
        own_redis.start()
        until = time.monotonic() + 10
        while limiter.alarm and time.monotonic() < until:
            await asyncio.sleep(0.05)
        assert (await limiter.reserve(asked, 6, time.time())).what == "quota"
        assert isinstance(await limiter.reserve(asked, 5, time.time()), Admission)
        await limiter.close()

    asyncio.run(ask())
