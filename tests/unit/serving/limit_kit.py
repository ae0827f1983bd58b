"""Limits for tests: a key, clocks that are set by hand, the limits as the docs say them, and how a limiter is held to
them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import strategies as st

from danlu.serving.keys import Key
from danlu.serving.limit_table import SharedTable
from danlu.serving.limits import Admission, Limiter, LocalLimiter, Refusal, month_of

NOW = 1_795_357_000.25
JANUARY = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC).timestamp()


def key(id: str = "abcdefghijkl", **limits: int) -> Key:
    return Key(id, "a", ("*",), **limits)


class Clocked(LocalLimiter):
    """A local limiter whose own clock is the time that it is called with, unless a test sets it apart (`at`)."""

    def __init__(self, path: Path | None = None, *, most_keys: int = 8) -> None:
        self.at: float | None = None
        self._told = NOW
        table = SharedTable(path, most_keys=most_keys) if path is not None else None
        super().__init__(table, clock=lambda: self._told if self.at is None else self.at)

    def reserve_now(self, key: Key, num_tokens: int, now: float) -> Admission | Refusal:
        self._told = now
        return super().reserve_now(key, num_tokens, now)

    def settle_now(self, admission: Admission, num_tokens: int, now: float) -> None:
        self._told = now
        super().settle_now(admission, num_tokens, now)


@dataclass
class Model:
    """Limits as the docs say them, over a list of all that was admitted: slow and plain."""

    key: Key
    admitted: list[dict[str, float]] = field(default_factory=list)

    def reserve(self, tokens: int, now: float) -> str:
        window = [one for one in self.admitted if one["second"] >= int(now) - 60]
        month = [one for one in self.admitted if one["open"] or one["month"] == month_of(now)[1]]
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
