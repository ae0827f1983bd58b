"""Usage: what the journals say was used, folded into the store, and told by key, model, version and day.

A journal is read from where it was last left, in pieces that are stored in one transaction with their place: whoever
folds, however often and from wherever it was killed, a line counts once. Where a journal's writer is dead, what it left
open is settled as it was reserved and marked `lost`: nobody knows what was answered, and that no key is charged more
than it had agreed to is certain.
"""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from danlu.serving.absence import Absence
from danlu.serving.journal import FOLDER, START, chained, is_dead, journals, parted
from danlu.serving.limits import month_of
from danlu.serving.store import JournalPlace, Settlement, Store, UsageRow, UsageSum

By = Literal["key", "model", "version", "day"]
BYS: tuple[By, ...] = ("key", "model", "version", "day")
"""A version is what the rest of serving calls a lens: an adapter or a whole model by its immutable name."""
Prices = Mapping[str, tuple[float, float]]
"""Money per million tokens of prompts and of answers, by model; "*" is every other."""
EVERY_S = 1.0
STORE_S = 2.0
"""How long a request waits for the store at most, where it has to ask it at all."""
_PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Lost:
    """A request whose worker died before it was settled."""

    key_id: str
    time: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Folded:
    """What one pass found. `broken`: (journal, line) that does not follow from the one before; it counts all the same,
    and `danlu audit verify` tells more."""

    num_lines: int
    lost: tuple[Lost, ...]
    broken: tuple[tuple[str, int], ...]


class JournalReader:
    """Folds the journals of one home. Keep it: it remembers what is finished."""

    def __init__(self, home: Path, store: Store) -> None:
        self._folder, self._store = home / FOLDER, store
        self._finished: set[str] = set()

    def fold(self) -> Folded:
        """Once over everything that is new."""
        self._num_lines, self._broken = 0, list[tuple[str, int]]()
        paths = [path for path in journals(self._folder) if path.stem not in self._finished]
        # Asked first: all that they wrote is read after that. An empty file may be one whose writer has yet to hold it.
        dead = [path for path in paths if path.stat().st_size and is_dead(path)]
        for path in paths:
            self._read(path)
        lost = []
        for path in dead:
            lost += [Lost(*row) for row in self._store.lose(path.stem)]
            self._finished.add(path.stem)
        return Folded(self._num_lines, tuple(lost), tuple(self._broken))

    def _read(self, path: Path) -> None:
        place = self._store.place_of(path.stem)
        while True:
            with path.open("rb") as file:
                file.seek(place.at_byte)
                piece = file.read(_PIECE_BYTES)
            whole = piece[: piece.rfind(b"\n") + 1]
            if not whole:
                return
            after, uses, endings = self._understood(path.stem, place, whole)
            for other in {ending.journal for ending in endings} - {path.stem}:
                self._read(path.with_name(f"{other}.jsonl"))  # its openings have to be there to be ended
            if self._store.fold(path.stem, place, after, uses, endings):
                place = after
            else:
                place = self._store.place_of(path.stem)  # another folds too

    def _understood(
        self, journal: str, place: JournalPlace, whole: bytes
    ) -> tuple[JournalPlace, list[UsageRow], list[Settlement]]:
        uses: dict[int, UsageRow] = {}
        endings: list[Settlement] = []
        n, head = place.n, place.head or START
        for line in whole.splitlines():
            self._num_lines += 1
            n += 1
            try:
                body, claimed = parted(line)
                told = orjson.loads(body)
                if chained(head, body) != claimed or told["n"] != n:
                    self._broken.append((journal, n))
                n, head = int(told["n"]), claimed
                if told["what"] == "opened":
                    uses[n] = _use(journal, n, told)
                elif told["what"] == "closed":
                    endings.append(_ending(journal, told))
            except (ValueError, KeyError, TypeError):
                self._broken.append((journal, n))
        later = []
        for ending in endings:
            if ending.journal == journal and ending.n in uses:
                uses[ending.n] = _ended(uses[ending.n], ending)
            else:
                later.append(ending)
        return JournalPlace(place.at_byte + len(whole), n, head), list(uses.values()), later


class Bookkeeper:
    """A thread that folds all the time. `told` gets each pass that found something lost or broken. While the store is
    away (told to `failed` once, and to `back` how long it was) journals wait for it: nothing of them is lost."""

    def __init__(
        self, home: Path, store: Store, *, every_s: float = EVERY_S, told: Callable[[Folded], None] | None = None,
        failed: Callable[[Exception], None] | None = None, back: Callable[[float], None] | None = None,
    ) -> None:  # fmt: skip
        self._folder, self._every_s, self._told = JournalReader(home, store), every_s, told
        self._absence = Absence(failed, back)
        self._expected: tuple[type[Exception], ...] = (OSError, *store.errors)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="books", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """After a last pass."""
        self._stop.set()
        self._thread.join()

    def _keep(self) -> None:
        while True:
            is_last = self._stop.wait(self._every_s)
            try:
                folded = self._folder.fold()
            except self._expected as error:
                self._absence.missed(error)
            else:
                self._absence.found()
                if self._told is not None and (folded.lost or folded.broken):
                    self._told(folded)
            if is_last:
                return


def spent_this_month(store: Store, now: float) -> dict[str, int]:
    """Tokens by key id, for `Limiter.restore`. Fold first."""
    first = month_of(now)[0]
    after = (first + datetime.timedelta(days=32)).replace(day=1)
    return store.spent(f"{first:%Y-%m-%d}", f"{after:%Y-%m-%d}")


def spent_of(store: Store) -> Callable[[str, float], Awaitable[int | None]]:
    """For `RedisLimiter(spent=…)`: what a key spent this month, asked in a thread; None where the store is away, or
    takes longer to say than a request should wait."""
    expected: tuple[type[Exception], ...] = (OSError, *store.errors)

    async def spent(key_id: str, now: float) -> int | None:
        try:
            async with asyncio.timeout(STORE_S):
                return (await asyncio.to_thread(spent_this_month, store, now)).get(key_id, 0)
        except expected:  # a timeout is an OSError
            return None

    return spent


@dataclass(frozen=True, slots=True)
class ReportRow:
    """A line of a report. `of` holds what it was asked by; `cost` is None where a model has no price."""

    of: Mapping[str, str]
    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None
    done: int
    aborted: int
    failed: int
    lost: int
    open: int
    reserved_tokens: int
    uncounted: int

    def to_json(self) -> dict[str, Any]:
        return {
            **self.of, "requests": self.requests, "prompt_tokens": self.prompt_tokens,
            "answer_tokens": self.answer_tokens, "cost": None if self.cost is None else round(self.cost, 6),
            "done": self.done, "aborted": self.aborted, "failed": self.failed, "lost": self.lost, "open": self.open,
            "reserved_tokens": self.reserved_tokens, "uncounted": self.uncounted,
        }  # fmt: skip


def report(store: Store, *, by: Sequence[By], since: str, until: str, prices: Prices) -> list[ReportRow]:
    """Usage of days from `since` to `until` (UTC, both included), summed by what is asked, in its order. Prices are
    today's: a bill that was sent stands in its export."""
    rows: dict[tuple[str, ...], ReportRow] = {}
    for one in store.sums(since, until):
        of = {"key": one.key_id, "model": one.model, "version": one.lens, "day": one.day}
        group = tuple(of[name] for name in by)
        known = rows.get(group)
        row = _row({name: of[name] for name in by}, one, prices)
        rows[group] = row if known is None else _sum(known, row)
    return [rows[group] for group in sorted(rows)]


def total(rows: Sequence[ReportRow]) -> ReportRow:
    """All of them in one."""
    whole = ReportRow({}, 0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0)
    for row in rows:
        whole = _sum(whole, row)
    return whole


def _row(of: Mapping[str, str], one: UsageSum, prices: Prices) -> ReportRow:
    price = prices.get(one.model) or prices.get(one.model.partition("@")[0]) or prices.get("*")
    cost = None if price is None else (one.prompt_tokens * price[0] + one.answer_tokens * price[1]) / 1e6
    return ReportRow(
        of, one.requests, one.prompt_tokens, one.answer_tokens, cost, one.done, one.aborted, one.failed, one.lost,
        one.open, one.reserved_tokens, one.uncounted,
    )  # fmt: skip


def _sum(row: ReportRow, more: ReportRow) -> ReportRow:
    costs = [cost for cost in (row.cost, more.cost) if cost is not None]
    names = ("requests", "prompt_tokens", "answer_tokens", "done", "aborted", "failed", "lost", "open",
             "reserved_tokens", "uncounted")  # fmt: skip
    sums = {name: getattr(row, name) + getattr(more, name) for name in names}
    return ReportRow(of=row.of, cost=sum(costs) if len(costs) == 2 else None, **sums)


def _use(journal: str, n: int, told: Mapping[str, Any]) -> UsageRow:
    day = datetime.datetime.fromtimestamp(told["time"], datetime.UTC)
    return UsageRow(
        journal, n, str(told["id"]), float(told["time"]), f"{day:%Y-%m-%d}", str(told["key"]), str(told["model"]),
        str(told["lens"]), str(told["replica"]), str(told["kind"]), int(told["reserved_tokens"]),
    )  # fmt: skip


def _ending(journal: str, told: Mapping[str, Any]) -> Settlement:
    return Settlement(
        str(told["outcome"]), int(told["status"]), int(told["prompt_tokens"]), int(told["answer_tokens"]),
        int(told["is_counted"]), float(told["first_s"]), float(told["whole_s"]), str(told.get("in", journal)),
        int(told["of"]),
    )  # fmt: skip


def _ended(use: UsageRow, ending: Settlement) -> UsageRow:
    return replace(
        use, outcome=ending.outcome, status=ending.status, prompt_tokens=ending.prompt_tokens,
        answer_tokens=ending.answer_tokens, is_counted=ending.is_counted, first_s=ending.first_s,
        whole_s=ending.whole_s,
    )  # fmt: skip


def csv_lines(rows: Sequence[ReportRow], columns: Sequence[str]) -> Iterator[list[str]]:
    """Heads, then a list of cells for each row. `columns`: those of `ReportRow.of`."""
    heads = [*columns, *(name for name in ReportRow({}, 0, 0, 0, None, 0, 0, 0, 0, 0, 0, 0).to_json())]
    yield heads
    for row in rows:
        told = row.to_json()
        yield ["" if told[name] is None else str(told[name]) for name in heads]
