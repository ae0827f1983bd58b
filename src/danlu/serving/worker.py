"""A gateway worker: one process of several on one listening socket. Made of parts; each is tested for itself.

    python -m danlu.serving.worker --name w0 --fd 7 --line /…/line.sock      # settings as one line of JSON on stdin

It accepts once it has a board. Told to end (SIGTERM, or the end of its standard input: the server is gone) it stops
accepting, closes each connection behind its next answer, finishes what is under way within `drain_s`, and settles the
rest. So a reload loses no request: the new workers take connections from the same socket meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn

from danlu.recipe.serving import ServingSection
from danlu.serving.bodies import Bodies
from danlu.serving.feedback import FOLDER, FeedbackDesk
from danlu.serving.feedback import PATH as FEEDBACK
from danlu.serving.front import Front, verifier_endpoint
from danlu.serving.gateway import Gateway
from danlu.serving.journal import FOLDER as JOURNAL
from danlu.serving.journal import FileJournal
from danlu.serving.key_cache import KeyCache
from danlu.serving.keys import LiveKeys, open_pepper
from danlu.serving.limit_table import SharedTable
from danlu.serving.limits import Limiter, LocalLimiter
from danlu.serving.line import WorkerLine
from danlu.serving.logs import RequestLog
from danlu.serving.mask import Mask
from danlu.serving.meters import Meters
from danlu.serving.notes import Notes
from danlu.serving.private import read_private
from danlu.serving.protocol import GuardedProtocol
from danlu.serving.redact import Redaction
from danlu.serving.router import Router
from danlu.serving.settings import Settings, caps_of, pepper_of, store_url
from danlu.serving.snippets import pages
from danlu.serving.store import Store, open_store
from danlu.serving.tally import Tally
from danlu.serving.tls import tls_context
from danlu.serving.traces import Traces
from danlu.serving.usage import JournalReader, spent_of, spent_this_month

LINGER_S = 2.0
"""How long open connections may still ask once we have stopped accepting: each is closed behind its answer."""
SETTLE_S = 5.0
"""For answers that were cut at the end of `drain_s` to be settled."""
TABLE = ("limits", "table")
STDIN = 0
GC_THRESHOLDS = (50_000, 20, 100)
"""Answers leave few cycles behind; by Python's own thresholds a busy worker spent some 7 % looking for them."""
MOST_FILES = 65_536
"""Connections and what else is open at once, in one worker."""


class Counting:
    """The gateway's `Meters`: each request's tally goes to everyone who wants it."""

    def __init__(self, meters: Meters, *others: Callable[[Tally], None]) -> None:
        self.began = meters.began
        self._all = (meters.ended, *others)

    def ended(self, tally: Tally) -> None:
        for each in self._all:
            each(tally)


class Worker:
    """`await Worker(…).run()` until `stop` is called."""

    def __init__(self, name: str, settings: Settings, listener: socket.socket, line: Path) -> None:
        self.name, self.settings, self.listener = name, settings, listener
        self.section = ServingSection.model_validate(settings.section)
        self.home = Path(settings.home)
        self.router, self.meters = Router(), Meters()
        self.log = RequestLog(self.home / "logs" / f"requests-{name}.jsonl")
        self.line = WorkerLine(line, self.router, name, counters=self._counters, told=self._told)
        self.keys: LiveKeys | None = None
        self.limiter: Limiter | None = None
        self.journal: FileJournal | None = None
        self._ending = asyncio.Event()

    def stop(self) -> None:
        self._ending.set()

    async def run(self) -> None:
        async with self._built() as (gateway, front):
            talking = asyncio.create_task(self.line.run())
            try:
                await self._first_board(talking)
                if not self._ending.is_set():
                    await self._serve(gateway, front)
            finally:
                await asyncio.sleep(0.6)  # the line tells its last counters each half second
                talking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await talking

    # ---- parts

    @contextlib.asynccontextmanager
    async def _built(self) -> AsyncIterator[tuple[Gateway, Front]]:
        """All parts, and their ends in the other order."""
        section, home = self.section, self.home
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self.log.close)
            store = open_store(home, store_url(section), may_be_away=True)
            stack.callback(store.close)
            pepper = open_pepper(store, pepper_of(section, home))
            keys = self.keys = LiveKeys(store, pepper, cache=KeyCache(home, pepper, store.where))
            limiter = self.limiter = await self._open_limiter(store)
            stack.push_async_callback(limiter.close)
            gone, back = self._outage("store")
            keys.watch(gone, self._and_restored(back, store, limiter))
            stack.callback(keys.stop)
            journal = self.journal = FileJournal(home / JOURNAL, self.name)
            stack.callback(journal.close)
            keeper: Bodies | None = None
            if section.bodies == "masked":
                keeper = Bodies(home, self.name, noted=lambda id, digest: journal.noted("kept", id=id, sha256=digest))
                stack.callback(keeper.close)
            folder, keeps = home / FOLDER, keeper is not None
            desk = FeedbackDesk(
                folder, self.name, owner=store.answer, mask=Mask(), keeps_words=keeps, away=store.errors
            )
            stack.callback(desk.close)
            others: list[Callable[[Tally], None]] = [desk.ended, self.log.ended]
            if section.traces:
                traces = Traces(section.traces, worker=self.name)
                stack.callback(traces.close)
                others.append(traces.ended)
            counting = Counting(self.meters, *others)
            caps = caps_of(section, self.settings.hosts)
            endpoints = dict([verifier_endpoint(pepper), (("POST", FEEDBACK), desk.door)])
            redaction = Redaction.of(section.redact, self.router, bytes_per_token=caps.bytes_per_token)
            gateway = Gateway(
                self.router, keys, limiter, journal, counting, caps, endpoints=endpoints, keeper=keeper,
                redaction=redaction, notes=Notes.of(section.models, self.router),
            )  # fmt: skip
            yield gateway, Front(
                gateway, pages=pages(self.settings.url), pepper=pepper, caps=caps, meters=counting,
                most_waiting=section.caps.waiting,
            )  # fmt: skip

    async def _open_limiter(self, store: Store) -> Limiter:
        """With what journals say was spent, a dead worker's too."""
        limits = self.section.limits
        limiter: Limiter
        if limits.kind == "redis":
            from danlu.serving.redis_limits import RedisLimiter  # the extra `shared`

            assert limits.url_file is not None, "the section asked for it"
            url = read_private(Path(limits.url_file))
            gone, back = self._outage("limits")
            limiter = RedisLimiter(
                url, num_workers=self.settings.num_workers, spent=spent_of(store), gone=gone, back=back
            )
        else:
            limiter = LocalLimiter(SharedTable(self.home.joinpath(*TABLE)))
        with contextlib.suppress(*store.errors):  # it is away: what others of this machine counted stands all the same
            await self._restore(store, limiter)
        return limiter

    async def _restore(self, store: Store, limiter: Limiter) -> None:
        await asyncio.to_thread(JournalReader(self.home, store).fold)
        now = time.time()
        await limiter.restore(await asyncio.to_thread(spent_this_month, store, now), now)

    def _and_restored(self, back: Callable[[float], None], store: Store, limiter: Limiter) -> Callable[[float], None]:
        """When the store is back: a worker that started without it has not heard yet what was spent."""
        loop = asyncio.get_running_loop()

        async def restored() -> None:
            with contextlib.suppress(*store.errors):
                await self._restore(store, limiter)

        def told(after_s: float) -> None:
            back(after_s)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                asyncio.run_coroutine_threadsafe(restored(), loop)

        return told

    def _outage(self, what: str) -> tuple[Callable[[Exception], None], Callable[[float], None]]:
        """What the log says of a store that goes and comes back: a line each."""
        return (
            lambda fault: self.log.event(f"{what}_away", worker=self.name, said=str(fault) or type(fault).__name__),
            lambda after_s: self.log.event(f"{what}_back", worker=self.name, after_s=after_s),
        )

    def _counters(self) -> dict[str, Any]:
        told = self.meters.counters()
        told["gauges"] = {
            "keys_stale": self.keys.stale_s if self.keys else 0.0,
            "limits_alarm": float(bool(self.limiter and self.limiter.alarm)),
            "journal_failing": float(bool(self.journal and self.journal.is_failing)),
        }
        return told

    def _told(self, message: dict[str, Any]) -> None:
        """What the server says beside boards."""
        if "keys" in message and self.keys is not None:
            self.keys.refresh()
        if message.get("drain"):
            self.stop()

    async def _first_board(self, talking: asyncio.Task[None]) -> None:
        """Nobody is let in before there is something to ask."""
        while not self.router.board.number and not self._ending.is_set():
            await asyncio.sleep(0.01)
            if talking.done():
                talking.result()

    # ---- serving

    async def _serve(self, gateway: Gateway, front: Front) -> None:
        tls, drain_s = self.section.tls, self.section.caps.drain_s
        config = uvicorn.Config(
            front, http=GuardedProtocol, ws="none", lifespan="on", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, timeout_keep_alive=75, workers=1,
            timeout_graceful_shutdown=max(1, round(drain_s)),
        )  # fmt: skip
        config.load()
        if tls.cert and tls.key:
            config.ssl = tls_context(Path(tls.cert), Path(tls.key))
        server = uvicorn.Server(config)
        gc.freeze()  # what stands now stays, and is not looked through again
        gc.set_threshold(*GC_THRESHOLDS)
        self.log.event("serving", worker=self.name, version=self.router.board.number)
        ending = asyncio.create_task(self._drain(server, gateway))
        await server._serve([self.listener])  # `serve` would take signals for itself and raise them again
        ending.cancel()
        await self._settled(server)
        self.log.event("ended", worker=self.name, cut=front.num_waiting)

    async def _drain(self, server: uvicorn.Server, gateway: Gateway) -> None:
        await self._ending.wait()
        gateway.is_draining = True
        self.log.event("draining", worker=self.name, connections=len(server.server_state.connections))
        for listening in server.servers:
            listening.close()
        connections: set[Any] = server.server_state.connections
        for connection in connections:
            connection.end_after_answer()
        began = time.monotonic()
        while connections and time.monotonic() - began < LINGER_S:
            await asyncio.sleep(0.05)
            for connection in list(connections):  # one that was accepted in the last moment
                connection.end_after_answer()
        server.should_exit = True

    async def _settled(self, server: uvicorn.Server) -> None:
        """What was cut runs through its `finally`: reservations are given back, journals closed."""
        tasks = list(server.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=SETTLE_S)


# ---- the process


def main() -> None:
    parser = argparse.ArgumentParser(prog="danlu.serving.worker")
    parser.add_argument("--name", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--line", type=Path, required=True)
    told = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    settings = Settings.from_line(_first_line())
    allow_connections()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_live(told.name, settings, told.fd, told.line))


async def _live(name: str, settings: Settings, fd: int, line: Path) -> None:
    worker = Worker(name, settings, socket.socket(fileno=fd), line)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    loop.add_signal_handler(signal.SIGINT, worker.stop)

    def wait_for_the_end() -> None:
        while os.read(STDIN, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            loop.call_soon_threadsafe(worker.stop)

    threading.Thread(target=wait_for_the_end, name="parent", daemon=True).start()
    await worker.run()


def allow_connections() -> None:
    """As many open files as we may have, up to a bound: the usual soft limit of 1024 is fewer than one client can hold
    open, and whoever came after would find the door shut."""
    if sys.platform == "win32":
        return
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _first_line() -> bytes:
    """Read without a buffer: a thread that waits in Python's own at the end would hold up the end."""
    line = b""
    while not line.endswith(b"\n") and (part := os.read(STDIN, 65536)):
        line += part
    return line


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # not on Windows
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


if __name__ == "__main__":
    main()
