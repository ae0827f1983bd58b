"""The loop that writes answers: rows come and go at every step, and one flat pass computes those that write and those
that are read. A prompt that is longer than a step's share is read in pieces beside the others, so that it holds up
neither who writes nor who comes after it. Knows rows, seats and time; what computes is a `Forward`.

Shapes: R rows, V vocabulary, D hidden.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence

import torch
from torch import Tensor

from danlu.core.errors import EngineError
from danlu.engines.rows import Chooser, Forward, Row, Span
from danlu.engines.sampling import choose_each, hold_each
from danlu.engines.sampling_extras import TokenLogProb

PREFILL_TOKENS = 4_096
"""Tokens of prompts that are computed together, which bounds memory."""


class Decoding:
    """Rows on their way through a `Forward`. At most `max_rows` at once, and no more than what together may need
    `max_tokens` places, prompts and answers at their longest; one row alone is never refused. A step reads at most
    `read_tokens` of prompts; prompts are taken up once `refill` seats are free, or nobody writes."""

    def __init__(
        self,
        forward: Forward,
        *,
        stop_ids: frozenset[int],
        max_rows: int,
        max_tokens: int,
        name: str,
        read_tokens: int = PREFILL_TOKENS,
        refill: int = 1,
    ) -> None:
        self.forward, self.stop_ids, self.name = forward, stop_ids, name
        self.max_rows, self.max_tokens = max_rows, max_tokens
        self.read_tokens, self.refill = read_tokens, refill
        self.queue: deque[Row] = deque()
        self.seated: dict[int, Row] = {}
        """Rows that write or are being read, by identity."""
        self.partial: list[Row] = []
        """Those whose prompt is read in pieces, and not to its end."""
        self.num_reserved = 0

    @property
    def is_busy(self) -> bool:
        return bool(self.queue or self.seated)

    def add(self, rows: Iterable[Row]) -> None:
        self.queue.extend(rows)

    def run(self) -> Generator[list[Row], None, None]:
        """The rows that each step has finished, often none, until all are."""
        while self.is_busy:
            yield [row for row in self.step() if row.finish is not None]

    @torch.inference_mode()
    def drop(self, rows: Sequence[Row]) -> None:
        """Give these up, wherever they are."""
        gone = set(map(id, rows))
        self.queue = deque(row for row in self.queue if id(row) not in gone)
        self._leave([row for row in rows if id(row) in self.seated])

    def clear(self) -> None:
        """Forget the rows in seats, whatever they hold; who has their keys has let go of them."""
        self.seated.clear()
        self.partial, self.num_reserved = [], 0

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Rows that have one token more than before; those with a `finish` are gone from here."""
        began = time.perf_counter()
        spans = self._spans()
        if not self.seated:
            return []
        rows, hidden_RD = self.forward.run(spans)
        writing = [number for number, row in enumerate(rows) if not row.is_mean]
        if len(writing) == len(rows) > 0:
            self._choose(hidden_RD, rows)
        elif rows:
            self._end_means([row for row in rows if row.is_mean])
            if writing:
                self._choose(hidden_RD[writing], [rows[number] for number in writing])
        read = [*self.partial, *(span.row for span in spans if span.row not in self.partial)]
        self.partial = [row for row in read if row.num_done < len(row.prompt)]
        share_s = (time.perf_counter() - began) / max(1, len(rows))
        for row in rows:
            row.seconds += share_s
        self._leave([row for row in rows if row.finish is not None])
        return rows

    def _choose(self, hidden_RD: Tensor, rows: Sequence[Row]) -> None:
        """The next token of each row, which the row takes."""
        ids = self.forward.known(rows) if isinstance(self.forward, Chooser) else None
        faults: set[int]
        log_probs: dict[int, TokenLogProb]
        if ids is not None:
            faults, log_probs = {id(row) for row, token in zip(rows, ids, strict=True) if token < 0}, {}
        else:
            logits_RV = self.forward.logits(hidden_RD)
            if any(row.hold is not None for row in rows):
                hold_each(logits_RV, rows)
            ids, faults, log_probs = choose_each(logits_RV, rows)
        for row, token in zip(rows, ids, strict=True):
            if row.fault is not None:
                continue
            if id(row) in faults:
                dtype = str(hidden_RD.dtype)
                row.fault = EngineError("engine.non_finite", where=self.name, step=len(row.ids), dtype=dtype)
                row.finish = "error"
                continue
            if id(row) in log_probs:
                row.log_probs.append(log_probs[id(row)])
            row.take(token, self.stop_ids)

    def _end_means(self, rows: Sequence[Row]) -> None:
        """Rows that wanted no more than to be read."""
        for row in rows:
            assert row.sum_D is not None, "a prompt that was read has a mean"
            row.finish = "stop"
            if not row.sum_D.isfinite().all():
                row.fault = EngineError("engine.non_finite", where=self.name, step=0, dtype=str(row.sum_D.dtype))
                row.finish = "error"

    def _leave(self, rows: Sequence[Row]) -> None:
        if rows:
            self.forward.leave(rows)
        for row in rows:
            del self.seated[id(row)]
            self.num_reserved -= row.most_tokens
        if self.partial:
            gone = set(map(id, rows))
            self.partial = [row for row in self.partial if id(row) not in gone]

    # ---- what is read next

    def _spans(self) -> list[Span]:
        """Who is read in pieces shares a half of the step's tokens, all of them when nobody waits; the shortest first,
        so that what it leaves is the others'."""
        num_free = self.max_rows - len(self.seated)
        takes_up = bool(self.queue) and (num_free >= self.refill or not self.seated)
        share = self.read_tokens // 2 if takes_up and num_free > 0 else self.read_tokens
        left = self.read_tokens
        spans: list[Span] = []
        order = sorted(self.partial, key=lambda row: len(row.prompt) - row.num_done)
        for place, row in enumerate(order):
            spans.append(_span(row, share // (len(order) - place)))
            share -= spans[-1].size
            left -= spans[-1].size
        if takes_up:
            taken = self._taken(num_free, left)
            self.forward.begin(taken)
            for row in taken:
                spans.append(_span(row, left if self.forward.splits else len(row.prompt)))
                left -= spans[-1].size
        return spans

    def _taken(self, num_free: int, left: int) -> list[Row]:
        """Rows from the queue for free seats, in order, as long as there are tokens left to read of them."""
        taken: list[Row] = []
        while self.queue and len(taken) < num_free and left > 0:
            row = self.queue[0]
            fits = self.num_reserved + row.most_tokens <= self.max_tokens or not self.seated
            if not fits or (not self.forward.splits and taken and len(row.prompt) > left):
                break
            taken.append(self.queue.popleft())
            left -= len(row.prompt)
            self.num_reserved += row.most_tokens
            self.seated[id(row)] = row
        return taken


def _span(row: Row, most: int) -> Span:
    return Span(row, row.num_done, min(len(row.prompt), row.num_done + max(1, most)))
