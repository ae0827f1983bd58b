"""Does anything go wrong while versions change, and engines and workers are killed? Under load, with the native engine.

    python bench/swaps.py --out bench/results/swaps-2cores.json          # 50 swaps, 5 kills of each kind; minutes
    python bench/swaps.py --swaps 6 --kills 1                            # a quick look

A tiny base with two adapters that were taught different answers to the same four questions; two engine processes, two
gateway workers on one socket, clients that ask all the time, half of them streaming. Each answer is held to the one its
header's version gives: word for word and whole. Three parts:

    swaps    an adapter is loaded on both engines, checked there, flipped to, and the old one drained and dropped
    engines  kill -9 of one of two; what fails, and how long until both answer again, with a spare process and without
    workers  kill -9 of one of two; every answer that came stands in a journal, opened and closed, and the chains verify
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "unit" / "serving"), str(ROOT / "tests")]

import orjson  # noqa: E402
from server_kit import Client, Place, serving_with  # noqa: E402

import engine_kit  # noqa: E402
from danlu.run.artifact import Manifest  # noqa: E402
from danlu.serving.chains import flaws_of, verify  # noqa: E402
from danlu.serving.drivers.driver import EngineSpec  # noqa: E402
from danlu.serving.pool_plan import PoolPlan  # noqa: E402
from danlu.serving.processes import Patience  # noqa: E402
from danlu.serving.rollout import Offer  # noqa: E402
from danlu.serving.spares import Spare  # noqa: E402
from danlu.serving.store import open_store  # noqa: E402
from danlu.serving.usage import JournalReader  # noqa: E402
from tiny_chat import QUESTIONS  # noqa: E402

NUM_CLIENTS = 8
KNOWN = {f"tiny-{seed}": dict(zip(QUESTIONS, engine_kit.ANSWERS[seed], strict=True)) for seed in (0, 1)}
PATIENCE = Patience(ready_s=120, ask_every_s=0.3, unwell_s=20, first_wait_s=0.1, term_s=10)


def judge(lens: str, question: str, answer: str) -> bool:
    return answer.strip() == KNOWN[lens.partition("@")[0]][question].strip()


def pool_for(folder: Path, manifest: Manifest) -> PoolPlan:
    spec = EngineSpec(
        engine_kit.base(), speech=folder, max_adapters=2, num_slots=16, num_threads=1, dtype="float32", context=256
    )
    return PoolPlan("tiny", "native", spec, ("adapter",), str(manifest.base["digest"]), num_replicas=2)


@asynccontextmanager
async def under_load(place: Place) -> Any:
    """Half of the clients stream."""
    ended = asyncio.Event()
    asking = [asyncio.create_task(place.client.keep_asking(ended, is_stream=bool(n % 2))) for n in range(NUM_CLIENTS)]
    try:
        yield
    finally:
        ended.set()
        await asyncio.gather(*asking)


async def swap(place: Place, num: int, folders: list[Path]) -> dict[str, Any]:
    rollout, flips_s, drains_s = place.server.rollout, [], []
    async with under_load(place):
        for n in range(num):
            old = rollout.models["law"].lenses[0][0]
            began = time.monotonic()
            await rollout.switch("law", str(folders[(n + 1) % 2]))
            flips_s.append(time.monotonic() - began)
            await rollout.remove(old)
            drains_s.append(time.monotonic() - began - flips_s[-1])
            await asyncio.sleep(0.2)
    return counts(place.client) | {"swaps": num, "flip_s": spread(flips_s), "drain_s": spread(drains_s)}


async def kill_engines(place: Place, num: int) -> dict[str, Any]:
    """Each in turn, when a spare waits; and once more right after it is back, when there is none."""
    back: dict[str, list[float]] = {"spare": [], "none": []}
    cpu: dict[str, list[float]] = {"spare": [], "none": []}
    running: list[int] = []
    megabytes = 0
    (spare,) = place.server.rollout.fleet.spares.all.values()
    async with under_load(place):
        for n in range(num):
            await at_rest(spare)
            megabytes = spare.memory_bytes // 2**20
            before = {"spare": cpu_of(spare.pid), "none": 0.0}
            for found in ("spare", "none"):
                seconds, pid = await kill_one(place, n % 2, running)
                back[found].append(seconds)
                cpu[found].append(cpu_of(pid) - before[found])
                if found == "spare":
                    await no_spare(spare)
    return counts(place.client) | {
        "kills": 2 * num, "running_when_killed": running, "back_s": spread(back["spare"]),
        "start_cpu_s": spread(cpu["spare"]), "back_without_spare_s": spread(back["none"]),
        "start_without_spare_cpu_s": spread(cpu["none"]), "spare_mb": megabytes,
    }  # fmt: skip


async def kill_one(place: Place, number: int, running: list[int]) -> tuple[float, int]:
    """Seconds until both answer again, and the process that does."""
    pool = place.server.rollout.fleet.pools["tiny"]
    instance = pool.instances[number]
    assert instance.child is not None
    running.append(sum(post.on_replica.get(instance.name, 0) for post in place.server.line.posts.values()))
    began = time.monotonic()
    os.kill(instance.child.pid, signal.SIGKILL)
    await until(lambda: instance.state == "down")
    await until(lambda: all(each.state == "ready" for each in pool.instances))
    return time.monotonic() - began, instance.child.pid


async def at_rest(spare: Spare) -> None:
    """It has loaded everything, and waits."""
    await until(lambda: spare.memory_bytes > 2**20)
    seen = -1.0
    while cpu_of(spare.pid) != seen:
        seen = cpu_of(spare.pid)
        await asyncio.sleep(0.5)


async def no_spare(spare: Spare) -> None:
    """The next death finds none."""
    await until(lambda: spare.pid)
    os.kill(spare.pid, signal.SIGKILL)
    await until(lambda: not spare.pid)


def cpu_of(pid: int) -> float:
    """What a process has computed until now: how long its start takes where it has a core of its own."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def kill_workers(place: Place, num: int) -> dict[str, Any]:
    back_s = []
    async with under_load(place):
        for n in range(num):
            await asyncio.sleep(1.0)
            child = place.server.workers[n % 2]
            pid, began = child.pid, time.monotonic()
            os.kill(pid, signal.SIGKILL)
            await until(lambda child=child, pid=pid: child.pid not in (0, pid) and child.state == "ready")
            back_s.append(time.monotonic() - began)
    return counts(place.client) | {"kills": num, "back_s": spread(back_s)}


def in_the_books(home: Path, ids: list[str]) -> dict[str, Any]:
    """Each answer that came has its row of usage, folded from the journals, whose chains are whole."""
    store = open_store(home)
    JournalReader(home, store).fold()
    sums = store.sums("0000-00-00", "9999-99-99")
    store.close()
    opened: dict[tuple[str, int], str] = {}
    closed = set()
    for path in sorted((home / "journal").glob("*.jsonl")):
        for said in map(orjson.loads, path.read_bytes().splitlines()):
            if said["what"] == "opened":
                opened[path.stem, said["n"]] = said["id"]
            elif said["what"] == "closed":
                closed.add(opened[said.get("in", path.stem), said["of"]])
    return {
        "answers": len(ids), "without_an_opening": len(set(ids) - set(opened.values())),
        "without_a_closing": len(set(ids) - closed), "rows": sum(one.requests for one in sums),
        "rows_done": sum(one.done for one in sums), "rows_lost": sum(one.lost for one in sums),
        "rows_open": sum(one.open for one in sums), "flaws_in_chains": len(flaws_of(verify(home / "journal"))),
    }  # fmt: skip


def counts(client: Client) -> dict[str, Any]:
    told = {
        "asked": client.num_asked, "answered": sum(client.seen.values()), "failed": len(client.failures),
        "failures": dict(Counter(failure[:60] for failure in client.failures)), "mixed": len(client.mixed),
        "examples_mixed": client.mixed[:3], "by_version": dict(client.seen), "answer_s": spread(client.times_s),
    }  # fmt: skip
    return told


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3), "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 3),
        "most": round(ordered[-1], 3),
    }  # fmt: skip


async def until(holds: Callable[[], Any], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not holds():
            await asyncio.sleep(0.01)


async def part(what: Callable[[Place], Awaitable[dict[str, Any]]], folders: list[Path]) -> dict[str, Any]:
    """With a server of its own."""
    runs = Path(tempfile.mkdtemp(prefix="danlu-swaps-"))
    try:
        offer = Offer("law", str(folders[0]))
        async with serving_with(
            runs, offer, pool_for=pool_for, num_workers=2, questions=QUESTIONS, judge=judge, patience=PATIENCE
        ) as place:
            found = await what(place)
            client, home = place.client, place.home
            ends = [child.facts.last_end for child in place.server.workers if child.facts.num_starts > 1]
        return found | {"workers_that_died": ends, "books": in_the_books(home, client.ids)}
    finally:
        shutil.rmtree(runs, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--only", choices=("swaps", "engines", "workers"), help="one part")
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    folders = [engine_kit.artefact("adapter", seed) for seed in (0, 1)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found = {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "clients": NUM_CLIENTS, "engines": 2, "workers": 2,
    }  # fmt: skip
    parts: dict[str, Callable[[Place], Awaitable[dict[str, Any]]]] = {
        "swaps": lambda place: swap(place, told.swaps, folders),
        "engines": lambda place: kill_engines(place, told.kills),
        "workers": lambda place: kill_workers(place, told.kills),
    }
    for name, what in parts.items():
        if told.only not in (None, name):
            continue
        found[name] = asyncio.run(part(what, folders)) | {"load_average": round(os.getloadavg()[0], 1)}
        print(json.dumps({name: found[name]}, ensure_ascii=False, indent=1), flush=True)
    if told.out is not None:
        told.out.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
