"""Are limits exact under overload? Four gateway workers on one socket, one Redis (or the table that workers of one
machine share), four keys with a limit each, asked for ten times as much as they may, a third of the clients hanging up
in the middle of an answer.

    python bench/limits.py --out bench/results/limits-2cores.json        # 60 s for each of redis and table
    python bench/limits.py --seconds 20 --only table                     # a quick look

What is held to account afterwards, from the journals and the engine's own books:

    rates        in any 60 s, wherever they begin, no more requests and tokens than the limit
    concurrency  at no moment more than the limit: from a request's first line in the journal to its last, and in the
                 engine, from when it got a request to when that had left its seat
    quota        what the month's rows come to stays within it
    tokens       what the journals settled is what the engine computed, answer by answer and in all (its own counters on
                 /metrics), those that somebody hung up on included, streams and whole answers
    books        every answer has its row, every chain verifies

The engine is ours, with the model `ember`. What is reserved is more than what is settled until then, so token limits
are never reached by much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]
NUM_WORKERS = 4
LENS = "law@0123456789ab"
SECRET = "secret-of-the-bench"
WHOLE_EVERY, LEFT_AFTER_S = 5, 0.15
"""Each fifth question is for a whole answer; who hangs up on one waits so long."""
KEYS: dict[str, dict[str, int]] = {
    "requests": {"requests_per_minute": 120},
    "tokens": {"tokens_per_minute": 6_000},
    "concurrency": {"concurrency": 2},
    "quota": {"tokens_per_month": 4_000},
}
"""One limit each, small enough that ten times as much can be asked on two cores."""
OVERLOAD_PER_S = {"requests": 20.0, "tokens": 20.0, "concurrency": 80.0, "quota": 20.0}
"""Requests a second: ten times what each lets through (a request reserves some 100 tokens and takes 0.3 s)."""


# ---- the engine


def run_engine(port: int, book: Path) -> None:
    """As `python -m danlu.engines.server` runs it, and each answer's bill is written down."""
    import uvicorn

    from danlu.engines.bills import Bills
    from danlu.engines.server import listen, open_live
    from danlu.model.hub import embedded_folder

    class Noted(Bills):
        def __init__(self) -> None:
            super().__init__()
            self.began: dict[str, float] = {}
            self.file = book.open("a", buffering=1)

        def add(self, id: str, ticket: Any) -> None:
            self.began.setdefault(id, time.time())
            super().add(id, ticket)

        def close(self, update: Any) -> None:
            bill = self._by_ticket[id(update.ticket)]
            name = next(name for name, one in reversed(self._bills.items()) if one is bill)
            super().close(update)
            line = {"id": name, "prompt": bill.prompt_tokens, "answer": bill.answer_tokens, "finish": update.finish}
            self.file.write(json.dumps(line | {"began": self.began[name], "ended": time.time()}) + "\n")

    doors, _ = open_live(embedded_folder(), SECRET, name="engine", num_slots=64)
    doors.bills = Noted()
    config = uvicorn.Config(
        doors, lifespan="off", ws="none", access_log=False, log_level="warning", timeout_keep_alive=75
    )
    uvicorn.Server(config).run(sockets=[listen(None, port)])


def ask_engine(port: int, path: str) -> str:
    """ "" where it does not answer yet."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {SECRET}"})
    try:
        with urllib.request.urlopen(asked, timeout=5) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def counted(port: int) -> dict[str, int]:
    """What the engine says of itself, once it has nothing more to do."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = dict(line.split() for line in ask_engine(port, "/metrics").splitlines() if line[:1] not in ("#", ""))
        facts = {name.removeprefix("danlu_engine_"): int(float(value)) for name, value in found.items()}
        if not facts["running"] and not facts["waiting"]:
            break
        time.sleep(0.2)
    return {name: facts[name] for name in ("prompt_tokens_total", "answer_tokens_total", "faults_total")}


# ---- a worker: the gateway's parts on a socket that all share


def run_worker(name: str, fd: int, engine: int, home: Path, redis_url: str) -> None:
    import uvicorn

    from danlu.serving.board import Board, Lens, Model, Replica
    from danlu.serving.caps import Caps
    from danlu.serving.gateway import Gateway
    from danlu.serving.journal import FOLDER, FileJournal
    from danlu.serving.keys import PEPPER, LiveKeys, Pepper
    from danlu.serving.limit_table import SharedTable
    from danlu.serving.limits import LocalLimiter
    from danlu.serving.meters import Meters
    from danlu.serving.redis_limits import RedisLimiter
    from danlu.serving.router import Router
    from danlu.serving.store import open_store

    store = open_store(home)
    keys = LiveKeys(store, Pepper.open(home / PEPPER))
    replica = Replica("r0", "pool", "native", f"http://127.0.0.1:{engine}", SECRET, "ready", ((LENS, "engine"),))
    board = Board(1, (Model("law", ((LENS, 1.0),), 1700000000),), (Lens(LENS, "pool", context=2048),), (replica,))
    journal = FileJournal(home / FOLDER, name)

    async def serve() -> None:
        limiter = (
            RedisLimiter(redis_url, num_workers=NUM_WORKERS) if redis_url else LocalLimiter(SharedTable(home / "table"))
        )
        gateway = Gateway(Router(board), keys, limiter, journal, Meters(), Caps())
        config = uvicorn.Config(
            gateway, fd=fd, log_level="warning", access_log=False, http="httptools", ws="none", server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=5,
        )  # fmt: skip
        await uvicorn.Server(config).serve()
        alarm = limiter.alarm
        await limiter.close()
        (home / f"alarm-{name}").write_text(alarm)

    asyncio.run(serve())
    journal.close()


# ---- clients


async def overload(url: str, credentials: dict[str, str], seconds: float) -> dict[str, Counter[str]]:
    import aiohttp

    told: dict[str, Counter[str]] = {name: Counter() for name in KEYS}
    connector = aiohttp.TCPConnector(limit=512)
    async with aiohttp.ClientSession(connector=connector) as session:
        asking: set[asyncio.Task[None]] = set()
        began, num = time.monotonic(), Counter[str]()
        while (passed := time.monotonic() - began) < seconds:
            for name, per_s in OVERLOAD_PER_S.items():
                while num[name] < passed * per_s:
                    num[name] += 1
                    task = asyncio.create_task(ask(session, url, name, credentials[name], num[name], told[name]))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
            await asyncio.sleep(0.01)
        await asyncio.gather(*asking)
    return told


async def ask(session: Any, url: str, name: str, credential: str, number: int, told: Counter[str]) -> None:
    """A third hangs up after a few events, or in the middle of a whole answer."""
    import aiohttp

    words = " ".join(["why"] * (5 + number % 7))
    hangs_up, is_stream = number % 3 == 0, number % WHOLE_EVERY != 0
    body = {"model": "law", "stream": is_stream, "max_tokens": 20 + number % 20, "temperature": 1.6,
            "messages": [{"role": "user", "content": f"{name} {words}"}]}  # fmt: skip
    told["asked"] += 1
    timeout = aiohttp.ClientTimeout(total=LEFT_AFTER_S if hangs_up and not is_stream else 300)
    try:
        headers = {"Authorization": f"Bearer {credential}"}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=timeout) as reply:
            told[str(reply.status)] += 1
            if reply.status != 200:
                assert reply.status != 429 or int(reply.headers.get("retry-after", 1)) > 0
                await reply.read()
                return
            num = 0
            async for line in reply.content:
                num += line.startswith(b"data:")
                if hangs_up and is_stream and num > number % 11:
                    told["hung up"] += 1
                    reply.close()
                    return
            told["whole"] += 1
    except TimeoutError:
        told["hung up"] += 1
    except (aiohttp.ClientError, OSError) as fault:
        told[type(fault).__name__] += 1


# ---- one run


@contextlib.contextmanager
def processes(home: Path, kind: str) -> Iterator[tuple[str, int]]:
    from servers import free_port, running_redis

    with contextlib.ExitStack() as stack:
        redis_url = stack.enter_context(running_redis()).url if kind == "redis" else ""
        engine = free_port()
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        children: list[subprocess.Popen[bytes]] = []

        def start(*words: str, fds: tuple[int, ...] = ()) -> None:
            with (home / "log").open("ab") as log:
                children.append(subprocess.Popen([sys.executable, __file__, *words], pass_fds=fds, stderr=log))

        try:
            start("--engine", str(engine), str(home / "engine.jsonl"))
            fd = listener.fileno()
            os.set_inheritable(fd, True)
            for number in range(NUM_WORKERS):
                start("--worker", f"w{number}", str(fd), str(engine), str(home), redis_url, fds=(fd,))
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", engine
        finally:
            for child in reversed(children):
                child.send_signal(signal.SIGTERM)
            for child in children:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(15)
                child.kill()


def run(kind: str, seconds: float) -> dict[str, Any]:
    from danlu.serving.keys import PEPPER, Key, KeyBook, Pepper
    from danlu.serving.store import open_store

    with tempfile.TemporaryDirectory(prefix="danlu-limits-") as folder:
        home = Path(folder)
        store = open_store(home)
        book = KeyBook(store, Pepper.open(home / PEPPER))
        made = {
            name: book.create(name, now=time.time(), limits=Key("", "", (), **limits)) for name, limits in KEYS.items()
        }
        with processes(home, kind) as (url, engine):
            await_ready(engine, home)
            told = asyncio.run(overload(url, {name: credential for name, (_, credential) in made.items()}, seconds))
            time.sleep(1.0)
            in_all = counted(engine)
        alarms = [path.read_text() for path in sorted(home.glob("alarm-*"))]
        alarms += [line for line in (home / "log").read_text().splitlines() if "did not say" in line]
        found = account(home, {key.id: name for name, (key, _) in made.items()}, in_all)
        return {"seconds": seconds, "alarms": [alarm for alarm in alarms if alarm], "clients": told} | found


def await_ready(engine: int, home: Path) -> None:
    """All workers have begun, each with its journal, and the engine has its model."""
    until = time.monotonic() + 120
    while len(list((home / "journal").glob("*.jsonl"))) < NUM_WORKERS or not ask_engine(engine, "/ready"):
        assert time.monotonic() < until, (home / "log").read_text()[-2000:]
        time.sleep(0.1)
    time.sleep(1.0)


# ---- the account


def account(home: Path, names: dict[str, str], in_all: dict[str, int]) -> dict[str, Any]:
    from danlu.serving.chains import flaws_of, verify
    from danlu.serving.journal import FOLDER
    from danlu.serving.store import open_store
    from danlu.serving.usage import JournalReader

    rows = journalled(home / FOLDER)
    engine = [json.loads(line) for line in (home / "engine.jsonl").read_text().splitlines()]
    keys = {id: names[row["key"]] for id, row in rows.items()}
    store = open_store(home)
    JournalReader(home, store).fold()
    sums = store.sums("0000-00-00", "9999-99-99")
    limits = {}
    for key_id, name in names.items():
        own = [row for row in rows.values() if row["key"] == key_id]
        tokens = [(row["time"], row["prompt_tokens"] + row["answer_tokens"]) for row in own]
        limits[name] = {
            "limit": KEYS[name], "admitted": len(own), "settled_tokens": sum(num for _, num in tokens),
            "most_requests_in_60_s": most_in([(at, 1) for at, _ in tokens]), "most_tokens_in_60_s": most_in(tokens),
            "most_at_once": most_at_once(own),
            "most_at_once_in_the_engine": most_at_once(
                [{"time": one["began"], "closed": one["ended"]} for one in engine if keys.get(one["id"]) == name]
            ),
        }  # fmt: skip
    held = {
        "requests": limits["requests"]["most_requests_in_60_s"] <= KEYS["requests"]["requests_per_minute"],
        "tokens": limits["tokens"]["most_tokens_in_60_s"] <= KEYS["tokens"]["tokens_per_minute"],
        "concurrency": limits["concurrency"]["most_at_once"] <= KEYS["concurrency"]["concurrency"],
        "concurrency_in_the_engine": limits["concurrency"]["most_at_once_in_the_engine"]
        <= KEYS["concurrency"]["concurrency"],
        "quota": limits["quota"]["settled_tokens"] <= KEYS["quota"]["tokens_per_month"],
    }
    settled = {what: sum(row[f"{what}_tokens"] for row in rows.values()) for what in ("prompt", "answer")}
    held["tokens_settled_are_the_engines"] = all(
        settled[what] == in_all[f"{what}_tokens_total"] for what in ("prompt", "answer")
    )
    return {
        "held": held, "limits": limits, "tokens": tokens_of(rows, engine), "settled": settled, "engine": in_all,
        "books": {
            "openings": len(rows), "rows": sum(one.requests for one in sums), "open": sum(one.open for one in sums),
            "lost": sum(one.lost for one in sums), "flaws_in_chains": len(flaws_of(verify(home / FOLDER))),
        },
    }  # fmt: skip


def journalled(folder: Path) -> dict[str, dict[str, Any]]:
    rows, places = {}, {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in map(json.loads, path.read_text().splitlines()):
            if line["what"] == "opened":
                places[path.stem, line["n"]] = line["id"]
                rows[line["id"]] = line | {"prompt_tokens": 0, "answer_tokens": 0, "outcome": "open"}
            elif line["what"] == "closed":
                told = {name: line[name] for name in ("prompt_tokens", "answer_tokens", "outcome", "is_counted")}
                told["closed"] = line["time"]
                rows[places[line.get("in", path.stem), line["of"]]] |= told
    return rows


def most_in(moments: list[tuple[float, int]], span_s: float = 60.0) -> int:
    moments, most, first, total = sorted(moments), 0, 0, 0
    for at, num in moments:
        total += num
        while moments[first][0] <= at - span_s:
            total -= moments[first][1]
            first += 1
        most = max(most, total)
    return most


def most_at_once(rows: list[dict[str, Any]]) -> int:
    most = total = 0
    ends = [(row.get("closed", float("inf")), -1) for row in rows]
    for _, change in sorted([*((row["time"], 1) for row in rows), *ends]):
        total += change
        most = max(most, total)
    return most


_APART = ("answers", "settled", "computed", "charged_too_much", "not_counted_by_the_engine", "most_apart")


def tokens_of(rows: dict[str, dict[str, Any]], engine: list[dict[str, Any]]) -> dict[str, Any]:
    """By outcome: answers, tokens settled and computed, answers that were charged more, and how far one is off."""
    computed = {one["id"]: one["prompt"] + one["answer"] for one in engine}
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_APART, 0))
    for id, row in rows.items():
        one, settled = found[row["outcome"]], row["prompt_tokens"] + row["answer_tokens"]
        one["answers"] += 1
        one["settled"] += settled
        one["computed"] += computed.get(id, 0)
        one["charged_too_much"] += settled > computed.get(id, 0)
        one["not_counted_by_the_engine"] += not row.get("is_counted", False)
        one["most_apart"] = max(one["most_apart"], abs(settled - computed.get(id, 0)))
    return dict(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=["redis", "table"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engine", nargs=2)
    parser.add_argument("--worker", nargs=5)
    told = parser.parse_args()
    if told.engine:
        run_engine(int(told.engine[0]), Path(told.engine[1]))
        return
    if told.worker:
        name, fd, engine, home, redis_url = told.worker
        run_worker(name, int(fd), int(engine), Path(home), redis_url)
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    found: dict[str, Any] = {
        "command": " ".join(["python", "bench/limits.py", *sys.argv[1:]]), "commit": commit.stdout.strip(),
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
        "workers": NUM_WORKERS, "asked_per_s": OVERLOAD_PER_S,
    }  # fmt: skip
    for kind in [told.only] if told.only else ["redis", "table"]:
        found[kind] = run(kind, told.seconds)
        print(json.dumps({kind: found[kind]}, indent=1), file=sys.stderr, flush=True)
    if told.out:
        told.out.write_text(json.dumps(found, indent=1) + "\n")
    for kind in {"redis", "table"} & found.keys():
        if missed := [name for name, is_held in found[kind]["held"].items() if not is_held]:
            num_silent = found[kind]["tokens"]["aborted"]["not_counted_by_the_engine"]
            raise SystemExit(f"{kind}: not held: {', '.join(missed)}; the engine did not say in time: {num_silent}")


if __name__ == "__main__":
    main()
