"""A gateway of real parts (router, keys in SQLite, limits, journal, meters) behind uvicorn, and before it an upstream: a
small raw HTTP server that speaks an engine's protocol and misbehaves on demand. The upstream is not ours to mock; it is
the other side."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from danlu.serving.board import Board, Lens, Model, Replica
from danlu.serving.caps import Caps
from danlu.serving.gateway import Gateway
from danlu.serving.journal import FileJournal
from danlu.serving.keys import Key, KeyBook, LiveKeys, Pepper
from danlu.serving.limits import LocalLimiter
from danlu.serving.meters import Meters
from danlu.serving.router import Router
from danlu.serving.store import open_store
from waiting_kit import PATIENCE_S, until_true

SECRET = "engine-secret-7f3a"
LENS = "law@0123456789ab"
WORDS = ("差旅", "补贴", "每天", "八十", "元。")
NUM_PROMPT = 12


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "engine-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "/srv/models/x",
        "choices": [choice],
    } | more


def usage(num_answer: int) -> dict[str, int]:
    return {"prompt_tokens": NUM_PROMPT, "completion_tokens": num_answer, "total_tokens": NUM_PROMPT + num_answer}


def events(words: tuple[str, ...] = WORDS) -> list[bytes]:
    """What an engine sends for a stream with `include_usage`, an event each."""
    said = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": word}) for word in words),
        chunk({}, "stop"),
    ]
    last = chunk({}) | {"choices": [], "usage": usage(len(words))}
    return [b"data: " + orjson.dumps(one) + b"\n\n" for one in (*said, last)] + [b"data: [DONE]\n\n"]


def answer(**more: Any) -> bytes:
    message = {"role": "assistant", "content": "".join(WORDS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "engine-1", "object": "chat.completion", "created": 7, "model": "/srv/models/x", "choices": [choice]}
    return orjson.dumps(body | {"usage": usage(len(WORDS))} | more)


@dataclass
class Asked:
    """One request that came through to the upstream."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reader: asyncio.StreamReader


Play = Callable[["Upstream", Asked, asyncio.StreamWriter], Any]


@dataclass
class Upstream:
    """`play` answers one request; see the plays below. `asked` is what came, `num_hung_up` how often it was cut off."""

    play: Play | None = None
    asked: list[Asked] = field(default_factory=list)
    num_hung_up: int = 0
    num_sent: int = 0
    """Events of streams that went out."""
    port: int = 0
    unix: str = ""

    @property
    def address(self) -> str:
        return f"unix:{self.unix}" if self.unix else f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode("latin-1").strip().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(first.split()[1], headers, orjson.loads(body) if body else {}, reader)
                self.asked.append(asked)
                await (self.play or good)(self, asked, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:
            pass  # the house is closed
        finally:
            writer.close()


def _head(kind: str, more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{more}\r\n".encode()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def good(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
    if asked.path.endswith("/embeddings"):
        data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        body = orjson.dumps(
            {"object": "list", "data": data, "model": "x", "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        )
        writer.write(_head("application/json", f"content-length: {len(body)}\r\n") + body)
    elif asked.path.endswith("/v1/completions") and not asked.body.get("stream"):
        choices = [{"index": 0, "text": "".join(WORDS), "finish_reason": "stop", "logprobs": None}]
        said = {
            "id": "engine-1",
            "object": "text_completion",
            "created": 7,
            "model": "/srv/models/x",
            "choices": choices,
        }
        body = orjson.dumps(said | {"usage": usage(len(WORDS))})
        writer.write(_head("application/json", f"content-length: {len(body)}\r\n") + body)
    elif asked.body.get("stream"):
        writer.write(_head("text/event-stream", "transfer-encoding: chunked\r\n"))
        for event in events():
            writer.write(_chunked(event))
            upstream.num_sent += 1
        writer.write(b"0\r\n\r\n")
    else:
        body = answer()
        writer.write(_head("application/json", f"content-length: {len(body)}\r\n") + body)


def status(code: int, body: bytes = b'{"error":{"message":"no"}}') -> Play:
    async def play(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return play


def sends(*pieces: bytes, kind: str = "text/event-stream", delay_s: float = 0.0, hang: bool = False) -> Play:
    """A stream of these pieces, then the connection is cut (or hangs until the other side goes)."""

    async def play(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(kind, "transfer-encoding: chunked\r\n"))
        try:
            for piece in pieces:
                writer.write(_chunked(piece))
                await writer.drain()
                upstream.num_sent += 1
                await asyncio.sleep(delay_s)
                if writer.is_closing():
                    raise ConnectionResetError
            while hang:
                writer.write(_chunked(b": still here\n\n") if kind == "text/event-stream" else b"")
                await asyncio.sleep(0.02)
                await writer.drain()
                if writer.transport.is_closing():
                    raise ConnectionResetError
        except ConnectionError:
            upstream.num_hung_up += 1
            raise
        raise ConnectionResetError  # cut off

    return play


async def drops(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
    raise ConnectionResetError


async def hangs(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Says nothing (more) until the other side goes."""
    while await asked.reader.read(1):
        pass
    upstream.num_hung_up += 1
    raise ConnectionResetError


def stalls(*pieces: bytes) -> Play:
    """A stream of these pieces, and then nothing more until the other side goes."""

    async def play(upstream: Upstream, asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(_head("text/event-stream", "connection: close\r\n") + b"".join(pieces))
        await hangs(upstream, asked, writer)

    return play


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def stop(self) -> None:
        """Every task is ended here: none is left for the garbage collector to end in the middle of something."""
        self.run(self._end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)
        self.loop.close()

    async def _end_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


@contextmanager
def upstreams(*plays: Play | None, folder: Path | None = None) -> Iterator[list[Upstream]]:
    """As many upstreams, on free ports of this machine; on unix sockets where a folder is given."""
    loop = Loop()
    found, servers = [], []
    for number, play in enumerate(plays or (None,)):
        upstream = Upstream(play)
        if folder is None:
            server = loop.run(asyncio.start_server(upstream.serve, "127.0.0.1", 0))
            upstream.port = server.sockets[0].getsockname()[1]
        else:
            upstream.unix = str(folder / f"{number}.sock")
            server = loop.run(asyncio.start_unix_server(upstream.serve, upstream.unix))
        found.append(upstream)
        servers.append(server)
    try:
        yield found
    finally:
        for server in servers:
            loop.loop.call_soon_threadsafe(server.close)
        loop.stop()


def board_of(
    *addresses: str, driver: str = "upstream", context: int = 0, engine_name: str = "engine-x", secret: str = SECRET
) -> Board:
    replicas = tuple(
        Replica(f"r{n}", "pool", driver, address, secret, "ready", ((LENS, engine_name),))
        for n, address in enumerate(addresses)
    )
    models = (Model("law", ((LENS, 1.0),), 1700000000), Model("法律", ((LENS, 1.0),), 1700000000))
    return Board(1, models, (Lens(LENS, "pool", context=context),), replicas)


@dataclass
class Served:
    """A running gateway and what its parts know."""

    port: int
    credential: str
    key: Key
    gateway: Gateway
    book: KeyBook
    keys: LiveKeys
    journals: Path
    server: uvicorn.Server

    def cancel_all(self) -> None:
        """What a server does that is out of patience."""
        for task in self.server.server_state.tasks:
            task.get_loop().call_soon_threadsafe(task.cancel)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def new_key(self, **limits: Any) -> str:
        models = limits.pop("models", ("*",))
        _, credential = self.book.create("other", models, now=time.time(), limits=Key("", "", (), **limits))
        self.keys.refresh()
        return credential

    def ask(
        self,
        body: Any,
        *,
        path: str = "/v1/chat/completions",
        method: str = "POST",
        key: str | None = None,
        **headers: str,
    ) -> Got:
        """Over a connection of its own, whatever it is."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body, ensure_ascii=False).encode()
        sent = {
            "authorization": f"Bearer {self.credential if key is None else key}",
            "content-type": "application/json",
        }
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            link.request(method, path, body=data, headers={name: value for name, value in sent.items() if value})
            response = link.getresponse()
            return Got(response.status, dict(response.getheaders()), response.read())
        finally:
            link.close()

    def raw(self, data: bytes, *, wait_s: float = PATIENCE_S, told: bytes | None = None) -> bytes:
        """Bytes in, bytes out, until this was told or the server closes; `wait_s` where it may say nothing (more)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as link:
            link.sendall(data)
            found = b""
            try:
                while (told is None or told not in found) and (part := link.recv(65536)):
                    found += part
            except TimeoutError:
                pass
            return found

    def lines(self) -> list[dict[str, Any]]:
        """Of the journal, all files."""
        return [
            orjson.loads(line)
            for path in sorted(self.journals.glob("*.jsonl"))
            for line in path.read_bytes().splitlines()
        ]

    def closing(self, number: int = -1) -> dict[str, Any]:
        """The journal's last closing, when it is there."""
        found: list[dict[str, Any]] = []

        def all_closed() -> bool:
            lines = self.lines()
            found[:] = [line for line in lines if line.get("what") == "closed"]
            return bool(found) and len(found) == sum(line.get("what") == "opened" for line in lines)

        until_true(all_closed, lambda: "a request that was opened is not closed")
        return found[number]


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]

    @property
    def events(self) -> list[Any]:
        """Of a stream, without `[DONE]`."""
        texts = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [json.loads(text) for text in texts if text != "[DONE]"]


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "law", "messages": [{"role": "user", "content": "出差一天补贴多少?"}]} | more


@contextmanager
def served(
    folder: Path, board: Board, *, caps: Caps | None = None, limits: Key | None = None, **more: Any
) -> Iterator[Served]:
    """A gateway on a free port, over this board."""
    store = open_store(folder)
    pepper = Pepper.open(folder / "pepper")
    book = KeyBook(store, pepper)
    key, credential = book.create("test", ("*",), now=time.time(), limits=limits)
    keys = LiveKeys(store, pepper)
    journal = FileJournal(folder / "journal", "w0")
    gateway = Gateway(Router(board), keys, LocalLimiter(), journal, Meters(), caps or Caps(), **more)
    config = uvicorn.Config(
        gateway, port=0, log_level="warning", http="httptools", ws="none", access_log=False, server_header=False,
        proxy_headers=False, lifespan="on",
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(port, credential, key, gateway, book, keys, folder / "journal", server)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        journal.close()
        store.close()
