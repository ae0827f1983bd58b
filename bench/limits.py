"""Are limits exact under overload? Four gateway workers on one socket, one Redis (or the table that workers of one
machine share), four keys with a limit each, asked for ten times as much as they may, a third of the clients hanging up
in the middle of an answer.

    python bench/limits.py --out bench/results/limits-2cores.json        # 60 s for each of redis and table
    python bench/limits.py --seconds 20 --only table                     # a quick look

What is held to account afterwards, from the journals and the engine's own books:

    rates        in any 60 s, wherever they begin, no more requests and tokens than the limit
    concurrency  at no moment more than the limit, from a request's first line in the journal to its last
    quota        what the month's rows come to stays within it
    tokens       what the journals settled is what the engine says it computed, answer by answer; of a stream that was
                 aborted the engine computes on until it sees that nobody listens, so there it is no more than that
    books        every answer has its row, every chain verifies

The engine is a raw server that makes a token each 10 ms and tells its usage in every event, as vLLM and ours do. Token
limits are checked against what was settled; what is reserved is more until then, so they are never reached by much.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]
NUM_WORKERS = 4
LENS = "law@0123456789ab"
TOKEN_S = 0.01
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


class Engine:
    """Counts what it computes, and who asks at once."""

    def __init__(self, book: Path) -> None:
        self.file = book.open("a", buffering=1)
        self.running: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                size = int(re.search(r"content-length: (\d+)", head)[1])  # type: ignore[index]
                body = json.loads(await reader.readexactly(size))
                id = re.search(r"x-request-id: (\S+)", head)[1]  # type: ignore[index]
                await self.answer(id, body, writer)
        writer.close()

    async def answer(self, id: str, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        """`user` names the key here; so many tokens as `max_tokens` says."""
        who, began, num = body["messages"][0]["content"].split()[0], time.time(), 0
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        self.running[who] += 1
        told = {"id": id, "key": who, "began": began, "prompt": prompt, "at_once": self.running[who]}
        try:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            while num < body["max_tokens"]:
                await asyncio.sleep(TOKEN_S)
                if writer.transport.is_closing():
                    raise ConnectionResetError
                num += 1
                writer.write(_event({"content": f"w{num} "}, prompt, num))
                await writer.drain()
            writer.write(_event(None, prompt, num) + _chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
            await writer.drain()
            told["whole"] = True
        finally:
            self.running[who] -= 1
            self.file.write(json.dumps(told | {"answer": num, "ended": time.time()}) + "\n")


def _event(delta: dict[str, str] | None, prompt: int, num: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": num, "total_tokens": prompt + num}
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None if delta else "stop"}
    value = {
        "id": "e",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    return _chunked(f"data: {json.dumps(value)}\n\n".encode())


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def run_engine(port: int, book: Path) -> None:
    server = await asyncio.start_server(Engine(book).serve, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


# ---- a worker: the gateway's parts on a socket that all share


def run_worker(name: str, fd: int, engine: int, home: Path, redis_url: str) -> None:
    import uvicorn

    from danlu.serving.board import Board, Lens, Model, Replica
    from danlu.serving.caps import Caps
    from danlu.serving.gateway import Gateway
    from danlu.serving.journal import FOLDER, FileJournal
    from danlu.serving.keys import PEPPER, LiveKeys, Pepper
    from danlu.serving.limits import LocalLimiter
    from danlu.serving.meters import Meters
    from danlu.serving.redis_limits import RedisLimiter
    from danlu.serving.router import Router
    from danlu.serving.store import open_store
    from danlu.serving.table import Shared

    store = open_store(home)
    keys = LiveKeys(store, Pepper.open(home / PEPPER))
    replica = Replica("r0", "pool", "upstream", f"http://127.0.0.1:{engine}", "secret", "ready", ((LENS, "engine"),))
    board = Board(1, (Model("law", ((LENS, 1.0),), 1700000000),), (Lens(LENS, "pool", context=32768),), (replica,))
    journal = FileJournal(home / FOLDER, name)

    async def serve() -> None:
        limiter = (
            RedisLimiter(redis_url, num_workers=NUM_WORKERS) if redis_url else LocalLimiter(Shared(home / "table"))
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
    """A third hangs up after a few events."""
    import aiohttp

    words = " ".join(["why"] * (5 + number % 7))
    body = {"model": "law", "stream": True, "max_tokens": 20 + number % 20,
            "messages": [{"role": "user", "content": f"{name} {words}"}]}  # fmt: skip
    told["asked"] += 1
    try:
        headers = {"Authorization": f"Bearer {credential}"}
        async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as reply:
            told[str(reply.status)] += 1
            if reply.status == 429:
                assert int(reply.headers.get("retry-after", 1)) > 0
                await reply.read()
            elif reply.status == 200:
                hangs_up = number % 3 == 0
                num = 0
                async for line in reply.content:
                    num += line.startswith(b"data:")
                    if hangs_up and num > number % 11:
                        told["hung up"] += 1
                        reply.close()
                        return
                told["whole"] += 1
    except (aiohttp.ClientError, OSError) as fault:
        told[type(fault).__name__] += 1


# ---- one run


@contextlib.contextmanager
def processes(home: Path, kind: str) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
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
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", children
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
        with processes(home, kind) as (url, _):
            await_ready(url, home)
            told = asyncio.run(overload(url, {name: credential for name, (_, credential) in made.items()}, seconds))
            time.sleep(1.0)
        alarms = [path.read_text() for path in sorted(home.glob("alarm-*"))]
        found = account(home, {key.id: name for name, (key, _) in made.items()})
        return {"seconds": seconds, "alarms": [alarm for alarm in alarms if alarm], "clients": told} | found


def await_ready(url: str, home: Path) -> None:
    """All workers have begun, each with its journal."""
    until = time.monotonic() + 60
    while len(list((home / "journal").glob("*.jsonl"))) < NUM_WORKERS:
        assert time.monotonic() < until, (home / "log").read_text()[-2000:]
        time.sleep(0.1)
    time.sleep(1.0)


# ---- the account


def account(home: Path, names: dict[str, str]) -> dict[str, Any]:
    from danlu.serving.chains import flaws_of, verify
    from danlu.serving.journal import FOLDER
    from danlu.serving.store import open_store
    from danlu.serving.usage import Folder

    rows = journalled(home / FOLDER)
    engine = [json.loads(line) for line in (home / "engine.jsonl").read_text().splitlines()]
    store = open_store(home)
    Folder(home, store).fold()
    sums = store.sums("0000-00-00", "9999-99-99")
    limits = {}
    for key_id, name in names.items():
        own = [row for row in rows.values() if row["key"] == key_id]
        tokens = [(row["time"], row["prompt_tokens"] + row["answer_tokens"]) for row in own]
        limits[name] = {
            "limit": KEYS[name], "admitted": len(own), "settled_tokens": sum(num for _, num in tokens),
            "most_requests_in_60_s": most_in([(at, 1) for at, _ in tokens]), "most_tokens_in_60_s": most_in(tokens),
            "most_at_once": most_at_once(own),
            "most_at_once_in_the_engine": max((one["at_once"] for one in engine if one["key"] == name), default=0),
        }  # fmt: skip
    held = {
        "requests": limits["requests"]["most_requests_in_60_s"] <= KEYS["requests"]["requests_per_minute"],
        "tokens": limits["tokens"]["most_tokens_in_60_s"] <= KEYS["tokens"]["tokens_per_minute"],
        "concurrency": limits["concurrency"]["most_at_once"] <= KEYS["concurrency"]["concurrency"],
        "quota": limits["quota"]["settled_tokens"] <= KEYS["quota"]["tokens_per_month"],
    }
    return {
        "held": held, "limits": limits, "tokens": tokens_of(rows, engine),
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
    """An engine that notices late that nobody listens any more may have more under way than this."""
    most = total = 0
    ends = [(row.get("closed", float("inf")), -1) for row in rows]
    for _, change in sorted([*((row["time"], 1) for row in rows), *ends]):
        total += change
        most = max(most, total)
    return most


_APART = ("answers", "settled", "computed", "charged_too_much", "most_apart")


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
        asyncio.run(run_engine(int(told.engine[0]), Path(told.engine[1])))
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
    if not all(all(found[kind]["held"].values()) for kind in ("redis", "table") if kind in found):
        raise SystemExit("a limit was passed")


if __name__ == "__main__":
    main()
