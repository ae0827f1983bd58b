"""What a remote engine costs, and the cap that stops it. Prices are handed in; danlu knows no price list.

A request is admitted only if everything spent, everything in flight at its worst and its own worst case stay within the
cap, so the cap is never passed however many requests run at once.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from danlu.core.errors import EngineError

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens, as the provider's price list states it."""

    prompt_per_million: float
    answer_per_million: float
    currency: str = "CNY"

    def of(self, num_prompt_tokens: int, num_answer_tokens: int) -> float:
        total = num_prompt_tokens * self.prompt_per_million + num_answer_tokens * self.answer_per_million
        return total / MILLION


class Bill:
    """Tokens and money spent so far; safe to use from several threads. Without a price only tokens are counted."""

    def __init__(self, price: Price | None = None, *, cap: float | None = None) -> None:
        if cap is not None and (price is None or cap <= 0):
            raise EngineError("engine.cap_without_price", given=cap)
        self.price, self.cap = price, cap
        self.num_requests = self.num_prompt_tokens = self.num_answer_tokens = self.num_estimated = 0
        self.spent = self._reserved = 0.0
        self._lock = threading.Lock()

    def reserve(self, num_prompt_tokens: int, num_answer_tokens: int) -> float:
        """Set aside the worst case of one request and return it; EngineError when the cap would be passed."""
        worst = self.price.of(num_prompt_tokens, num_answer_tokens) if self.price else 0.0
        with self._lock:
            if self.cap is not None and self.spent + self._reserved + worst > self.cap:
                currency = self.price.currency if self.price else ""
                raise EngineError(
                    "engine.cost_cap", cap=f"{self.cap:g}", spent=f"{self.spent:.4f}", next=f"{worst:.4f}",
                    in_flight=f"{self._reserved:.4f}", currency=currency,
                )  # fmt: skip
            self._reserved += worst
        return worst

    def settle(self, reserved: float, tokens: tuple[int, int] | None, *, estimated: bool = False) -> None:
        """Give a reservation back and charge (prompt, answer) tokens; None: the request brought nothing."""
        with self._lock:
            self._reserved = max(0.0, self._reserved - reserved)
            if tokens is None:
                return
            self.num_requests += 1
            self.num_estimated += estimated
            self.num_prompt_tokens += tokens[0]
            self.num_answer_tokens += tokens[1]
            self.spent += self.price.of(*tokens) if self.price else 0.0

    def to_json(self) -> dict[str, object]:
        return {
            "requests": self.num_requests, "prompt_tokens": self.num_prompt_tokens,
            "answer_tokens": self.num_answer_tokens, "estimated_requests": self.num_estimated,
            "spent": round(self.spent, 6), "currency": self.price.currency if self.price else None, "cap": self.cap,
        }  # fmt: skip
