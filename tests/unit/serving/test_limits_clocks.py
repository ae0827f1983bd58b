"""Clocks that jump, are set back, or stand still for a night. One that was a day ahead for a minute refused a key for a
day."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from limit_kit import JANUARY, NOW, Clocked, key

from danlu.serving.clock import forward_s
from danlu.serving.limits import Admission, LocalLimiter, Refusal
from danlu.serving.redis_limits import RedisLimiter

DAY = 86400.0
NEVER_BEFORE = 1_795_000_000


@pytest.fixture(params=["private", "shared"])
def limiter(request: pytest.FixtureRequest, tmp_path: Path) -> Clocked:
    return Clocked(tmp_path / "table" if request.param == "shared" else None)


def said(found: Admission | Refusal) -> str:
    return found.what if isinstance(found, Refusal) else ""


def test_a_wall_clock_that_jumps_neither_opens_a_window_nor_shuts_it(limiter: Clocked) -> None:
    asked = key(requests_per_minute=2, tokens_per_minute=100)
    limiter.at = 5000.0
    assert said(limiter.reserve_now(asked, 10, NOW)) == ""
    limiter.at += 1
    assert said(limiter.reserve_now(asked, 10, NOW + DAY)) == ""  # a day ahead, for a moment
    for wall in (NOW + DAY, NOW + 2, NOW - DAY, NOW - 400 * DAY):
        assert said(limiter.reserve_now(asked, 10, wall)) == "requests"
    limiter.at += 61
    assert said(limiter.reserve_now(asked, 10, NOW + 63)) == ""
    assert said(limiter.reserve_now(asked, 10, NOW - DAY)) == ""


def test_a_night_of_sleep_is_time_that_passed(limiter: Clocked) -> None:
    asked = key(requests_per_minute=1)
    limiter.at = 5000.0
    assert said(limiter.reserve_now(asked, 1, NOW)) == ""
    limiter.at += 8 * 3600
    assert said(limiter.reserve_now(asked, 1, NOW)) == ""  # whatever the wall clock has heard of it


@pytest.mark.parametrize("uptime", [0.5, 30.0, 59.0, 5000.0 - 61])
def test_a_machine_that_starts_anew_has_a_clock_that_starts_anew(tmp_path: Path, uptime: float) -> None:
    """What counted goes on counting, for a minute at most; nothing is let through too early."""
    asked = key(requests_per_minute=2, tokens_per_minute=100)
    before = Clocked(tmp_path / "table")
    before.at = 5000.0
    for _ in range(2):
        before.settle_now(before.reserve_now(asked, 40, NOW), 40, NOW)
    asyncio.run(before.close())
    after = Clocked(tmp_path / "table")
    after.at = uptime
    refused = after.reserve_now(asked, 10, NOW + 20)
    assert said(refused) == "requests" and 0 < refused.retry_s <= 61
    after.at = uptime + refused.retry_s + 0.01
    assert said(after.reserve_now(asked, 100, NOW + 90)) == ""
    assert said(after.reserve_now(asked, 1, NOW + 90)) == "tokens"
    asyncio.run(after.close())


def test_a_machine_that_has_been_up_longer_than_the_one_before_was(tmp_path: Path) -> None:
    asked = key(requests_per_minute=1)
    before = Clocked(tmp_path / "table")
    before.at = 100.0
    assert said(before.reserve_now(asked, 1, NOW)) == ""
    asyncio.run(before.close())
    after = Clocked(tmp_path / "table")
    after.at = 130.0  # it has been up for as long: so much time passed at least
    assert said(after.reserve_now(asked, 1, NOW)) == "requests"
    after.at = 161.0
    assert said(after.reserve_now(asked, 1, NOW)) == ""
    asyncio.run(after.close())


def test_a_clock_that_was_in_the_next_month_leaves_the_quota_where_it_was(limiter: Clocked) -> None:
    asked, december = key(tokens_per_month=100), JANUARY - 10 * DAY
    limiter.settle_now(limiter.reserve_now(asked, 60, december), 60, december)
    ahead = limiter.reserve_now(asked, 90, JANUARY + DAY)  # counts as January's, as usage will say
    limiter.settle_now(ahead, 90, december + 1)
    assert said(limiter.reserve_now(asked, 41, december + 2)) == "quota"
    assert said(limiter.reserve_now(asked, 40, december + 3)) == ""
    assert said(limiter.reserve_now(asked, 11, JANUARY + 1)) == "quota"


def test_a_clock_that_is_set_back_opens_no_quota(limiter: Clocked) -> None:
    asked = key(tokens_per_month=100, concurrency=2)
    limiter.settle_now(limiter.reserve_now(asked, 60, NOW), 60, NOW)
    open_ = limiter.reserve_now(asked, 40, NOW - 40 * DAY)
    assert said(limiter.reserve_now(asked, 1, NOW - 400 * DAY)) == "quota"
    limiter.settle_now(open_, 0, NOW - DAY)
    assert said(limiter.reserve_now(asked, 40, NOW)) == ""  # nothing stayed behind


def test_what_is_open_over_midnight_is_given_back_once(limiter: Clocked) -> None:
    asked = key(tokens_per_month=100)
    over = limiter.reserve_now(asked, 70, JANUARY - 1)
    assert said(limiter.reserve_now(asked, 31, JANUARY + 1)) == "quota"
    limiter.settle_now(over, 70, JANUARY + 2)
    assert said(limiter.reserve_now(asked, 100, JANUARY + 3)) == ""


def test_our_clock_goes_forward_only_and_is_the_machines() -> None:
    seen = [forward_s() for _ in range(1000)]
    assert seen == sorted(seen)
    if sys.platform == "linux":
        assert abs(forward_s() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1.0
    limiter, asked = LocalLimiter(), key(requests_per_minute=1)
    assert said(limiter.reserve_now(asked, 1, NEVER_BEFORE)) == ""
    assert said(limiter.reserve_now(asked, 1, NEVER_BEFORE + DAY)) == "requests"


def by_redis_clock(url: str, steps: Callable[[RedisLimiter], object]) -> None:
    async def ask() -> None:
        limiter = RedisLimiter(url, lease_s=5.0, uses_own_clock=True)
        await steps(limiter)
        assert not limiter.alarm
        await limiter.close()

    asyncio.run(ask())


def test_a_redis_whose_clock_was_ahead_is_a_minute_late_and_not_a_day(redis_url: str) -> None:
    async def steps(limiter: RedisLimiter) -> None:
        asked = key(requests_per_minute=1, tokens_per_minute=50, concurrency=1)
        ahead = await limiter.reserve(asked, 50, NOW + DAY)
        await limiter.settle(ahead, 20, NOW + DAY + 1)
        refused = await limiter.reserve(asked, 10, NOW)  # right again
        assert said(refused) == "requests" and refused.retry_s <= 61
        found = await limiter.reserve(asked, 50, NOW + refused.retry_s + 0.01)
        assert said(found) == ""
        await limiter.settle(found, 50, NOW + 62)

    by_redis_clock(redis_url, steps)


def test_what_was_open_when_redis_clock_was_set_back_ends_well(redis_url: str) -> None:
    async def steps(limiter: RedisLimiter) -> None:
        asked = key(tokens_per_minute=100, concurrency=2, tokens_per_month=1000)
        open_ = await limiter.reserve(asked, 60, NOW + DAY)
        await limiter.reserve(asked, 40, NOW + DAY)  # its worker dies
        assert said(await limiter.reserve(asked, 1, NOW)) == "tokens"
        await limiter.settle(open_, 10, NOW + 1)  # given back is nothing of the minute: it is not known where it counts
        assert said(await limiter.reserve(asked, 1, NOW + 2)) == "tokens"
        for _ in range(2):  # both places, the dead worker's too
            assert said(await limiter.reserve(asked, 50, NOW + 62)) == ""
        assert said(await limiter.reserve(asked, 1, NOW + 62)) == "tokens"

    by_redis_clock(redis_url, steps)


def test_redis_knows_the_month_by_its_own_clock(redis_url: str) -> None:
    async def steps(limiter: RedisLimiter) -> None:
        asked, december = key(tokens_per_month=100), JANUARY - 10 * DAY
        await limiter.settle(await limiter.reserve(asked, 60, december), 60, december)
        await limiter.settle(await limiter.reserve(asked, 90, JANUARY + DAY), 90, december + 1)
        assert said(await limiter.reserve(asked, 41, december + 2)) == "quota"
        assert said(await limiter.reserve(asked, 40, december + 3)) == ""
        assert said(await limiter.reserve(asked, 11, JANUARY + 1)) == "quota"

    by_redis_clock(redis_url, steps)


def test_redis_counts_months_as_the_calendar_does(redis_url: str) -> None:
    async def steps(limiter: RedisLimiter) -> None:
        for year in range(2024, 2103, 3):
            for month in range(1, 13):
                for edge in (0.5, -0.5):
                    now = time.mktime((year, month, 1, 0, 0, 0, 0, 0, 0)) - time.timezone + edge
                    found = await limiter.reserve(key(f"{year}{month}{edge}", concurrency=1), 1, now)
                    assert found.month == year * 12 + month - 1 - (edge < 0), (year, month, edge)

    by_redis_clock(redis_url, steps)
