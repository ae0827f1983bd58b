"""The native engine under many streams: one thread that computes, requests that join and leave at every step, adapters
that come and go while it runs. Knows tokens and rows; HTTP is `doors.py`'s.

What it holds is bounded: `num_slots` rows at once, their keys and values by `num_places` tokens (each row is admitted
with its prompt and its longest answer), the queue by whoever submits.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.engines.decoding import Decoding
from danlu.engines.engine import Sampling
from danlu.engines.lenses import Lens, load_lens
from danlu.engines.packed import Packed, packed
from danlu.engines.plain import Plain
from danlu.engines.rows import Row
from danlu.engines.sampling import check_sampling, draws
from danlu.engines.tastes import PLAIN, Taste, Told
from danlu.engines.telling import Teller
from danlu.model.decoder import Decoder
from danlu.model.model import Model

READ_TOKENS = 256
"""Tokens of prompts in one step: what a stream waits between two tokens while a long prompt is read."""
PLACES_BYTES = 2 * 2**30
"""Keys and values of all rows together, unless the contexts of all slots need less."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place; `row` is its state, which only the computing thread changes."""

    row: Row
    lens: str
    is_told: bool
    """Whether pieces of text are wanted as they become certain."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step brought to one ticket. `piece` is text that is certain now; `finish` comes once, at the end."""

    ticket: Ticket
    piece: str
    num_tokens: int
    told: tuple[Told, ...] = ()
    finish: Literal["stop", "length", "error"] | None = None
    fault: EngineError | None = None


class Live:
    """`base` is what the model without adapter is called. `deliver` is called with each step's updates, on the
    computing thread; it must not block. Frees the model's own weights where they are packed: the model is the engine's.
    """

    def __init__(
        self,
        model: Model,
        encoder: Encoder,
        *,
        base: str,
        deliver: Callable[[list[Update]], None],
        num_slots: int = 16,
        context: int = 0,
        read_tokens: int = READ_TOKENS,
    ) -> None:
        model.eval()
        self.model, self.encoder, self.base, self.deliver = model, encoder, base, deliver
        self.context = min(context or model.spec.context, model.spec.context)
        self.num_slots = num_slots
        self.forward = packed(model, with_adapter=False, owns=True) or self._plain()
        place_bytes = 8 * model.spec.num_layers * model.spec.num_kv_heads * model.spec.head_size
        self.num_places = max(self.context, min(num_slots * self.context, PLACES_BYTES // place_bytes))
        self.lenses: dict[str, Lens] = {}
        self.num_answered = self.num_faults = self.num_prompt_tokens = self.num_tokens = self.num_steps = 0
        self._decoding = Decoding(
            self.forward, stop_ids=frozenset(encoder.stop_ids), max_rows=num_slots, max_tokens=self.num_places,
            name=base, read_tokens=read_tokens,
        )  # fmt: skip
        self._orders: queue.SimpleQueue[tuple[str, Ticket | None]] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self._thread = threading.Thread(target=self._work, name="danlu-live", daemon=True)

    def _plain(self) -> Plain:
        """Seats for what no packing is known of: each as long as the context."""
        self.num_slots = max(1, min(self.num_slots, 32_768 // self.context))
        return Plain(self.model, self.num_slots, self.context, contextlib.nullcontext)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step under way; what is not answered stays unanswered."""
        self._orders.put(("stop", None))
        self._thread.join()

    # ---- what any thread may ask

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, taste: Taste = PLAIN, *, model: str, is_told: bool = False
    ) -> Ticket:
        """EngineError where it cannot be answered; else it is in the queue."""
        check_sampling(sampling)
        lens = self.lens(model)
        num_free = min(sampling.max_new_tokens, self.context - len(prompt))
        if not prompt:
            raise EngineError("engine.empty_prompt", where=model)
        if num_free < 1:
            raise EngineError("engine.prompt_too_long", where=model, num_tokens=len(prompt),
                              max_new_tokens=sampling.max_new_tokens, context=self.context)  # fmt: skip
        row = Row(0, list(prompt), num_free, sampling, taste, lens)
        if sampling.temperature > 0:
            row.draws = draws(sampling, prompt, num_free)
        if is_told or sampling.stop:
            row.teller = Teller(self.encoder.answer_text, sampling.stop)
        ticket = Ticket(row, model, is_told)
        self._orders.put(("add", ticket))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nothing is told of it from the next step on; a ticket that is done already stays done."""
        self._orders.put(("cancel", ticket))

    def lens(self, model: str) -> Lens | None:
        """None: the base. EngineError for a name that is not served."""
        if model == self.base:
            return None
        found = self.lenses.get(model)
        if found is None:
            raise EngineError("engine.no_lens", where=model, given=model, known=", ".join(self.models))
        return found

    @property
    def models(self) -> list[str]:
        return [self.base, *self.lenses]

    def load(self, name: str, folder: Path) -> None:
        """Put an adapter on, ready for the next request. A name once given never means other weights."""
        if name in self.models:
            raise EngineError("engine.lens_taken", where=str(folder), given=name)
        if not isinstance(self.forward, Packed) or not isinstance(self.model, Decoder):
            raise EngineError("engine.no_lenses", where=str(folder), given=self.model.spec.family)
        lens = load_lens(name, folder, self.model, self.forward.permute)
        self.lenses = self.lenses | {name: lens}

    def drop(self, name: str) -> None:
        """Take an adapter off: no new request gets it, those under way end with it."""
        if name not in self.lenses:
            raise EngineError("engine.no_lens", where=name, given=name, known=", ".join(self.models))
        self.lenses = {other: lens for other, lens in self.lenses.items() if other != name}

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._decoding.queue) + self._orders.qsize()

    def facts(self) -> dict[str, float]:
        """Gauges and counters, for people and monitors."""
        decoding, forward = self._decoding, self.forward
        places = forward.tables.num_places if isinstance(forward, Packed) else self.num_slots * self.context
        return {
            "running": len(decoding.seated), "waiting": self.num_waiting, "slots": self.num_slots,
            "cache_places_bound": self.num_places, "cache_places_reserved": decoding.num_reserved,
            "cache_places_allocated": places, "adapters": len(self.lenses),
            "adapter_bytes": sum(lens.num_bytes for lens in self.lenses.values()),
            "answers_total": self.num_answered, "faults_total": self.num_faults, "steps_total": self.num_steps,
            "prompt_tokens_total": self.num_prompt_tokens, "answer_tokens_total": self.num_tokens,
        }  # fmt: skip

    # ---- the thread that computes

    def _work(self) -> None:
        while self._take_orders():
            if not self._decoding.is_busy:
                continue
            try:
                rows = self._decoding.step()
            except Exception:  # whatever it is (memory, mostly): these requests fail, the next ones are served
                traceback.print_exc(file=sys.stderr)
                self._fail()
                continue
            self.num_steps += 1
            self.num_tokens += len(rows)
            updates = [self._update(self._tickets[id(row)]) for row in rows if id(row) in self._tickets]
            self.deliver([update for update in updates if update is not None])

    def _take_orders(self) -> bool:
        """All that wait; for one, where there is nothing to do. False at the end."""
        gone: list[Row] = []
        while True:
            try:
                what, ticket = self._orders.get(block=not self._decoding.is_busy)
            except queue.Empty:
                break
            if ticket is None:
                return False
            if what == "add":
                self._tickets[id(ticket.row)] = ticket
                self._decoding.add([ticket.row])
            elif self._tickets.pop(id(ticket.row), None) is not None:
                gone.append(ticket.row)
                self._decoding.drop([ticket.row])
        return True

    def _update(self, ticket: Ticket) -> Update | None:
        row = ticket.row
        piece = ""
        is_last = row.finish is not None
        if is_last:
            del self._tickets[id(row)]
            self.num_answered += 1
            self.num_faults += row.finish == "error"
            self.num_prompt_tokens += len(row.prompt)
        if ticket.is_told and row.teller is not None:
            piece = row.teller.tell(is_last=is_last)
        elif is_last:
            piece = row.teller.text if row.teller is not None else self.encoder.answer_text(row.ids)
        elif not ticket.is_told:
            return None
        told = tuple(row.told)
        if ticket.is_told:
            row.told.clear()
        return Update(ticket, piece, len(row.ids), told, row.finish, row.fault)

    def _fail(self) -> None:
        """Every row in a seat ends with an error; queue and adapters stay."""
        fault = EngineError("engine.broke", where=self.base)
        rows = list(self._decoding.seated.values())
        if isinstance(self.forward, Packed):
            self.forward.clear()
        else:
            self.forward.leave(rows)
        self._decoding.clear()
        updates = []
        for row in rows:
            row.finish, row.fault = "error", fault
            if (ticket := self._tickets.pop(id(row), None)) is not None:
                updates.append(Update(ticket, "", len(row.ids), (), "error", fault))
        self.num_faults += len(rows)
        self.deliver(updates)
