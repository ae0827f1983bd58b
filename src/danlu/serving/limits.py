"""Limits: requests and tokens a minute, concurrency and a monthly quota, reserved before an engine is asked and settled
to what it counted. Exact: what is admitted never exceeds a limit, however many ask at once or hang up.

What that means. Time is cut into seconds. A request is counted in the second of its reservation, with one request and
its reserved tokens, and it counts until 60 whole seconds have passed after that second. So in every stretch of 60 s,
wherever it begins, no more than the limit was admitted (a token bucket would let through twice as much); the price is
that a key gets its limit each 61 s. Settling corrects the tokens of that same second, down or up. Seconds are those of
a clock that only goes forward (`clock.py`), whatever is done to the wall clock. The quota is of the calendar month in
UTC, by the wall clock at the reservation; what is reserved and not settled counts in full, in whichever month it is. A
clock that was in the wrong month for a while goes on where the right one stood.

`LocalLimiter` keeps this in memory, its own or (`limit_table.py`) one that all workers of a machine share;
`redis_limits.py` is the same for several machines. A test holds them to one model.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from danlu.serving.clock import forward_s
from danlu.serving.keys import Key
from danlu.serving.limit_table import (
    CHANGING,
    CONCURRENCY,
    MONTH,
    OLDEST,
    OPEN,
    OTHER_MONTH,
    OTHER_SPENT,
    REQUESTS,
    RING,
    SEATS,
    SPENT,
    SUM_REQUESTS,
    SUM_TOKENS,
    TOKENS,
    PrivateTable,
    Record,
    Table,
    mend,
)

What = Literal["requests", "tokens", "concurrency", "quota", "store"]
WINDOW_S = 60
AGAIN_S = 1.0
"""When to ask again where nobody knows when it will be free: another request has to end first."""
Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Admission:
    """An accepted reservation: hand it back to `settle` exactly once."""

    key: Key
    reserved_tokens: int
    time: float
    headers: Headers = ()
    """`x-ratelimit-…` as OpenAI names them, ready to send."""
    second: int = -1
    """The second and the month it is counted in, and its name in Redis: for the limiter that gave it."""
    month: int = 0
    lease: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Which limit, its value, and after how many seconds it is worth asking again (0: never by waiting)."""

    what: What
    limit: int
    retry_s: float
    headers: Headers = ()
    """`retry-after` too, where waiting helps."""


class Limiter(Protocol):
    """Local limiters answer at once; Redis takes a round trip, hence the coroutine. `now` is the wall clock's."""

    alarm: str
    """"" while all is well; else what is wrong, for the metrics and the log."""

    async def reserve(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal: ...

    async def settle(self, admission: Admission, num_tokens: int, now: float) -> None:
        """What was reserved and not used is given back; more than was reserved is charged."""
        ...

    async def restore(self, spent: Mapping[str, int], now: float) -> None:
        """What usage says was spent this month, by key id: a quota never stands lower. At the start, and when a dead
        worker's requests were settled as lost."""
        ...

    async def close(self) -> None: ...


class LocalLimiter:
    """See the file's docstring. All of a reservation happens between two awaits, so nobody comes between."""

    alarm = ""

    def __init__(self, table: Table | None = None, *, clock: Callable[[], float] = forward_s) -> None:
        self._table: Table = table if table is not None else PrivateTable()
        self._month, self.clock = Month(), clock

    async def reserve(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal:
        return self.reserve_now(key, num_tokens, now)

    async def settle(self, admission: Admission, num_tokens: int, now: float) -> None:
        self.settle_now(admission, num_tokens, now)

    async def restore(self, spent: Mapping[str, int], now: float) -> None:
        table = self._table
        for key_id, tokens in spent.items():
            if (record := table.record(key_id)) is None:
                continue
            with table:
                _roll(record, int(self.clock()), self._month.number(now))
                record[SPENT] = max(record[SPENT], tokens - sum(record[OPEN : OPEN + SEATS]))

    async def close(self) -> None:
        self._table.close()

    def reserve_now(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal:
        assert num_tokens >= 0, "tokens are counted from nothing"
        if not (key.requests_per_minute or key.tokens_per_minute or key.concurrency or key.tokens_per_month):
            return Admission(key, num_tokens, now)
        table = self._table
        if (record := table.record(key.id)) is None:
            return Refusal("store", 0, AGAIN_S, headers_of(key, 0, 0, AGAIN_S))
        with table:
            at = self.clock()  # asked when we are alone, so that nobody counts in a second before another's
            _roll(record, second := int(at), self._month.number(now))
            requests, tokens = record[SUM_REQUESTS], record[SUM_TOKENS]
            refusal = self._refusal(key, record, num_tokens, at, now)
            if refusal is not None:
                what, limit, retry_s = refusal
                return Refusal(what, limit, retry_s, headers_of(key, requests, tokens, retry_s))
            self._count(record, num_tokens, second)
        shown = headers_of(key, requests + 1, tokens + num_tokens)
        return Admission(key, num_tokens, now, shown, second, record[MONTH])

    def count_now(self, key: Key, num_tokens: int, now: float) -> Admission | None:
        """Count what another limiter admitted, whatever the limits say. None where there is no room for it."""
        if (record := self._table.record(key.id)) is None:
            return None
        with self._table:
            _roll(record, second := int(self.clock()), self._month.number(now))
            self._count(record, num_tokens, second)
        return Admission(key, num_tokens, now, (), second, record[MONTH])

    def settle_now(self, admission: Admission, num_tokens: int, now: float) -> None:
        assert num_tokens >= 0, "tokens are counted from nothing"
        if admission.second < 0:
            return  # a key without limits
        table = self._table
        record, seat, second = table.record(admission.key.id), table.seat, admission.second
        assert record is not None, "it was there when the reservation was made"
        with table:
            _roll(record, int(self.clock()), self._month.number(now))
            more = num_tokens - admission.reserved_tokens
            table.begin(record)
            if second >= record[OLDEST]:
                record[TOKENS + second % RING] += more
                record[SUM_TOKENS] += more
            record[CONCURRENCY + seat] -= 1
            record[OPEN + seat] -= admission.reserved_tokens
            if admission.month == record[MONTH]:
                record[SPENT] += num_tokens
            elif admission.month == record[OTHER_MONTH]:
                record[OTHER_SPENT] += num_tokens
            table.end(record)

    def _count(self, record: Record, num_tokens: int, second: int) -> None:
        table, at, seat = self._table, second % RING, self._table.seat
        table.begin(record)
        record[REQUESTS + at] += 1
        record[TOKENS + at] += num_tokens
        record[SUM_REQUESTS] += 1
        record[SUM_TOKENS] += num_tokens
        record[CONCURRENCY + seat] += 1
        record[OPEN + seat] += num_tokens
        table.end(record)

    def _refusal(
        self, key: Key, record: Record, num_tokens: int, at: float, now: float
    ) -> tuple[What, int, float] | None:
        """The first limit that has no room, and when it will: at `at` on our clock, `now` on the wall."""
        limit = key.requests_per_minute
        if limit and record[SUM_REQUESTS] + 1 > limit:
            return "requests", limit, _free_s(record, REQUESTS, record[SUM_REQUESTS] + 1 - limit, at)
        limit = key.tokens_per_minute
        if limit and record[SUM_TOKENS] + num_tokens > limit:
            never = num_tokens > limit
            return (
                "tokens",
                limit,
                0.0 if never else _free_s(record, TOKENS, record[SUM_TOKENS] + num_tokens - limit, at),
            )
        limit = key.concurrency
        if limit and not self._table.fits(record, CONCURRENCY, 1, limit):
            return "concurrency", limit, AGAIN_S
        limit = key.tokens_per_month
        if limit and not self._table.fits(record, OPEN, num_tokens, limit - record[SPENT]):
            return "quota", limit, 0.0 if num_tokens > limit else self._month.ends - now
        return None


class Month:
    """Which calendar month in UTC a time lies in, without asking the calendar each time."""

    def __init__(self) -> None:
        self._number, self.begins, self.ends = 0, 0.0, 0.0

    def number(self, now: float) -> int:
        """Months since year 0."""
        if not self.begins <= now < self.ends:
            first, number = month_of(now)
            self.begins = first.timestamp()
            self.ends = (first + datetime.timedelta(days=32)).replace(day=1).timestamp()
            self._number = number
        return self._number


def month_of(now: float) -> tuple[datetime.datetime, int]:
    """The first moment of the month, and its number."""
    day = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return day.replace(day=1, hour=0, minute=0, second=0, microsecond=0), day.year * 12 + day.month - 1


def begin_of(month: int) -> float:
    """The first moment of a month by its number."""
    return datetime.datetime(month // 12, month % 12 + 1, 1, tzinfo=datetime.UTC).timestamp()


def headers_of(key: Key, requests: int, tokens: int, retry_s: float | None = None) -> Headers:
    """What a client's library reads. `requests` and `tokens` are those of the minute."""
    found: list[tuple[bytes, bytes]] = []
    if limit := key.requests_per_minute:
        found += (
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, limit - requests)),
            (b"x-ratelimit-reset-requests", b"60s"),
        )
    if limit := key.tokens_per_minute:
        found += (
            (b"x-ratelimit-limit-tokens", b"%d" % limit),
            (b"x-ratelimit-remaining-tokens", b"%d" % max(0, limit - tokens)),
            (b"x-ratelimit-reset-tokens", b"60s"),
        )
    if retry_s:
        found.append((b"retry-after", b"%d" % math.ceil(retry_s)))
    return tuple(found)


def _roll(record: Record, second: int, month: int) -> None:
    """Let go of seconds that no longer count, and turn to the month that it is."""
    if record[CHANGING]:
        mend(record)
    if second < record[OLDEST]:
        _move(record, second)
    edge = second - WINDOW_S
    oldest = record[OLDEST]
    if oldest < edge:
        record[CHANGING] = 1
        for gone in range(oldest, min(edge, oldest + RING)):
            at = gone % RING
            if record[REQUESTS + at]:
                record[SUM_REQUESTS] -= record[REQUESTS + at]
                record[REQUESTS + at] = 0
            if record[TOKENS + at]:  # also where tokens were settled to more than nothing
                record[SUM_TOKENS] -= record[TOKENS + at]
                record[TOKENS + at] = 0
        record[OLDEST] = edge
        record[CHANGING] = 0
    if month != record[MONTH]:
        _turn(record, month)


def _move(record: Record, second: int) -> None:
    """The clock stands before the window: the machine was started anew, and with it the clock. All that counted counts
    as of now, so that nothing is let through too early, and after a minute all is as usual. (Where the new clock is
    beyond the old window already, the machine has been up for longer than a minute.)"""
    here = second % RING
    record[CHANGING] = 1
    record[REQUESTS + here], record[TOKENS + here] = record[SUM_REQUESTS], record[SUM_TOKENS]
    for at in range(RING):
        if at != here:
            record[REQUESTS + at] = record[TOKENS + at] = 0
    record[OLDEST] = second - WINDOW_S
    record[CHANGING] = 0


def _turn(record: Record, month: int) -> None:
    """Two months are known: after a clock that was ahead is right again, what the right one had spent still counts. One
    before both is a clock that was set back, and opens nothing."""
    known = record[MONTH], record[SPENT]
    if month == record[OTHER_MONTH]:
        spent = record[OTHER_SPENT]
    elif month > record[MONTH]:
        spent = 0
    else:
        return
    record[OTHER_MONTH], record[OTHER_SPENT] = known
    record[SPENT], record[MONTH] = spent, month


def _free_s(record: Record, ring: int, wanted: int, at: float) -> float:
    """After how many seconds so much of the window will have passed."""
    for second in range(record[OLDEST], record[OLDEST] + RING):
        wanted -= record[ring + second % RING]
        if wanted <= 0:
            return max(0.001, second + WINDOW_S + 1 - at)
    return float(WINDOW_S)
