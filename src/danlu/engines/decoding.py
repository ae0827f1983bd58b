"""The loop that writes answers: many rows at once, and a row that is done gives its seat to the next in the queue.

A step computes the seats that are taken and no others; prompts are computed together, once enough seats are free.
Knows tokens, seats and stops; what computes is a `Forward`, what a token means is the engine's.

Shapes: B rows, V vocabulary, D hidden.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.engines.engine import Sampling
from danlu.engines.sampling import choose
from danlu.engines.telling import Teller
from danlu.model.cache import KVCache

REFILL_SHARE = 0.25
"""So many of the seats are free before prompts are computed for them: a prompt alone costs nearly what many do."""
PREFILL_TOKENS = 4_096
"""Tokens of prompts that are computed together, which bounds memory."""


class Forward(Protocol):
    """What computes: a `Model`, or something that computes the same."""

    def new_cache(self, num_rows: int, max_tokens: int) -> KVCache: ...

    def prefill(self, prompts: list[Tensor], cache: KVCache) -> Tensor:
        """hidden_BD of each prompt's last token; `cache` is new, and row n then holds prompt n."""
        ...

    def step(self, ids_B: Tensor, cache: KVCache) -> Tensor:
        """hidden_BD of one more token per row."""
        ...

    def logits(self, hidden_ND: Tensor) -> Tensor: ...


@dataclass(slots=True)
class Row:
    """One question being answered."""

    number: int
    prompt: list[int]
    num_free: int
    """Tokens that the context, and the sampling, still allow."""
    draws: npt.NDArray[np.float64] | None = None
    teller: Teller | None = None
    ids: list[int] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    seconds: float = 0.0
    """This row's share of the time."""

    @property
    def most_tokens(self) -> int:
        return len(self.prompt) + self.num_free

    def take(self, token: int, stop_ids: frozenset[int]) -> None:
        """Add a token to the answer."""
        self.ids.append(token)
        is_end = token in stop_ids
        if self.teller is not None and self.teller.hear(self.ids):
            is_end = True
        if is_end:
            self.finish = "stop"
        elif len(self.ids) >= self.num_free:
            self.finish = "length"


class Decoding:
    """Rows on their way through a `Forward`. `switched` sets the weights for one call of it, never across a pause: a
    paused answer must not change what another engine on the same weights says."""

    def __init__(
        self,
        forward: Forward,
        rows: Sequence[Row],
        sampling: Sampling,
        *,
        stop_ids: frozenset[int],
        device: torch.device,
        max_rows: int,
        max_tokens: int,
        switched: Callable[[], AbstractContextManager[None]],
        name: str,
    ) -> None:
        assert rows, "there is something to answer"
        self.forward, self.sampling, self.stop_ids = forward, sampling, stop_ids
        self.device, self.switched, self.name = device, switched, name
        longest = max(row.most_tokens for row in rows)
        self.num_seats = max(1, min(max_rows, max_tokens // longest, len(rows)))
        self.queue = deque(rows)
        self.seated: list[Row] = []
        self.cache = forward.new_cache(self.num_seats, longest)
        self.cache.empty()
        self.ids_B = torch.zeros(0, dtype=torch.long, device=device)
        """The latest token of each row in a seat."""

    def run(self) -> Iterator[list[Row]]:
        """The rows that each step has finished, often none, until all are."""
        while self.queue or self.seated:
            num_free = self.num_seats - len(self.seated)
            if self.queue and num_free >= max(1, REFILL_SHARE * self.num_seats):
                yield self._seat(num_free)
            else:
                yield self._step()

    def _seat(self, num_free: int) -> list[Row]:
        """Prompts for free seats; the rows that ended with their first token."""
        taken: list[Row] = []
        num_tokens = 0
        while self.queue and len(taken) < num_free:
            if taken and num_tokens + len(self.queue[0].prompt) > PREFILL_TOKENS:
                break
            taken.append(self.queue.popleft())
            num_tokens += len(taken[-1].prompt)
        began = time.perf_counter()
        fresh = self.forward.new_cache(len(taken), max(len(row.prompt) for row in taken))
        with torch.inference_mode(), self.switched():
            hidden_BD = self.forward.prefill([torch.tensor(row.prompt) for row in taken], fresh)
            self.cache.adopt(fresh)
        self.seated += taken
        ids_B = self._choose(hidden_BD, taken)
        with torch.inference_mode():
            self.ids_B = torch.cat((self.ids_B, ids_B))
        return self._leave(taken, began)

    def _step(self) -> list[Row]:
        began = time.perf_counter()
        with torch.inference_mode(), self.switched():
            hidden_BD = self.forward.step(self.ids_B, self.cache)
        self.ids_B = self._choose(hidden_BD, self.seated)
        return self._leave(self.seated, began)

    def _choose(self, hidden_BD: Tensor, rows: Sequence[Row]) -> Tensor:
        """ids_B: the next token of each row, which the row has taken."""
        with torch.inference_mode():
            logits_BV = self.forward.logits(hidden_BD).float()
            ids_B, peak_B = choose(logits_BV, self.sampling, self._draws(rows))
            if not bool(peak_B.isfinite().all()):
                step = max(len(row.ids) for row in rows)
                raise EngineError("engine.non_finite", where=self.name, step=step, dtype=str(hidden_BD.dtype))
        for row, token in zip(rows, ids_B.tolist(), strict=True):
            row.take(token, self.stop_ids)
        return ids_B

    def _draws(self, rows: Sequence[Row]) -> Tensor | None:
        if self.sampling.temperature == 0:
            return None
        numbers = [float(row.draws[len(row.ids)]) if row.draws is not None else 0.0 for row in rows]
        return torch.tensor(numbers, dtype=torch.float64, device=self.device)

    def _leave(self, rows: Sequence[Row], began: float) -> list[Row]:
        """Those of the rows that are done, out of their seats; all of them share the time since `began`."""
        share_s = (time.perf_counter() - began) / len(rows)
        for row in rows:
            row.seconds += share_s
        places = [place for place, row in enumerate(self.seated) if row.finish is not None]
        done = [self.seated[place] for place in places]
        if done:
            with torch.inference_mode():
                for source, target in self.cache.drop(places):
                    self.seated[target] = self.seated[source]
                    self.ids_B[target] = self.ids_B[source]
            del self.seated[self.cache.num_rows :]
            self.ids_B = self.ids_B[: self.cache.num_rows]
        return done


def runs(rows: Sequence[Row], *, max_rows: int, max_tokens: int) -> Iterator[list[Row]]:
    """Rows that share seats, longest first, so that what does not fit into memory fails at once. Where the longest
    leave no room for all seats, rows of half their length get seats of their own."""
    order = sorted(rows, key=lambda row: row.most_tokens, reverse=True)
    start = 0
    while start < len(order):
        longest, end = order[start].most_tokens, len(order)
        if max_tokens // longest < max_rows:
            end = next((n for n in range(start, end) if 2 * order[n].most_tokens < longest), end)
        yield order[start:end]
        start = end
