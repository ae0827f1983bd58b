"""16 streams at once on this machine's cores: danlu's native engine beside `transformers serve --continuous-batching`,
the same weights, prompts and most tokens, over HTTP with server-sent events.

    python bench/streams.py --theirs /path/to/venv/bin --out bench/results/streams-2cores.json
    python bench/streams.py --theirs /path/to/venv/bin --requests 32 --rounds 1      # a quick look

`--theirs` is the `bin` folder of an environment with `transformers[serving]`. Greedy; the prompts are questions of the
demo company that `ember` answers at some length, so that streams last. The two servers take turns, in alternating
order; the one that waits is stopped (SIGSTOP), so that nothing of it runs. Tokens are counted by each server's own
usage; CPU seconds are the server process's, and stand beside the wall clock because they hold when others use the
machine. transformers gets the best of its own settings (dtype, attention, tokens a batch), found first on a part.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
from evaluate import Ours, cpu_name, questions

MOST_LOOKED = 400
"""Questions among which those with long answers are found."""
TICKS = os.sysconf("SC_CLK_TCK")
TRIED = [
    {"--dtype": dtype, "--attn-implementation": attention, "--cb-max-batch-tokens": tokens, "--cb-num-blocks": blocks}
    for dtype, attention in (("bfloat16", "sdpa"), ("bfloat16", "eager"), ("float32", "sdpa"))
    for tokens, blocks in (("64", "32"), ("256", "64"))
]
"""Left to itself it takes ten gigabytes for keys and values, and each step looks through them."""


@dataclass
class Server:
    """A server process that can be stopped and let on."""

    name: str
    process: subprocess.Popen[bytes]
    url: str
    model: str
    key: str = ""
    log: Path | None = None
    rounds: list[dict[str, float]] = field(default_factory=list)

    @property
    def cpu_s(self) -> float:
        told = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(told[11]) + int(told[12])) / TICKS

    @property
    def rss_mb(self) -> float:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.go_on()
        self.process.kill()
        self.process.wait()


@dataclass
class Stream:
    """What one request saw."""

    num_tokens: int = 0
    text: str = ""
    first_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)


async def ask(session: aiohttp.ClientSession, server: Server, text: str, most: int) -> Stream:
    body = {
        "model": server.model, "messages": [{"role": "user", "content": text}], "max_tokens": most, "temperature": 0,
        "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    seen, began = Stream(), time.perf_counter()
    last = began
    headers = {"Authorization": f"Bearer {server.key}"} if server.key else {}
    async with session.post(f"{server.url}/v1/chat/completions", json=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()
        async for line in reply.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            if usage := event.get("usage"):
                seen.num_tokens = usage["completion_tokens"]
            delta = event["choices"][0]["delta"] if event["choices"] else {}
            if piece := delta.get("content"):
                now = time.perf_counter()
                if seen.text:
                    seen.gaps_s.append(now - last)
                else:
                    seen.first_s = now - began
                seen.text += piece
                last = now
    return seen


async def drive(server: Server, texts: Sequence[str], num_streams: int, most: int) -> list[Stream]:
    """Every text once, so many at a time."""
    left = list(enumerate(texts))[::-1]
    found: dict[int, Stream] = {}
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def one() -> None:
            while left:
                number, text = left.pop()
                found[number] = await ask(session, server, text, most)

        await asyncio.gather(*(one() for _ in range(num_streams)))
    return [found[number] for number in range(len(texts))]


def measure(server: Server, texts: Sequence[str], num_streams: int, most: int) -> tuple[dict[str, float], list[Stream]]:
    cpu, began = server.cpu_s, time.perf_counter()
    seen = asyncio.run(drive(server, texts, num_streams, most))
    wall_s, cpu_s = time.perf_counter() - began, server.cpu_s - cpu
    num_tokens = sum(stream.num_tokens for stream in seen)
    gaps = sorted(gap for stream in seen for gap in stream.gaps_s) or [0.0]
    row = {
        "wall_s": wall_s, "cpu_s": cpu_s, "tokens": num_tokens, "tokens_per_s": num_tokens / wall_s,
        "tokens_per_cpu_s": num_tokens / max(cpu_s, 1e-9),
        "first_token_p50_s": statistics.median(stream.first_s for stream in seen),
        "between_p50_ms": 1e3 * statistics.median(gaps), "between_p99_ms": 1e3 * gaps[int(0.99 * (len(gaps) - 1))],
        "rss_mb": server.rss_mb,
    }  # fmt: skip
    return {name: round(value, 4) for name, value in row.items()}, seen


def start_ours(folder: Path, threads: int, slots: int, log: Path) -> Server:
    key, port = secrets.token_hex(16), free_port()
    words = [sys.executable, "-m", "danlu.engines.server", str(folder), "--port", str(port), "--slots", str(slots)]
    process = subprocess.Popen(
        [*words, "--threads", str(threads), "--name", "ember"], stdin=subprocess.PIPE, stdout=log.open("wb"),
        stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(f"{key}\n".encode())
    process.stdin.flush()
    return ready(Server("danlu", process, f"http://127.0.0.1:{port}", "ember", key, log))


def start_theirs(bin_folder: Path, folder: Path, threads: int, settings: dict[str, str], log: Path) -> Server:
    port = free_port()
    words = [str(bin_folder / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    words += ["--continuous-batching", "--model-timeout", "-1", *(word for pair in settings.items() for word in pair)]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log.open("wb"), stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    return ready(Server("transformers", process, f"http://127.0.0.1:{port}", str(folder), log=log))


def ready(server: Server) -> Server:
    """Asked once for a token: weights are loaded and the first of everything is done."""
    until = time.monotonic() + 180
    while time.monotonic() < until and server.process.poll() is None:
        with contextlib.suppress(aiohttp.ClientError):
            asyncio.run(drive(server, ["hi"], 1, 2))
            return server
        time.sleep(0.5)
    server.end()
    raise RuntimeError(f"{server.name} did not come up: {server.log.read_text()[-2000:] if server.log else ''}")


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def choose_texts(folder: Path, num: int, least: int, most: int) -> list[str]:
    """Questions whose greedy answer has at least so many tokens."""
    ours = Ours(folder, "auto")
    texts = questions(2000)[:: 2000 // MOST_LOOKED]
    prompts = ours.prompts(texts)
    answers = ours.answer(prompts, 128)
    found = [text for text, ids in zip(texts, answers, strict=True) if least <= len(ids)]
    assert found, "no question is answered at that length"
    return [found[n % len(found)] for n in range(num)]


@contextlib.contextmanager
def alone(server: Server, others: Sequence[Server]) -> Iterator[None]:
    for other in others:
        other.pause()
    server.go_on()
    try:
        yield
    finally:
        for other in others:
            other.go_on()


def tune(
    bin_folder: Path, folder: Path, chosen: argparse.Namespace, texts: Sequence[str]
) -> tuple[dict[str, str], list[Any]]:
    """transformers' settings with the fewest CPU seconds a token."""
    tried = []
    for settings in TRIED:
        with tempfile.TemporaryDirectory() as place:
            try:
                server = start_theirs(bin_folder, folder, chosen.threads, settings, Path(place) / "log")
            except RuntimeError as fault:
                tried.append({"settings": settings, "failed": str(fault)[-300:]})
                continue
            try:
                row, _ = measure(server, texts[: chosen.streams], chosen.streams, chosen.most)
            except (aiohttp.ClientError, RuntimeError) as fault:
                tried.append({"settings": settings, "failed": str(fault)[-300:]})
                continue
            finally:
                server.end()
        tried.append({"settings": settings, **row})
        print(tried[-1], file=sys.stderr, flush=True)
    good = [row for row in tried if "cpu_s" in row]
    return max(good, key=lambda row: row["tokens_per_cpu_s"])["settings"], tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", type=Path, required=True)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--least", type=int, default=24, help="tokens that an answer has at least")
    parser.add_argument("--most", type=int, default=96, help="max_tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--settings", type=json.loads, help="transformers' settings as JSON; else they are found")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers end with us
    from danlu.model.hub import find_base

    folder = find_base("ember").resolve()
    print("looking for long answers", file=sys.stderr, flush=True)
    texts = choose_texts(folder, chosen.requests, chosen.least, chosen.most)
    settings, tried = (chosen.settings, []) if chosen.settings else tune(chosen.theirs, folder, chosen, texts)
    with tempfile.TemporaryDirectory() as place:
        ours = start_ours(folder, chosen.threads, chosen.streams, Path(place) / "ours.log")
        made: dict[str, list[Stream]] = {}
        servers = [ours]
        try:
            theirs = start_theirs(chosen.theirs, folder, chosen.threads, settings, Path(place) / "theirs.log")
            servers.append(theirs)
            for number in range(chosen.rounds):
                pair = [ours, theirs] if number % 2 == 0 else [theirs, ours]
                for server, other in (pair, pair[::-1]):
                    with alone(server, [other]):
                        row, made[server.name] = measure(server, texts, chosen.streams, chosen.most)
                    server.rounds.append(row)
                    print(number + 1, server.name, row, file=sys.stderr, flush=True)
        finally:
            for server in servers:
                server.end()
    found = report(chosen, ours, theirs, settings, tried, made)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    print(text)
    if chosen.out:
        chosen.out.write_text(text + "\n", encoding="utf-8")


def report(
    chosen: argparse.Namespace, ours: Server, theirs: Server, settings: dict[str, str], tried: list[Any],
    made: dict[str, list[Stream]],
) -> dict[str, Any]:  # fmt: skip
    from danlu.version import VERSION

    sides = {
        server.name: {key: statistics.median(row[key] for row in server.rounds) for key in server.rounds[0]}
        | {"rounds": server.rounds}
        for server in (ours, theirs)
    }
    texts = [[stream.text.strip() for stream in made[name]] for name in ("danlu", "transformers")]
    same = sum(one == other for one, other in zip(*texts, strict=True)) / len(texts[0])
    ratio = {
        key: round(float(sides["danlu"][key]) / float(sides["transformers"][key]), 2)  # type: ignore[arg-type]
        for key in ("tokens_per_s", "tokens_per_cpu_s")
    }
    return {
        "what": f"{chosen.requests} answers, {chosen.streams} streams at once, greedy, at most {chosen.most} tokens",
        "times_faster": ratio, "sides": sides, "same_answers": round(same, 4),
        "settings": {"transformers": settings, "threads": chosen.threads}, "tuning": tried,
        "versions": {"danlu": VERSION, "python": platform.python_version()}, "hardware": cpu_name(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "command": "python bench/streams.py " + " ".join(sys.argv[1:]),
        "commit": subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], text=True).strip(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


if __name__ == "__main__":
    main()
