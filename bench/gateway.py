"""What the gateway costs: CPU per JSON request and per 32-event stream, added median latency, and memory over 100,000
requests, with everything on (keys, limits, journal with its hash chain, meters, logs). Beside LiteLLM's proxy.

    python bench/gateway.py --litellm VENV --out bench/results/gateway-2cores.json
    python bench/gateway.py --rounds 1 --seconds 4 --memory 0        # a quick look

`danlu serve` with one worker, as anybody starts it, on loopback; `wrk` (one thread) asks; the engine is a raw asyncio
server that answers at once, so what is measured is the gateway. Rounds alternate between the systems, so a noisy
neighbour falls on all of them. CPU is the worker process's, user and system (`cpu_all_us`: with the server process,
which folds journals into usage); it moves less with the neighbours than requests per second do. LiteLLM runs in its
cheapest mode (a master key; its virtual keys need Postgres), in an environment of its own:
`pip install "litellm[proxy]<1.109"`. Each cell is the median of its rounds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

NUM_EVENTS = 32
QUESTION = {"model": "law", "messages": [{"role": "user", "content": "请解释公司A的差旅报销标准"}]}
WHATS = ("json", "stream")
WARM_S = 2
LUA = """wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.headers["authorization"] = "Bearer KEY"
wrk.body = [[BODY]]
"""


# ---- the engine: prebuilt bytes, faster than any gateway


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-engine", "object": "chat.completion.chunk", "created": 1700000000, "model": "engine",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }  # fmt: skip


def _event(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """An answer at once, or NUM_EVENTS events, one a turn of the loop."""

    usage: ClassVar = {"prompt_tokens": 12, "completion_tokens": NUM_EVENTS - 2, "total_tokens": 10 + NUM_EVENTS}
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    events: ClassVar = [
        _event(_chunk({"role": "assistant", "content": ""})),
        *[_event(_chunk({"content": "补助"}))] * (NUM_EVENTS - 2),
        _event(_chunk({}, "stop")),
    ]
    usage_event = _event(_chunk({}) | {"choices": [], "usage": usage})
    done = _event("[DONE]") + b"0\r\n\r\n"

    def __init__(self) -> None:
        message = {"role": "assistant", "content": "根据财务制度,城市交通补助为每日80元。" * 4}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        answer = {
            "id": "chatcmpl-engine", "object": "chat.completion", "created": 1700000000, "model": "engine",
            "choices": [choice], "usage": self.usage,
        }  # fmt: skip
        body = json.dumps(answer, ensure_ascii=False).encode()
        self.answer = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        self.buffer = b""
        self.tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            told = re.search(rb"content-length:\s*(\d+)", self.buffer[:end].lower())
            size = end + 4 + (int(told[1]) if told else 0)
            if len(self.buffer) < size:
                return
            body, self.buffer = self.buffer[end + 4 : size], self.buffer[size:]
            text = body.replace(b" ", b"")
            if b'"stream":true' in text:
                task = asyncio.get_running_loop().create_task(self.stream(b'"include_usage":true' in text))
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            else:
                self.transport.write(self.answer)

    async def stream(self, has_usage: bool) -> None:
        self.transport.write(self.head)
        for event in [*self.events, *([self.usage_event] if has_usage else [])]:
            if self.transport.is_closing():
                return
            self.transport.write(event)
            await asyncio.sleep(0)
        self.transport.write(self.done)


async def run_engine(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Engine, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


# ---- what is asked: ourselves as anybody starts us, and the peer


def prepare(runs: Path) -> str:
    """A key with limits that count and do not bite, in the home that `danlu serve` will use. Its credential."""
    from danlu.serving.keys import PEPPER, Key, KeyBook, Pepper
    from danlu.serving.store import open_store

    home = runs / "serving"
    home.mkdir(parents=True)
    store = open_store(home)
    most = 10**6
    limits = Key(
        "", "", (), requests_per_minute=most, tokens_per_minute=10**9, concurrency=most // 10, tokens_per_month=10**12
    )
    _, credential = KeyBook(store, Pepper.open(home / PEPPER)).create("bench", ("law",), now=time.time(), limits=limits)
    store.close()
    return credential


def danlu_command(port: int, engine: int, runs: Path) -> list[str]:
    """One worker; the engine is an upstream that cannot be proven, which has to be said."""
    return [
        sys.executable, "-m", "danlu", "serve", f"law=http://127.0.0.1:{engine}/v1", f"serving.port={port}",
        "serving.allow_unverified=true", f"serving.metrics_port={free_port()}", "--runs", str(runs), "--lang", "en",
    ]  # fmt: skip


LITELLM = """model_list:
  - model_name: law
    litellm_params: {{model: openai/engine, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
litellm_settings: {{num_retries: 0, request_timeout: 60, telemetry: false}}
general_settings: {{master_key: sk-bench}}
"""


# ---- measuring


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))


def cpu_s(pid: int) -> float:
    ticks = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    total = 0
    for one in tree(pid):
        with contextlib.suppress(OSError):
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{one}/status").read_text())
            total += int(found[1]) if found else 0
    return round(total / 1024, 1)


class System:
    """One thing that is asked: the engine itself, our gateway, or a peer."""

    def __init__(self, name: str, command: list[str], port: int, home: Path, key: str = "") -> None:
        self.name, self.port, self.key = name, port, key
        self.slowness = 4 if name == "litellm" else 1
        """So much longer it is asked, for its requests under way at the end to count little."""
        env = {**os.environ, "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        with (home / f"{name}.log").open("wb") as log:
            started = time.monotonic()
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        self._wait(home)
        self.start_s = round(time.monotonic() - started, 1)
        self.scripts = {}
        for what in WHATS:
            body = json.dumps(QUESTION | ({"stream": True} if what == "stream" else {}), ensure_ascii=False)
            self.scripts[what] = home / f"{name}-{what}.lua"
            self.scripts[what].write_text(LUA.replace("KEY", self.key).replace("BODY", body), encoding="utf-8")
        self._check()

    def _wait(self, home: Path) -> None:
        until = time.monotonic() + 180
        while time.monotonic() < until:
            assert self.process.poll() is None, (home / f"{self.name}.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.1)
        raise SystemExit(f"{self.name} never listened")

    def _check(self) -> None:
        """It answers, with what the engine said."""
        until = time.monotonic() + 120
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        while True:
            try:
                data = json.dumps(QUESTION | {"stream": True}).encode()
                said = urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30).read().decode()
                assert said.count("补助") == NUM_EVENTS - 2 or said.count("\\u8865") == NUM_EVENTS - 2, said
                return
            except (urllib.error.URLError, OSError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)

    @property
    def worker(self) -> int:
        """The process that answers: of `danlu serve` its worker, else the one that was started."""
        for pid in tree(self.process.pid):
            with contextlib.suppress(OSError):
                if b"danlu.serving.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return self.process.pid

    def load(self, what: str, connections: int, seconds: float) -> dict[str, float]:
        worker = self.worker
        before, before_worker = cpu_s(self.process.pid), cpu_s(worker)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "20s"]
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        said = subprocess.run([*command, "-s", str(self.scripts[what]), url], capture_output=True, text=True).stdout
        num = int(re.search(r"(\d+) requests in", said)[1])  # type: ignore[index]
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
        errors = re.search(r"Socket errors: (.*)", said)
        assert num and not bad, said
        return {
            "num": num,
            "per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1]),  # type: ignore[index]
            "p50_ms": _ms(said, "50"),
            "p99_ms": _ms(said, "99"),
            "cpu_us": round((cpu_s(worker) - before_worker) / num * 1e6, 1),
            "cpu_all_us": round((cpu_s(self.process.pid) - before) / num * 1e6, 1),
            "socket_errors": 0 if errors is None else sum(map(int, re.findall(r"\d+", errors[1]))),
        }

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


def _ms(said: str, percent: str) -> float:
    found = re.search(percent + r"%\s+([\d.]+)(us|ms|s)", said)
    assert found, said
    return round(float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]], 3)


def memory(system: System, num_requests: int) -> dict[str, Any]:
    """Of the worker, while so many requests pass, JSON and streams in turn; growth counts from the first tenth on."""
    sizes, num = [(0, rss_mb(system.worker))], 0
    while num < num_requests:
        for what in WHATS:
            num += int(system.load(what, 32, 3)["num"])
        sizes.append((num, rss_mb(system.worker)))
    warm = next(size for count, size in sizes if count >= num_requests / 10)
    growth = sizes[-1][1] - warm
    return {
        "num_requests": num,
        "start_mb": sizes[0][1],
        "end_mb": sizes[-1][1],
        "growth_mb": round(growth, 1),
        "sizes": sizes,
    }


def measure(args: argparse.Namespace, home: Path) -> dict[str, Any]:
    here, engine_port = [sys.executable, __file__], free_port()
    ports = {"danlu": free_port(), "litellm": free_port()}
    (home / "litellm.yaml").write_text(LITELLM.format(engine=engine_port))
    keys = {"danlu": prepare(home / "runs"), "litellm": "sk-bench"}
    commands = {"danlu": danlu_command(ports["danlu"], engine_port, home / "runs")}
    if args.litellm:
        commands["litellm"] = [
            f"{args.litellm}/bin/litellm", "--config", str(home / "litellm.yaml"), "--host", "127.0.0.1",
            "--port", str(ports["litellm"]), "--num_workers", "1",
        ]  # fmt: skip
    systems: list[System] = []
    try:
        systems.append(System("engine", [*here, "--engine", str(engine_port)], engine_port, home))
        for name, command in commands.items():
            systems.append(System(name, command, ports[name], home, key=keys[name]))
        rows: dict[str, dict[str, list[dict[str, float]]]] = {s.name: {} for s in systems}
        for system in systems:
            for what in WHATS:
                system.load(what, 8, WARM_S * system.slowness)
        for number in range(args.rounds):
            for what in WHATS:
                for connections in (1, 32):
                    for system in systems:
                        row = system.load(what, connections, args.seconds * system.slowness)
                        rows[system.name].setdefault(f"{what}-c{connections}", []).append(row)
                        print(number, system.name, what, connections, row, file=sys.stderr, flush=True)
        found: dict[str, Any] = {
            name: {cell: _median(many) for cell, many in cells.items()} for name, cells in rows.items()
        }
        for system in systems[1:]:
            found[system.name] |= {
                "start_s": system.start_s,
                "rss_mb": rss_mb(system.worker),
                "rss_all_mb": rss_mb(system.process.pid),
            }
            for what in WHATS:
                # latencies are paired within a round: the engine's own was measured seconds before
                pairs = zip(rows[system.name][f"{what}-c1"], rows["engine"][f"{what}-c1"], strict=True)
                found[system.name][f"{what}-added-p50-ms"] = _spread(
                    [one["p50_ms"] - bare["p50_ms"] for one, bare in pairs]
                )
        if args.memory:
            found["danlu"]["memory"] = memory(systems[1], args.memory)
        return found
    finally:
        for system in systems:
            system.stop()


def _median(rows: list[dict[str, float]]) -> dict[str, Any]:
    return {name: _spread([row[name] for row in rows]) for name in rows[0]}


def _spread(values: list[float]) -> list[float]:
    return [round(one, 3) for one in (statistics.median(values), min(values), max(values))]


def table(found: dict[str, Any]) -> None:
    print("| | JSON CPU µs | JSON/s | JSON +p50 ms | stream CPU µs | streams/s | stream +p50 ms | start s | RSS MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in found.items():
        if name == "engine":
            continue
        cells = [
            row["json-c32"]["cpu_us"][0], row["json-c32"]["per_s"][0], row["json-added-p50-ms"][0],
            row["stream-c32"]["cpu_us"][0], row["stream-c32"]["per_s"][0], row["stream-added-p50-ms"][0],
            row["start_s"], row["rss_mb"],
        ]  # fmt: skip
        print(f"| {name} | {' | '.join(f'{cell:g}' for cell in cells)} |")
    if "memory" in found["danlu"]:
        print({name: value for name, value in found["danlu"]["memory"].items() if name != "sizes"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--litellm", type=Path, help="a virtual environment with LiteLLM's proxy")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--memory", type=int, default=100_000, help="requests of the memory run; 0: none")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.engine:
        import uvloop

        uvloop.run(run_engine(args.engine))
    else:
        assert shutil.which("wrk"), "wrk asks the questions: apt-get install wrk"
        started = os.getloadavg()
        with tempfile.TemporaryDirectory(prefix="danlu-gateway-") as home:
            found = measure(args, Path(home))
        table(found)
        if args.out:
            facts = {
                "what": "bench/gateway.py", "python": platform.python_version(), "cores": os.cpu_count(),
                "load_before": started, "load_after": os.getloadavg(), "num_events": NUM_EVENTS,
                "versions": {name: version(name) for name in ("uvicorn", "httptools", "uvloop", "aiohttp", "orjson")},
                "litellm": _litellm_version(args.litellm), "rounds": args.rounds, "seconds": args.seconds,
            }  # fmt: skip
            args.out.write_text(json.dumps(facts | {"systems": found}, indent=1, ensure_ascii=False) + "\n")


def _litellm_version(folder: Path | None) -> str:
    if folder is None:
        return ""
    asked = [f"{folder}/bin/python", "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
