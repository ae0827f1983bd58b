"""The line between the server process and its gateway workers: one unix socket, JSON objects a line.

Down go boards, what the other workers have leased by replica, and what else workers are told (`keys`, `drain` …). Up
come the number of the board a worker goes by, what it has leased by lens and by replica, and its counters. Either side
may die: a worker comes back by itself and goes on with its last board until then; a server that starts again shows its
newest board to whoever comes.

Only the socket's owner may connect (0600, and the kernel is asked who it is). Boards hold the engines' secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.serving.board import EMPTY, Board
from danlu.serving.router import Router

MAX_LINE_BYTES = 64 * 2**20
MAX_PATH_BYTES = 100
"""Of a unix socket: the system's structure has 108."""
REPORT_S, COUNT_S = 0.05, 0.5
"""How often a worker tells what changed of its leases, and its counters."""
FIRST_PAUSE_S, MOST_PAUSE_S = 0.05, 1.0


@dataclass(slots=True)
class Post:
    """What the server knows of one worker."""

    name: str
    writer: asyncio.StreamWriter | None = None
    """None while it has no line."""
    is_expected: bool = False
    """Somebody watches over it, and will say when it is gone."""
    heard: float = 0.0
    """When it last told anything (monotonic seconds): it does so twice a second, so one that is silent hangs."""
    board: int = 0
    on_lens: dict[str, int] = field(default_factory=dict)
    on_replica: dict[str, int] = field(default_factory=dict)
    num_leased: dict[str, int] = field(default_factory=dict)
    counters: dict[str, Any] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)
    """What it was told last that the others have leased."""


class Line:
    """The server's end. `posts` are the workers it must wait for; `expect` and `forget` name them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.posts: dict[str, Post] = {}
        self.board = EMPTY
        self._server: asyncio.AbstractServer | None = None
        self._sharing: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def open(self) -> None:
        self._server = await listen(self.path, self._serve)
        self._sharing = asyncio.create_task(self._share())

    async def close(self) -> None:
        """What is at `path` belongs to another server where this one never came to open it."""
        if self._server is None or self._sharing is None:
            return
        self._server.close()
        self._sharing.cancel()
        for post in self.posts.values():
            if post.writer is not None:
                post.writer.close()
        self.path.unlink(missing_ok=True)

    async def expect(self, name: str) -> None:
        """This worker lives: what is to be agreed upon waits for it, whether it has a line or not."""
        self.posts.setdefault(name, Post(name)).is_expected = True
        await self._tell_change()

    async def forget(self, name: str) -> None:
        """It is gone, and its leases with it."""
        post = self.posts.pop(name, None)
        if post is not None and post.writer is not None:
            post.writer.close()
        await self._tell_change()

    def show(self, board: Board) -> None:
        """The newest board, to all."""
        assert board.number > self.board.number, "boards are numbered upwards"
        self.board = board
        self._send_all(b'{"board":' + board.to_bytes() + b"}\n")

    def tell(self, message: Mapping[str, Any], *, to: str = "") -> None:
        """Something else, to all or to one worker."""
        self._send_all(orjson.dumps({"told": message}) + b"\n", to=to)

    async def agreed(self, number: int, *, within_s: float) -> bool:
        """Wait until every worker goes by this board or a later one; False when some did not in time."""
        return await self._wait(lambda: all(post.board >= number for post in self.posts.values()), within_s)

    async def idle(self, lens: str, number: int, *, within_s: float) -> bool:
        """Wait until no worker, going by this board or a later one, has an answer of this lens under way."""

        def is_idle() -> bool:
            return all(post.board >= number and not post.on_lens.get(lens) for post in self.posts.values())

        return await self._wait(is_idle, within_s)

    async def free(self, replica: str, number: int, *, within_s: float) -> bool:
        """The same of a replica."""

        def is_free() -> bool:
            return all(post.board >= number and not post.on_replica.get(replica) for post in self.posts.values())

        return await self._wait(is_free, within_s)

    def outstanding(self, lens: str) -> int:
        return sum(post.on_lens.get(lens, 0) for post in self.posts.values())

    # ---- one worker's connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        post: Post | None = None
        try:
            while line := await reader.readline():
                said = orjson.loads(line)
                if post is None:
                    post = self._greet(said["worker"], writer)
                post.heard, post.board = time.monotonic(), said["board"]
                post.on_lens, post.on_replica, post.num_leased = said["lenses"], said["replicas"], said["leased"]
                post.counters = said.get("counters", post.counters)
                await self._tell_change()
        except (ConnectionError, ValueError, KeyError):  # gone, or it does not speak this language
            pass
        finally:
            writer.close()
            if post is not None and post.writer is writer:
                post.writer = None
                if not post.is_expected:
                    await self.forget(post.name)

    async def _share(self) -> None:
        """The fewest outstanding are to be those of all workers: each is told what the others have, as it changes."""
        while True:
            await asyncio.sleep(REPORT_S)
            total: Counter[str] = Counter()
            for post in self.posts.values():
                total.update(post.on_replica)
            for post in self.posts.values():
                others = {name: num - own for name, num in total.items() if num > (own := post.on_replica.get(name, 0))}
                if others != post.others and post.writer is not None:
                    post.others = others
                    self._send_all(orjson.dumps({"others": others}) + b"\n", to=post.name)

    def _greet(self, name: str, writer: asyncio.StreamWriter) -> Post:
        post = self.posts.setdefault(name, Post(name))
        if post.writer is not None:
            post.writer.close()
        post.writer, post.others = writer, {}
        if self.board.number:
            writer.write(b'{"board":' + self.board.to_bytes() + b"}\n")
        return post

    def _send_all(self, line: bytes, *, to: str = "") -> None:
        for post in list(self.posts.values()):
            if post.writer is None or (to and post.name != to):
                continue
            if post.writer.transport.get_write_buffer_size() > MAX_LINE_BYTES:
                post.writer.transport.abort()  # it has not read for long; when it comes again it is shown the newest
            else:
                post.writer.write(line)

    async def _tell_change(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait(self, holds: Callable[[], bool], within_s: float) -> bool:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(holds), within_s)
            return holds()


class WorkerLine:
    """A worker's end. `await run()` beside the gateway until it is cancelled; boards go into `router` as they come."""

    def __init__(
        self,
        path: Path,
        router: Router,
        name: str,
        *,
        counters: Callable[[], dict[str, Any]] = dict,
        told: Callable[[dict[str, Any]], None] = lambda message: None,
    ) -> None:
        self.path, self.router, self.name = path, router, name
        self.is_connected = False
        self._counters, self._told = counters, told

    async def run(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                with reachable(self.path) as path:
                    reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE_BYTES)
            except OSError:
                await asyncio.sleep(pause)
                pause = min(MOST_PAUSE_S, 2 * pause)
                continue
            pause = FIRST_PAUSE_S
            await self._talk(reader, writer)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the other side is gone."""
        self.is_connected = True
        reports = asyncio.create_task(self._report(writer))
        try:
            while line := await reader.readline():
                said = orjson.loads(line)
                if "board" in said:
                    self.router.take(Board.from_json(said["board"]))
                    self._send(writer)  # it goes by it from now on
                elif "others" in said:
                    self.router.others = said["others"]
                else:
                    self._told(said["told"])
        except (ConnectionError, ValueError):
            pass
        finally:
            self.is_connected, self.router.others = False, {}
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await reports
            writer.close()

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        last: tuple[Any, ...] = ()
        ticks = 0
        while True:
            is_time = ticks % round(COUNT_S / REPORT_S) == 0
            now = (self.router.board.number, dict(self.router.on_lens), dict(self.router.on_replica))
            if is_time or now != last:
                self._send(writer, counters=self._counters() if is_time else None)
                await writer.drain()
            last, ticks = now, ticks + 1
            await asyncio.sleep(REPORT_S)

    def _send(self, writer: asyncio.StreamWriter, counters: dict[str, Any] | None = None) -> None:
        router = self.router
        report = {
            "worker": self.name, "board": router.board.number, "lenses": dict(router.on_lens),
            "replicas": dict(router.on_replica), "leased": dict(router.num_leased),
        }  # fmt: skip
        if counters is not None:
            report["counters"] = counters
        writer.write(orjson.dumps(report, option=orjson.OPT_NON_STR_KEYS) + b"\n")


# ---- unix sockets


async def listen(
    path: Path, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
) -> asyncio.AbstractServer:
    """A unix socket that this account alone may speak to. What a dead server left there is taken away; RunError where
    a living one has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with reachable(path) as name:
        if path.exists():
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError), socket.socket(socket.AF_UNIX) as trial:
                trial.connect(name)
                raise RunError("rollout.is_running", where=str(path), given=str(path.parent))
            path.unlink(missing_ok=True)
        fresh = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # the socket's file is never there with other rights
        try:
            fresh.bind(name)
        finally:
            os.umask(mask)

    async def mine_only(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer_uid(writer) in (os.geteuid(), 0, None):
            with contextlib.suppress(asyncio.CancelledError):  # the loop ends; above us there is nobody to be told
                await serve(reader, writer)
        writer.close()

    return await asyncio.start_unix_server(mine_only, sock=fresh, limit=MAX_LINE_BYTES)


def peer_uid(writer: asyncio.StreamWriter) -> int | None:
    """Whose process is at the other end; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("3i", raw)
    return int(uid)


@contextlib.contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name of a socket's path that is short enough for the system: through the folder's descriptor if need be."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    if sys.platform != "linux":
        raise RunError("rollout.long_path", where=str(path), most=MAX_PATH_BYTES)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
