"""Teachers: any OpenAI-compatible URL, or an engine of this machine, as what `danlu.data.synthesis` asks.

What was answered once is found again by the content of the request, so a run that was killed pays for nothing twice.
A cap on money or tokens holds back the request that could pass it; what was held back is said, not lost: with a higher
cap the work goes on. Only the standard library's HTTP, no proxy, no redirect (`engines/wire.py`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from danlu.core.errors import EngineError
from danlu.core.files import dump_json, sha256_file, sha256_json
from danlu.core.progress import Progress
from danlu.data.synthesis.teacher import Ask, Reply, check_cleared
from danlu.engines.cache import AnswerCache
from danlu.engines.completions import parse_completion
from danlu.engines.cost import Bill, Price
from danlu.engines.engine import Engine, Question, Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.thinking import drop_thinking
from danlu.engines.wire import RefusedError, TransientError, Wire
from danlu.model.shards import known_digest
from danlu.openai.address import Address
from danlu.pipeline.base import load_base, open_base
from danlu.pipeline.pace import Pace
from danlu.recipe.model import ModelSection
from danlu.recipe.synthesis import TeacherSection

PATH = "/chat/completions"
CHUNK = 16
"""Requests between two writes of a local teacher's answers."""
_WORDS = (".json", ".jinja", ".model", ".txt")
"""Files beside the weights: configuration, tokenizer, template."""


def open_teacher(
    section: TeacherSection, model: ModelSection, cache_folder: Path, *, seed: int, progress: Progress
) -> RemoteTeacher | LocalTeacher:
    """The teacher that a recipe names: its URL, else a model on this machine, else the recipe's own base."""
    cache = AnswerCache(cache_folder)
    if section.url is None:
        own = model if section.model is None else ModelSection(base=section.model, hub=model.hub, mirror=model.mirror)
        return LocalTeacher(own, cache, seed=seed, progress=progress)
    if section.model is None:
        raise EngineError("synthesis.no_teacher_model", where="data.teacher.model", given=section.url)
    price = None
    if section.prompt_price is not None or section.answer_price is not None:
        price = Price(section.prompt_price or 0.0, section.answer_price or 0.0, currency="")
    endpoint = Endpoint(
        url=section.url, model=section.model, key_variable=section.key_variable, num_parallel=section.parallel,
        key_file=Path(section.key_file) if section.key_file else None, timeout_s=section.timeout_s,
        ca_file=Path(section.ca_file) if section.ca_file else None,
    )  # fmt: skip
    bill = Bill(price, cap=section.max_cost)
    return RemoteTeacher(endpoint, cache, bill, levels=frozenset(section.levels), max_tokens=section.max_tokens)


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
            if found := _found(self._cache, key):
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
        except RefusedError as fault:
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


class LocalTeacher:
    """A model of this machine, loaded when something has to be asked that was not answered before. Nothing leaves."""

    is_external = False
    levels: frozenset[str] = frozenset()

    def __init__(
        self,
        section: ModelSection,
        cache: AnswerCache,
        *,
        seed: int,
        progress: Progress,
        keeps_thinking: bool = False,
    ) -> None:
        self.section, self._cache, self._seed, self._progress = section, cache, seed, progress
        self._keeps_thinking = keeps_thinking
        self.name = Path(section.base).name
        self._engine: Engine | None = None
        self._identity = ""
        self._num_asked = self._num_found = self._num_prompt_tokens = self._num_tokens = 0

    @classmethod
    def of(cls, engine: Engine, section: ModelSection, cache: AnswerCache, *, progress: Progress) -> LocalTeacher:
        """Around an engine that is open already."""
        teacher = cls(section, cache, seed=0, progress=progress)
        teacher._engine, teacher._identity, teacher.name = engine, engine.digest, engine.name
        return teacher

    @property
    def identity(self) -> str:
        """Of the weights, of what is beside them, and of how the base is read; computed without loading it."""
        if not self._identity:
            base = open_base(self.section, progress=self._progress)
            words = sorted(path for path in base.folder.iterdir() if path.suffix in _WORDS and path.is_file())
            shown = [known_digest(base.folder) if self.section.init == "pretrained" else "",
                     [(path.name, sha256_file(path)) for path in words]]  # fmt: skip
            read_as = self.section.model_dump(mode="json", exclude={"base", "hub", "mirror"})
            seed = self._seed if self.section.init == "random" else None
            self._identity = sha256_json([shown, read_as, seed])
        return self._identity

    def answer(self, asks: Sequence[Ask], *, watch: Callable[[int], None] | None = None) -> list[Reply]:
        replies: dict[int, Reply] = {}
        todo: dict[Sampling, dict[str, list[int]]] = {}
        for place, ask in enumerate(asks):
            sampling = Sampling(ask.max_new_tokens, ask.temperature, seed=ask.seed)
            spoken = [[turn.role, turn.content] for turn in ask.messages]
            how = [ask.max_new_tokens, ask.temperature, ask.seed, self._keeps_thinking]
            key = sha256_json({"teacher": self.identity, "asked": spoken, "how": how})
            if found := _found(self._cache, key):
                replies[place] = found
                self._num_found += 1
            else:
                todo.setdefault(sampling, {}).setdefault(key, []).append(place)
        if watch is not None:
            watch(len(replies))
        for sampling, places in todo.items():
            for keys in _chunks(list(places)):
                self._ask([(key, asks[places[key][0]], places[key]) for key in keys], sampling, replies)
                if watch is not None:
                    watch(sum(len(places[key]) for key in keys))
        return [replies[place] for place in range(len(asks))]

    def cost(self) -> dict[str, Any]:
        return {
            "teacher": self.name, "requests": self._num_asked, "from_cache": self._num_found,
            "prompt_tokens": self._num_prompt_tokens, "answer_tokens": self._num_tokens,
        }  # fmt: skip

    def close(self) -> None:
        """Let the model go, where this teacher loaded it."""
        self._engine = None

    def _ask(self, orders: list[tuple[str, Ask, list[int]]], sampling: Sampling, replies: dict[int, Reply]) -> None:
        if self._engine is None:
            self._engine = _load(self.section, self._seed, self._progress)
        answers = self._engine.generate([Question(ask.messages) for _, ask, _ in orders], sampling)
        for (key, _, places), answer in zip(orders, answers, strict=True):
            self._num_asked += 1
            self._num_prompt_tokens += answer.num_prompt_tokens
            self._num_tokens += answer.num_tokens
            if answer.finish == "error":
                replies |= dict.fromkeys(places, Reply("", "error", answer.error))
                continue
            finish: Literal["stop", "length"] = "length" if answer.finish == "length" else "stop"
            reply = Reply(answer.text if self._keeps_thinking else without_thinking(answer.text), finish)
            replies |= dict.fromkeys(places, reply)
            self._cache.keep(key, {"text": reply.text, "finish": finish, "model": self.name})


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this very machine."""
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def without_thinking(text: str) -> str:
    """An answer without its thinking, also where a template swallowed the opening mark."""
    text = drop_thinking(text)
    if "</think>" in text and "<think>" not in text:
        text = text.rpartition("</think>")[2]
    return text.strip()


def _load(section: ModelSection, seed: int, progress: Progress) -> Engine:
    from danlu.data.encode import Encoder
    from danlu.engines.native import NativeEngine  # torch: only when something must be computed
    from danlu.pipeline.device import choose_device

    base = open_base(section, progress=progress)
    if base.template is None:
        raise EngineError("synthesis.no_chat", where="model.template", given=section.base)
    model = load_base(section, seed=seed, device=choose_device("auto"), progress=progress)
    return NativeEngine(model, Encoder(base.tokenizer, base.template), name=Path(section.base).name)


def _found(cache: AnswerCache, key: str) -> Reply | None:
    entry = cache.find(key)
    if entry is None or entry.get("finish") not in ("stop", "length"):
        return None
    return Reply(entry["text"], entry["finish"])


def _tokens(usage: Any) -> tuple[int, int] | None:
    """(prompt, answer) tokens as the server counts them, or None when it does not."""
    if not isinstance(usage, dict) or not isinstance(usage.get("prompt_tokens"), int):
        return None
    given = usage.get("completion_tokens")
    return usage["prompt_tokens"], given if isinstance(given, int) else 0


def _chunks(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), CHUNK):
        yield keys[start : start + CHUNK]
