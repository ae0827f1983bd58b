"""What only the table does that workers of one machine share: seats, killed workers, restarts."""

import asyncio
import multiprocessing
import os
import signal
import time
from pathlib import Path

from limit_kit import NOW, Clocked, key

from danlu.serving.keys import Key
from danlu.serving.limit_table import CHANGING, SUM_TOKENS, SharedTable
from danlu.serving.limits import Admission, LocalLimiter, Refusal
from waiting_kit import PATIENCE_S


def _hammer(path: Path, asked: Key, all_there: object, counts: object) -> None:
    async def work() -> None:
        limiter, admitted = LocalLimiter(SharedTable(path)), 0
        all_there.wait()
        for _ in range(400):
            time.sleep(0.0005)  # all get a turn
            found = await limiter.reserve(asked, 7, time.time())
            if isinstance(found, Admission):
                admitted += 1
                await limiter.settle(found, 3, time.time())
        counts.put(admitted)

    asyncio.run(work())


def test_workers_of_one_machine_count_together(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    counts, asked, all_there = spawn.Queue(), key(requests_per_minute=300), spawn.Barrier(3)
    children = [spawn.Process(target=_hammer, args=(tmp_path / "table", asked, all_there, counts)) for _ in range(3)]
    for child in children:
        child.start()
    admitted = [counts.get(timeout=PATIENCE_S) for _ in children]
    for child in children:
        child.join()
    assert sum(admitted) == 300 and max(admitted) < 300


def _hold_open(path: Path, asked: Key, ready: object) -> None:
    async def work() -> None:
        limiter = LocalLimiter(SharedTable(path))
        found = [await limiter.reserve(asked, 50, time.time()) for _ in range(2)]
        ready.put(all(isinstance(one, Admission) for one in found))
        time.sleep(60)

    asyncio.run(work())


def test_a_killed_workers_places_come_back(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    ready, asked = spawn.Queue(), key(concurrency=2, tokens_per_month=110)
    child = spawn.Process(target=_hold_open, args=(tmp_path / "table", asked, ready))
    child.start()
    assert ready.get(timeout=PATIENCE_S)
    limiter = LocalLimiter(SharedTable(tmp_path / "table"))
    assert limiter.reserve_now(asked, 50, time.time()).what == "concurrency"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert isinstance(limiter.reserve_now(asked, 50, time.time()), Admission)


def test_a_worker_killed_in_the_middle_of_a_change_leaves_no_wrong_sum(tmp_path: Path) -> None:
    limiter, asked = Clocked(tmp_path / "table"), key(tokens_per_minute=100)
    limiter.reserve_now(asked, 40, NOW)
    record = limiter._table.record(asked.id)
    record[CHANGING], record[SUM_TOKENS] = 1, 0  # died between the ring and the sum
    assert isinstance(limiter.reserve_now(asked, 61, NOW), Refusal)
    assert isinstance(limiter.reserve_now(asked, 60, NOW), Admission)


def test_a_restart_opens_no_window(tmp_path: Path) -> None:
    first, asked = Clocked(tmp_path / "table"), key(requests_per_minute=1, concurrency=1)
    assert isinstance(first.reserve_now(asked, 1, NOW), Admission)
    asyncio.run(first.close())
    second = Clocked(tmp_path / "table")
    assert second.reserve_now(asked, 1, NOW + 1).what == "requests"
    assert isinstance(second.reserve_now(asked, 1, NOW + 61), Admission)


def test_a_full_table_refuses_and_is_made_anew_when_nobody_uses_it(tmp_path: Path) -> None:
    limiter = LocalLimiter(SharedTable(tmp_path / "table", most_keys=2))
    found = [limiter.reserve_now(key(f"k{number:011d}", concurrency=1), 1, NOW) for number in range(3)]
    assert [getattr(one, "what", "") for one in found] == ["", "", "store"]
    asyncio.run(limiter.close())
    limiter = LocalLimiter(SharedTable(tmp_path / "table", most_keys=2))
    assert isinstance(limiter.reserve_now(key("k00000000002", concurrency=1), 1, NOW), Admission)
