"""A whole server for tests and benches: engines, real gateway workers on one socket, a key, and clients that ask all the
time and judge what they are told."""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import orjson
from lens_kit import QUICK, plan_for, stub_python

from danlu.recipe.serving import ServingSection
from danlu.run.artifact import Manifest
from danlu.serving.drivers.driver import Command
from danlu.serving.keys import PEPPER, KeyBook, Pepper
from danlu.serving.plan import Plan
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.rollout import Offer
from danlu.serving.server import Server
from danlu.serving.store import open_store
from danlu.serving.worker import Settings

PoolFor = Callable[[Path, Manifest], PoolPlan]
Judge = Callable[[str, str, str], bool]
"""Whether (lens, question, answer) is what this version says to it, whole."""


def says_its_mark(lens: str, question: str, answer: str) -> bool:
    """Of stub engines."""
    return set(answer.split()) == {lens.partition("@")[2][:8]}


@dataclass
class Client:
    """Asks over the gateway. `seen` counts good answers by the version that the header names; `failures` are answers that
    did not come, or not to their end; `mixed` are those that this version does not give."""

    url: str
    headers: dict[str, str]
    session: aiohttp.ClientSession
    questions: Sequence[str] = ("hello?",)
    judge: Judge = says_its_mark
    seen: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    mixed: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    """Of answers that came whole."""
    times_s: list[float] = field(default_factory=list)
    num_asked: int = 0

    async def ask(self, model: str = "law", *, is_stream: bool = False) -> str:
        """The answer's text. It is held to its header: one version, whole."""
        question = self.questions[self.num_asked % len(self.questions)]
        self.num_asked += 1
        body = {"model": model, "messages": [{"role": "user", "content": question}], "stream": is_stream}
        body |= {"max_tokens": 160, "temperature": 0}
        began = time.monotonic()
        try:
            async with self.session.post(f"{self.url}/v1/chat/completions", json=body, headers=self.headers) as reply:
                lens = unquote(reply.headers.get("x-danlu-lens", ""))
                raw = await reply.read()
                if reply.status != 200:
                    self.failures.append(f"{reply.status} {raw[:200]!r}")
                    return ""
        except aiohttp.ClientError as fault:
            self.failures.append(f"{type(fault).__name__} {fault}")
            return ""
        text = _streamed(raw) if is_stream else orjson.loads(raw)["choices"][0]["message"]["content"]
        if is_stream and b"[DONE]" not in raw:
            self.failures.append(f"cut off after {len(raw)} bytes: {raw[-200:]!r}")
            return text
        self.times_s.append(time.monotonic() - began)
        self.ids.append(reply.headers["x-request-id"])
        self.seen[lens] += 1
        if not self.judge(lens, question, text):
            self.mixed.append(f"{lens}: {question} → {text}")
        return text

    async def keep_asking(self, until: asyncio.Event, model: str = "law", *, is_stream: bool = False) -> None:
        while not until.is_set():
            await self.ask(model, is_stream=is_stream)


def _streamed(raw: bytes) -> str:
    text = ""
    for line in raw.split(b"\n"):
        if line.startswith(b"data: {"):
            for choice in orjson.loads(line[6:]).get("choices", ()):
                text += choice.get("delta", {}).get("content") or ""
    return text


@dataclass
class Place:
    server: Server
    client: Client
    home: Path
    events: list[tuple[str, Any]]


@asynccontextmanager
async def serving_with(
    runs: Path,
    *offers: Offer,
    pool_for: PoolFor,
    num_workers: int = 1,
    questions: Sequence[str] = ("hello?",),
    judge: Judge = says_its_mark,
    patience: Patience = QUICK,
) -> AsyncIterator[Place]:
    home = runs / "serving"
    home.mkdir(parents=True, exist_ok=True)
    store = open_store(home)
    _, credential = KeyBook(store, Pepper.open(home / PEPPER)).create("tests", now=time.time())
    store.close()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        port = listener.getsockname()[1]
        section = ServingSection(port=port).model_dump(mode="json") | {"workers": num_workers}
        url = f"http://127.0.0.1:{port}"
        settings = Settings(str(home), url, ("127.0.0.1",), num_workers, section)

        def worker(name: str, descriptor: int, line: Path) -> Command:
            argv = [
                sys.executable,
                "-m",
                "danlu.serving.worker",
                "--name",
                name,
                "--fd",
                str(descriptor),
                "--line",
                str(line),
            ]
            return Command(argv, {}, "", settings.to_line())

        events: list[tuple[str, Any]] = []
        plan = Plan(
            home, runs, offers, pool_for, worker, listener, num_workers, drain_s=5.0, answer_s=5.0, patience=patience,
            on_event=lambda name, facts: events.append((name, facts)),
        )  # fmt: skip
        server = Server(plan)
        try:
            await server.open()
            connector = aiohttp.TCPConnector(limit=256, force_close=True)
            async with aiohttp.ClientSession(connector=connector) as session:
                headers = {"Authorization": f"Bearer {credential}"}
                yield Place(server, Client(url, headers, session, questions, judge), home, events)
        finally:
            await server.close()


def serving(
    runs: Path, base: Path, *offers: Offer, num_workers: int = 1, num_replicas: int = 2, max_adapters: int = 3
) -> AbstractAsyncContextManager[Place]:
    """With stub engines."""
    pool_for = plan_for(base, stub_python(base), num_replicas=num_replicas, max_adapters=max_adapters)
    return serving_with(runs, *offers, pool_for=pool_for, num_workers=num_workers)
