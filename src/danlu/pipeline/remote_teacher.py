"""A teacher behind an OpenAI-compatible URL: many questions at once, each paid for once, under a cap.

Only the standard library's HTTP, no proxy, no redirect (`engines/wire.py`). A cap on money or tokens holds back the
request that could pass it; what was held back is said, not lost: with a higher cap the work goes on.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import dump_json, sha256_json
from danlu.data.synthesis.teacher import Ask, Reply, check_cleared
from danlu.engines.cache import AnswerCache
from danlu.engines.completions import parse_completion
from danlu.engines.cost import Bill
from danlu.engines.engine import Question, Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.openai.address import Address
from danlu.pipeline.pace import Pace
from danlu.pipeline.replies import found_reply, without_thinking

PATH = "/chat/completions"


@dataclass(slots=True)
class _Order:
    """A request on its way; several questions may wait for the same one."""

    key: str
    body: bytes
    places: list[int]
    worst_tokens: int
    max_new_tokens: int
    attempt: int = 0
    not_before: float = 0.0
    reserved: float = 0.0
    began: float = 0.0


class RemoteTeacher:
    """A teacher behind a URL. `answer` may be called from one thread at a time."""

    def __init__(
        self,
        endpoint: Endpoint,
        cache: AnswerCache,
        bill: Bill | None = None,
        *,
        levels: frozenset[str] = frozenset(),
        max_tokens: int | None = None,
    ) -> None:
        address = Address.parse(endpoint.url)
        self.name, self.levels, self.bill = endpoint.model, levels, bill or Bill()
        self.is_external = not is_loopback(address.host)
        self.identity = sha256_json({"url": str(address), "model": endpoint.model})
        self._endpoint, self._cache, self._max_tokens = endpoint, cache, max_tokens
        self._speech = RemoteEngine(endpoint)  # knows the shape of a request
        key = endpoint.read_key()
        self._wire = Wire(address, key=key, timeout_s=endpoint.timeout_s, ca_file=endpoint.ca_file)
        self._pace = Pace(endpoint.num_parallel, backoff_s=endpoint.backoff_s)
        self._num_found = self._num_retried = self._reserved_tokens = 0
        self._was_reached = False
        self._counted: set[str] = set()

    def answer(self, asks: Sequence[Ask], *, watch: Callable[[int], None] | None = None) -> list[Reply]:
        check_cleared(asks, self)
        tell = watch or (lambda num: None)
        replies: dict[int, Reply] = {}
        todo = self._orders(asks, replies)
        tell(len(replies))
        running: dict[Future[bytes], _Order] = {}
        with ThreadPoolExecutor(self._endpoint.num_parallel, thread_name_prefix="danlu-teacher") as pool:
            try:
                self._work(pool, todo, running, replies, tell)
            except KeyboardInterrupt:
                for future, order in running.items():  # they are paid for: kept, then we go
                    with contextlib.suppress(EngineError):
                        self._take(future, order)
                raise
        undone = Reply("", "undone")
        return [replies.get(place, undone) for place in range(len(asks))]

    def _work(
        self,
        pool: ThreadPoolExecutor,
        todo: deque[_Order],
        running: dict[Future[bytes], _Order],
        replies: dict[int, Reply],
        tell: Callable[[int], None],
    ) -> None:
        """Until nothing is left, or a cap holds back what is. A fault that concerns all requests is raised once those
        under way are kept."""
        fatal: EngineError | None = None
        while running or (todo and fatal is None):
            is_capped = fatal is None and self._start(pool, todo, running)
            if is_capped and not running:
                return
            pause_s = None if is_capped or fatal else self._pause_s(todo, running)
            if not running:
                time.sleep(pause_s or 0.0)
                continue
            done, _ = wait(running, timeout=pause_s, return_when=FIRST_COMPLETED)
            for future in done:
                order = running.pop(future)
                try:
                    reply = self._take(future, order)
                except EngineError as error:
                    fatal = fatal or error
                    continue
                if reply is None:
                    todo.append(order)
                    continue
                replies |= dict.fromkeys(order.places, reply)
                tell(len(order.places))
        if fatal is not None:
            raise fatal

    def cost(self) -> dict[str, Any]:
        used = self.bill.num_prompt_tokens + self.bill.num_answer_tokens
        return self.bill.to_json() | {
            "teacher": self.name, "from_cache": self._num_found, "retried": self._num_retried, "tokens": used,
            "max_tokens": self._max_tokens,
        }  # fmt: skip

    def _orders(self, asks: Sequence[Ask], replies: dict[int, Reply]) -> deque[_Order]:
        """What has to be asked, equal requests once; what is known goes into `replies`."""
        orders: dict[str, _Order] = {}
        for place, ask in enumerate(asks):
            sampling = Sampling(ask.max_new_tokens, ask.temperature, seed=ask.seed)
            body = self._speech.body(Question(ask.messages), sampling)
            key = sha256_json({"teacher": self.identity, "body": body})
            if found := found_reply(self._cache, key):
                replies[place] = found
                self._count_found(key)
            elif key in orders:
                orders[key].places.append(place)
            else:
                content = dump_json(body, indent=False)
                # a token holds at least one byte, so bytes bound tokens
                orders[key] = _Order(key, content, [place], len(content) + ask.max_new_tokens, ask.max_new_tokens)
        return deque(orders.values())

    def _count_found(self, key: str) -> None:
        """What an earlier run paid counts towards the caps, once: a run that was killed ends where one piece would."""
        self._num_found += 1
        if key in self._counted:
            return
        self._counted.add(key)
        entry = self._cache.find(key) or {}
        self.bill.settle(0.0, (int(entry.get("num_prompt_tokens") or 0), int(entry.get("num_tokens") or 0)))

    def _start(self, pool: ThreadPoolExecutor, todo: deque[_Order], running: dict[Future[bytes], _Order]) -> bool:
        """Start what pace and caps allow; True when a cap holds the next one back."""
        now = time.monotonic()
        if self._pace.wait_s(now) > 0:
            return False
        for _ in range(len(todo)):
            if len(running) >= self._pace.num_allowed:
                return False
            order = todo.popleft()
            if order.not_before > now:
                todo.append(order)
                continue
            if not self._reserve(order):
                todo.appendleft(order)
                return True
            order.began = time.monotonic()
            running[pool.submit(self._wire.post, PATH, order.body)] = order
        return False

    def _pause_s(self, todo: deque[_Order], running: dict[Future[bytes], _Order]) -> float | None:
        """Until something may start; None waits for an answer."""
        if not todo or (running and len(running) >= self._pace.num_allowed):
            return None
        now = time.monotonic()
        soonest = min(order.not_before for order in todo)
        return max(self._pace.wait_s(now), soonest - now, 0.01)

    def _take(self, future: Future[bytes], order: _Order) -> Reply | None:
        """The reply of a finished request, kept; None when it is to be tried again."""
        spent: tuple[int, int] | None = None
        is_estimated = False
        try:
            completion = parse_completion(future.result())
            choice = completion["choices"][0]
            text = choice["message"].get("content") or ""
            usage = completion.get("usage")
            is_estimated = _tokens(usage) is None
            spent = _tokens(usage) or (len(order.body) // 2, len(text.encode()) // 2)
        except DeclinedError as fault:
            return Reply("", "error", str(fault))
        except TransientError as fault:
            return self._again(order, fault)
        finally:
            self._settle(order, spent, is_estimated=is_estimated)
        self._was_reached = True
        self._pace.went_well()
        reply = Reply(without_thinking(text), "length" if choice.get("finish_reason") == "length" else "stop")
        self._counted.add(order.key)
        counts = {"num_prompt_tokens": spent[0], "num_tokens": spent[1]}
        self._cache.keep(order.key, {"text": reply.text, "finish": reply.finish, "model": self.name} | counts)
        return reply

    def _again(self, order: _Order, fault: TransientError) -> Reply | None:
        now = time.monotonic()
        self._was_reached = self._was_reached or fault.reached
        order.not_before = self._pace.was_busy(order.began, now, order.attempt, fault.retry_after_s)
        order.attempt += 1
        if order.attempt <= self._endpoint.num_retries:
            self._num_retried += 1
            return None
        if not self._was_reached:
            where = f"{self._wire.address} ({self.name})"
            raise EngineError("engine.unreachable", where=where, said=fault.reason, tries=order.attempt) from fault
        return Reply("", "error", self._wire.scrub(str(fault)))

    def _reserve(self, order: _Order) -> bool:
        """Set the worst case of a request aside; False where it could pass a cap."""
        used = self.bill.num_prompt_tokens + self.bill.num_answer_tokens + self._reserved_tokens
        if self._max_tokens is not None and used + order.worst_tokens > self._max_tokens:
            return False
        try:
            order.reserved = self.bill.reserve(len(order.body), order.max_new_tokens)
        except EngineError as error:
            if error.key != "engine.cost_cap":
                raise
            return False
        self._reserved_tokens += order.worst_tokens
        return True

    def _settle(self, order: _Order, spent: tuple[int, int] | None, *, is_estimated: bool) -> None:
        self.bill.settle(order.reserved, spent, estimated=is_estimated)
        self._reserved_tokens -= order.worst_tokens


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this very machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _tokens(usage: Any) -> tuple[int, int] | None:
    """(prompt, answer) tokens as the server counts them, or None when it does not."""
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    given = usage.get("completion_tokens")
    return usage["prompt_tokens"], given if isinstance(given, int) else 0
