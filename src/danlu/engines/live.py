"""The native engine under many streams: requests that join and leave at every step, adapters that come and go while
it runs. Knows tokens and rows; HTTP is `api.py`'s. On a CPU several threads compute, each with a part of the seats:
small sums leave most of a second core idle, and a barrier between threads waits for whoever the machine has taken away.

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

import torch

from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.engines.cuda_rows import OnCard, fits_card, most_places
from danlu.engines.decoding import Decoding
from danlu.engines.detokenizer import Detokenizer
from danlu.engines.engine import Sampling
from danlu.engines.lenses import Lens, load_lens
from danlu.engines.packed import Packed, packed
from danlu.engines.plain import Plain
from danlu.engines.rows import Forward, Row
from danlu.engines.sampling import check_sampling, draws
from danlu.engines.sampling_extras import PLAIN, SamplingExtras, TokenLogProb
from danlu.model.decoder import Decoder
from danlu.model.model import Model

READ_TOKENS, CARD_READ_TOKENS = 256, 1024
"""Tokens of prompts in one step, on a CPU and on a card: what a stream waits between two tokens while a long prompt is
read."""
SLOTS_PER_HAND = 8
"""Seats that a computing thread of its own has at least."""
SEATS_TOKENS = 32_768
"""Seats of a model that no packing is known of are each as long as its context; together no more than this."""
ONE = Sampling(max_new_tokens=1)
PLACES_BYTES = 2 * 2**30
"""Keys and values of all rows together, unless the contexts of all slots need less; a card has its own bound."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One request's place; `row` is its state, which only the computing thread changes."""

    row: Row
    lens: str
    is_streamed: bool
    """Whether pieces of text are wanted as they become certain."""
    hand: Hand
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """What a step brought to one ticket. `piece` is text that is certain now; `finish` comes once, in the last one."""

    ticket: Ticket
    piece: str
    num_tokens: int
    log_probs: tuple[TokenLogProb, ...] = ()
    finish: Literal["stop", "length", "error", "cancelled"] | None = None
    fault: EngineError | None = None


class Crew:
    """torch's threads, shared out among the hands that have work: one that works alone has them all."""

    def __init__(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._busy: frozenset[Hand] = frozenset()
        self._lock = threading.Lock()
        self._own = threading.local()

    def share(self, hand: Hand) -> None:
        """Before a step, on the hand's own thread: torch counts threads for each thread that asks."""
        if hand not in self._busy:
            with self._lock:
                self._busy |= {hand}
        wanted = max(1, self.num_threads // max(1, len(self._busy)))
        if getattr(self._own, "num", 0) != wanted:
            torch.set_num_threads(wanted)
            self._own.num = wanted

    def rest(self, hand: Hand) -> None:
        if hand in self._busy:
            with self._lock:
                self._busy -= {hand}


class Hand:
    """A thread that computes, its share of the seats, and the requests that were given to it."""

    def __init__(
        self,
        decoding: Decoding,
        encoder: Encoder,
        deliver: Callable[[list[Update]], None],
        crew: Crew,
        died: Callable[[], None],
    ) -> None:
        self.decoding, self.encoder, self.deliver, self.crew, self._died = decoding, encoder, deliver, crew, died
        self.num_answered = self.num_faults = self.num_cancelled = 0
        self.num_prompt_tokens = self.num_tokens = self.num_steps = 0
        self.is_dead = False
        self.orders: queue.SimpleQueue[tuple[str, Ticket | Lens | None]] = queue.SimpleQueue()
        self._tickets: dict[int, Ticket] = {}
        self.thread = threading.Thread(target=self._live, name="danlu-hand", daemon=True)

    @property
    def load(self) -> int:
        """Requests that came and are not at their end."""
        return len(self._tickets) + self.orders.qsize()

    def _live(self) -> None:
        """What is no fault of a step's ends the thread; nobody may wait for its answers then."""
        try:
            self._work()
        except BaseException:  # whatever it is: who waits is told, and nothing goes on
            self.is_dead = True
            traceback.print_exc(file=sys.stderr)
            self._died()
            fault = EngineError("engine.broke", where=self.decoding.name)
            while not self.orders.empty():
                what, ticket = self.orders.get()
                if what == "add" and isinstance(ticket, Ticket):
                    self._tickets[id(ticket.row)] = ticket
            left = list(self._tickets.values())
            self.deliver([Update(ticket, "", len(ticket.row.ids), (), "error", fault) for ticket in left])

    def _work(self) -> None:
        while self._take_orders():
            if not self.decoding.is_busy:
                continue
            self.crew.share(self)
            try:
                rows = self.decoding.step()
            except Exception:  # whatever it is (memory, mostly): these requests fail, the next ones are served
                traceback.print_exc(file=sys.stderr)
                self._fail()
                continue
            self.num_steps += 1
            self.num_tokens += sum(row.fault is None and not row.is_mean for row in rows)
            updates = [self._update(self._tickets[id(row)]) for row in rows if id(row) in self._tickets]
            self.deliver([update for update in updates if update is not None])

    def _take_orders(self) -> bool:
        """All that wait; for one, where there is nothing to do. False at the end."""
        while True:
            try:
                if not self.decoding.is_busy:
                    self.crew.rest(self)
                what, ticket = self.orders.get(block=not self.decoding.is_busy)
            except queue.Empty:
                return True
            if ticket is None:
                return False
            if isinstance(ticket, Lens):
                if isinstance(self.decoding.forward, Packed | OnCard):
                    self.decoding.forward.forget(ticket)
            elif what == "add":
                self._tickets[id(ticket.row)] = ticket
                self.decoding.add([ticket.row])
            elif self._tickets.pop(id(ticket.row), None) is not None:
                self.decoding.drop([ticket.row])
                self.num_cancelled += 1
                self.num_prompt_tokens += ticket.row.num_done
                self.deliver([Update(ticket, "", len(ticket.row.ids), (), "cancelled")])

    def _update(self, ticket: Ticket) -> Update | None:
        row = ticket.row
        piece = ""
        is_last = row.finish is not None
        if is_last:
            del self._tickets[id(row)]
            self.num_answered += 1
            self.num_faults += row.finish == "error"
            self.num_prompt_tokens += row.num_done
        if ticket.is_streamed and row.detokenizer is not None:
            piece = row.detokenizer.new_text(is_last=is_last)
        elif is_last:
            piece = row.detokenizer.text if row.detokenizer is not None else self.encoder.answer_text(row.ids)
        elif not ticket.is_streamed:
            return None
        log_probs = tuple(row.log_probs)
        if ticket.is_streamed:
            row.log_probs.clear()
        return Update(ticket, piece, len(row.ids), log_probs, row.finish, row.fault)

    def _fail(self) -> None:
        """Every row in a seat ends with an error; queue and adapters stay."""
        fault = EngineError("engine.broke", where=self.decoding.name)
        rows = list(self.decoding.seated.values())
        if isinstance(self.decoding.forward, Packed | OnCard):
            self.decoding.forward.clear()
        else:
            self.decoding.forward.leave(rows)
        self.decoding.clear()
        updates = []
        for row in rows:
            row.finish, row.fault = "error", fault
            self.num_prompt_tokens += row.num_done
            if (ticket := self._tickets.pop(id(row), None)) is not None:
                updates.append(Update(ticket, "", len(row.ids), (), "error", fault))
        self.num_faults += len(rows)
        self.deliver(updates)


class Live:
    """`base` is what the model without adapter is called. `deliver` is called with each step's updates, on a computing
    thread; it must not block. `died`: called on a thread that computes no more, though nobody told it to stop.
    Frees the model's own weights where they are packed: the model is the engine's. `read_tokens` 0: as many as suit.
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
        read_tokens: int = 0,
        num_threads: int = 0,
        died: Callable[[], None] = lambda: None,
    ) -> None:
        model.eval()
        self.model, self.encoder, self.base = model, encoder, base
        self.context = min(context or model.spec.context, model.spec.context)
        num_threads = num_threads or torch.get_num_threads()
        self.num_slots = num_slots
        forwards = self._on_card() if fits_card(model) else self._packed_or_plain(num_threads)
        read_tokens = read_tokens or (CARD_READ_TOKENS if model.device.type == "cuda" else READ_TOKENS)
        self.lenses: dict[str, Lens] = {}
        self._first, crew, num = forwards[0], Crew(num_threads), len(forwards)
        self.hands: list[Hand] = []
        for n, forward in enumerate(forwards):
            decoding = Decoding(
                forward, stop_ids=frozenset(encoder.stop_ids), max_rows=(self.num_slots + n) // num,  # together: all
                max_tokens=self.num_places // num, name=base, read_tokens=read_tokens,
            )  # fmt: skip
            self.hands.append(Hand(decoding, encoder, deliver, crew, died))

    def _on_card(self) -> Sequence[Forward]:
        assert isinstance(self.model, Decoder), "what fits a card is a decoder"
        self.num_places = max(self.context, min(self.num_slots * self.context, most_places(self.model)))
        with torch.inference_mode():
            return [OnCard(self.model, max_rows=self.num_slots, max_tokens=self.num_places, most_tokens=self.context)]

    def _packed_or_plain(self, num_threads: int) -> Sequence[Forward]:
        """One for each thread that computes."""
        model, forward = self.model, packed(self.model, with_adapter=False, owns=True)
        if forward is None:
            self.num_slots = max(1, min(self.num_slots, SEATS_TOKENS // self.context))
        place_bytes = 8 * model.spec.num_layers * model.spec.num_kv_heads * model.spec.head_size
        whole = min(self.num_slots * self.context, PLACES_BYTES // place_bytes)
        if forward is None:
            self.num_places = max(self.context, whole)
            return [Plain(model, self.num_slots, self.context, contextlib.nullcontext)]
        is_shared = model.device.type == "cpu"
        num = max(1, min(num_threads, self.num_slots // SLOTS_PER_HAND)) if is_shared else 1
        self.num_places = num * max(self.context, whole // num)
        return [forward.sharing_weights() for _ in range(num)]

    def start(self) -> None:
        for hand in self.hands:
            hand.thread.start()

    def stop(self) -> None:
        """Ends after the steps under way; what is not answered stays unanswered."""
        for hand in self.hands:
            hand.orders.put(("stop", None))
        for hand in self.hands:
            hand.thread.join()

    # ---- what any thread may ask

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        extras: SamplingExtras = PLAIN,
        *,
        model: str,
        is_streamed: bool = False,
    ) -> Ticket:
        """EngineError where it cannot be answered; else it is in the queue."""
        self.check(prompt, sampling, model=model)
        lens, num_free = self.lens(model), min(sampling.max_new_tokens, self.context - len(prompt))
        row = Row(0, list(prompt), num_free, sampling, extras, lens)
        if sampling.temperature > 0:
            row.draws = draws(sampling, prompt, num_free)
        if is_streamed or sampling.stop:
            row.detokenizer = Detokenizer(self.encoder.tokenizer.decode, sampling.stop, self.encoder.stop_ids)
        return self._queued(row, model, is_streamed=is_streamed)

    def submit_mean(self, prompt: Sequence[int], *, model: str) -> Ticket:
        """The mean of the prompt's hidden states is wanted, and no answer: the row's `sum_D` at its end."""
        self.check(prompt, ONE, model=model)
        return self._queued(Row(0, list(prompt), 0, lens=self.lens(model), is_mean=True), model, is_streamed=False)

    def _queued(self, row: Row, model: str, *, is_streamed: bool) -> Ticket:
        hand = min(self.hands, key=lambda hand: hand.load)
        ticket = Ticket(row, model, is_streamed, hand)
        hand.orders.put(("add", ticket))
        return ticket

    def check(self, prompt: Sequence[int], sampling: Sampling, *, model: str) -> None:
        """EngineError where `submit` would raise it."""
        check_sampling(sampling)
        self.lens(model)
        if not prompt:
            raise EngineError("engine.empty_prompt", where=model)
        if min(sampling.max_new_tokens, self.context - len(prompt)) < 1:
            raise EngineError("engine.prompt_too_long", where=model, num_tokens=len(prompt),
                              max_new_tokens=sampling.max_new_tokens, context=self.context)  # fmt: skip

    def cancel(self, ticket: Ticket) -> None:
        """It leaves its seat before the next step, and its last update says so; one that is done stays done."""
        if not ticket.is_cancelled:
            ticket.is_cancelled = True
            ticket.hand.orders.put(("cancel", ticket))

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
        first = self._first
        if not isinstance(first, Packed | OnCard):
            raise EngineError("engine.no_lenses", where=str(folder), given=self.model.spec.family)
        lens = load_lens(name, folder, first.model, first.permute if isinstance(first, Packed) else None)
        self.lenses = self.lenses | {name: lens}

    def drop(self, name: str) -> None:
        """Take an adapter off: no new request gets it, those under way end with it."""
        if name not in self.lenses:
            raise EngineError("engine.no_lens", where=name, given=name, known=", ".join(self.models))
        gone = self.lenses[name]
        self.lenses = {other: lens for other, lens in self.lenses.items() if other != name}
        for hand in self.hands:
            hand.orders.put(("forget", gone))

    @property
    def is_alive(self) -> bool:
        return all(hand.thread.is_alive() and not hand.is_dead for hand in self.hands)

    @property
    def num_waiting(self) -> int:
        return sum(len(hand.decoding.queue) + hand.orders.qsize() for hand in self.hands)

    def facts(self) -> dict[str, float]:
        """Gauges and counters, for people and monitors."""
        hands, decodings = self.hands, [hand.decoding for hand in self.hands]
        forwards = [decoding.forward for decoding in decodings]
        places = [forward.tables.num_places for forward in forwards if isinstance(forward, Packed)]
        places += [forward.num_places for forward in forwards if isinstance(forward, OnCard)]
        return {
            "running": sum(len(decoding.seated) for decoding in decodings), "waiting": self.num_waiting,
            "slots": self.num_slots, "hands": len(hands), "cache_places_bound": self.num_places,
            "cache_places_reserved": sum(decoding.num_reserved for decoding in decodings),
            "cache_places_allocated": sum(places) if places else self.num_slots * self.context,
            "adapters": len(self.lenses), "adapter_bytes": sum(lens.num_bytes for lens in self.lenses.values()),
            "answers_total": sum(hand.num_answered for hand in hands),
            "faults_total": sum(hand.num_faults for hand in hands),
            "cancelled_total": sum(hand.num_cancelled for hand in hands),
            "steps_total": sum(hand.num_steps for hand in hands),
            "prompt_tokens_total": sum(hand.num_prompt_tokens for hand in hands),
            "answer_tokens_total": sum(hand.num_tokens for hand in hands),
        }  # fmt: skip
