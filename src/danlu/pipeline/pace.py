"""How many requests run at once: one more for each round of answers, half as many when a server is busy (AIMD).

When a server names a time to wait, everybody waits: a limit on requests concerns the account, not one request.
"""

from __future__ import annotations

import random

MAX_WAIT_S = 120.0
FIRST = 4


class Pace:
    """Not safe for several threads: its owner is who starts requests. Times are a monotonic clock's, in seconds."""

    def __init__(self, most: int, *, backoff_s: float = 0.5) -> None:
        self._most, self._backoff_s = most, backoff_s
        self._limit = float(min(FIRST, most))
        self._cut_at = self._free_at = 0.0
        self._jitter = random.SystemRandom()

    @property
    def num_allowed(self) -> int:
        return max(1, int(self._limit))

    def wait_s(self, now: float) -> float:
        """How long nothing may start."""
        return max(0.0, self._free_at - now)

    def went_well(self) -> None:
        self._limit = min(float(self._most), self._limit + 1 / self._limit)

    def was_busy(self, began: float, now: float, attempt: int, retry_after_s: float | None) -> float:
        """Slow down, and when to try this request again. Requests that were under way when the pace was last cut are
        no new sign."""
        if began >= self._cut_at:
            self._limit, self._cut_at = max(1.0, self._limit / 2), now
        span_s = min(MAX_WAIT_S, self._backoff_s * 2**attempt)
        if retry_after_s is None:
            return now + self._jitter.uniform(span_s / 2, span_s)
        again = now + min(MAX_WAIT_S, retry_after_s) + self._jitter.uniform(0, min(1.0, span_s / 4))
        self._free_at = max(self._free_at, again)
        return again
