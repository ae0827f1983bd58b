"""A worker as a process of its own: lets nobody in before it has a board, and loses nothing when it ends."""

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.recipe.serving import ServingSection
from danlu.serving.bind import listen
from danlu.serving.board import Board, Lens, Model, Replica
from danlu.serving.exposition import render
from danlu.serving.keys import PEPPER, Key, KeyBook, Pepper
from danlu.serving.line import Line
from danlu.serving.meters import Totals
from danlu.serving.store import open_store
from danlu.serving.worker import Settings

LENS = "law@0123456789ab"


class Engine:
    """Somebody else's engine: raw HTTP that speaks the protocol, a word each `every_s`."""

    def __init__(self, words=8, every_s=0.0):
        self.words, self.every_s = words, every_s
        self.num_asked = 0

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(
                    next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(
                        b":"
                    )[1]
                )
                body = json.loads(await reader.readexactly(length))
                self.num_asked += 1
                usage = {"prompt_tokens": 5, "completion_tokens": self.words, "total_tokens": 5 + self.words}
                if not body.get("stream"):
                    await asyncio.sleep(self.words * self.every_s)
                    said = {
                        "id": "e",
                        "object": "chat.completion",
                        "choices": [
                            {
                                "index": 0,
                                "message": {"role": "assistant", "content": "ja " * self.words},
                                "finish_reason": "stop",
                            }
                        ],
                        "usage": usage,
                    }
                    told = json.dumps(said).encode()
                    writer.write(
                        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
                        % (len(told), told)
                    )
                    continue
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                events = [{"choices": [{"index": 0, "delta": {"content": "ja "}}]} for _ in range(self.words)]
                events += [
                    {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                    {"choices": [], "usage": usage},
                ]
                for event in [*map(json.dumps, events), "[DONE]"]:
                    line = f"data: {event}\n\n".encode()
                    writer.write(b"%x\r\n%b\r\n" % (len(line), line))
                    await writer.drain()
                    await asyncio.sleep(self.every_s)
                writer.write(b"0\r\n\r\n")
        writer.close()


class Stage:
    """The server's side, as far as a worker sees it: a line with a board, a store with a key, an engine."""

    def __init__(self, home: Path, engine: Engine):
        self.home, self.engine = home, engine
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        store = open_store(home)
        _, self.key = KeyBook(store, Pepper.open(home / PEPPER)).create(
            "test", ("law",), now=time.time(), limits=Key("", "", (), requests_per_minute=1000)
        )
        store.close()
        self.processes: list[subprocess.Popen] = []
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.open())

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def open(self):
        server = await asyncio.start_server(self.engine.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.line = Line(self.home / "line.sock")
        await self.line.open()
        replica = Replica("far-0", "far", "upstream", f"http://127.0.0.1:{port}", "secret", "ready", ((LENS, "law"),))
        self.board = Board(1, (Model("law", ((LENS, 1.0),), 1),), (Lens(LENS, "far"),), (replica,))

    def show(self):
        self.loop.call_soon_threadsafe(self.line.show, self.board)

    def start(self, name="w0", **section) -> subprocess.Popen:
        told = ServingSection(**section).model_dump(mode="json")
        settings = Settings(str(self.home), f"http://127.0.0.1:{self.port}", ("127.0.0.1", "localhost"), 1, told)
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "danlu.serving.worker",
                "--name",
                name,
                "--fd",
                str(self.listener.fileno()),
                "--line",
                str(self.line.path),
            ],
            stdin=subprocess.PIPE,
            stderr=(self.home / f"{name}.err").open("wb"),
            pass_fds=[self.listener.fileno()],
        )
        process.stdin.write(settings.to_line().encode() + b"\n")
        process.stdin.flush()
        self.processes.append(process)
        return process

    def wait(self, name="w0", within_s=20.0):
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            post = self.line.posts.get(name)
            if post is not None and post.board:
                return
            time.sleep(0.02)
        raise AssertionError((self.home / f"{name}.err").read_text()[-3000:])

    def ask(self, *, stream=False, timeout=20, **more):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        body = json.dumps({"model": "law", "messages": [{"role": "user", "content": "?"}], "stream": stream} | more)
        connection.request(
            "POST",
            "/v1/chat/completions",
            body,
            {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"},
        )
        return connection, connection.getresponse()

    def get(self, path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.listener.close()
        self.run(self.line.close())


@pytest.fixture
def stage(tmp_path) -> Iterator:
    made = []

    def make(**engine):
        made.append(Stage(tmp_path, Engine(**engine)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_nobody_is_let_in_before_there_is_something_to_ask(stage):
    one = stage()
    one.start()
    time.sleep(1.5)
    probe = socket.create_connection(("127.0.0.1", one.port))  # the kernel takes it; nobody answers yet
    probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    probe.settimeout(0.5)
    with pytest.raises(TimeoutError):
        probe.recv(100)
    one.show()
    probe.settimeout(10)
    assert probe.recv(100).startswith(b"HTTP/1.1 200")
    probe.close()


def test_it_answers_counts_and_tells(stage):
    one = stage()
    one.show()
    one.start()
    one.wait()
    _, reply = one.ask()
    answer = json.loads(reply.read())
    assert reply.status == 200 and answer["usage"]["completion_tokens"] == 8, answer
    _, reply = one.ask(stream=True)
    assert reply.read().endswith(b"data: [DONE]\n\n")
    _, reply = one.ask(model="none")
    assert reply.status == 404
    # feedback by the same key, at once; by nobody else
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
    asked = json.dumps({"id": answer["id"], "rating": "up", "comment": "gut"})
    connection.request(
        "POST", "/v1/feedback", asked, {"Authorization": f"Bearer {one.key}", "Content-Type": "application/json"}
    )
    told = json.loads(connection.getresponse().read())
    assert told["stored"] == ["rating"] and told["trains"] is False
    assert one.get("/v1/feedback")[0] == 405
    # the page and the challenge need no key, and show none
    status, headers, page = one.get("/", Host="localhost")
    assert status == 200 and "default-src 'none'" in headers["content-security-policy"] and b"law" not in page
    assert one.get("/", Host="rebound.example")[0] == 400
    assert one.get("/identity?key=../x&nonce=1")[0] == 404
    # counters come up the line, and the page adds them up
    time.sleep(1.2)
    totals = Totals()
    totals.take({name: post.counters for name, post in one.line.posts.items()})
    page = render(totals.sum(), {}).decode()
    assert f'danlu_requests_total{{model="law",lens="{LENS}",status="200"}} 2' in page
    assert 'danlu_refusals_total{code="model_not_found"} 1' in page
    lines = [json.loads(line) for line in (one.home / "logs" / "requests-w0.jsonl").read_text().splitlines()]
    done = [line for line in lines if line.get("outcome") == "done"]
    assert len(done) == 2 and done[0]["id"] == answer["id"] and "gut" not in str(lines) and one.key not in str(lines)


def test_a_stream_under_way_ends_before_the_worker_does(stage):
    one = stage(words=20, every_s=0.1)
    one.show()
    process = one.start()
    one.wait()
    _, reply = one.ask(stream=True)
    reply.read(10)
    process.send_signal(signal.SIGTERM)
    assert reply.read().endswith(b"data: [DONE]\n\n")
    assert process.wait(15) == 0, (one.home / "w0.err").read_text()[-2000:]


def test_what_takes_too_long_is_cut_and_settled(stage):
    one = stage(words=1000, every_s=0.1)
    one.show()
    process = one.start(caps={"drain_s": 1.0})
    one.wait()
    _, reply = one.ask(stream=True)
    reply.read(10)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 0, (one.home / "w0.err").read_text()[-2000:]
    assert time.monotonic() - began < 10
    lines = [
        json.loads(line) for path in (one.home / "journal").glob("*.jsonl") for line in path.read_text().splitlines()
    ]
    whats = [line["what"] for line in lines]
    assert whats.count("opened") == whats.count("closed") == 1 and whats[-1] == "ended"


def test_it_ends_with_its_parent(stage):
    one = stage()
    one.show()
    process = one.start()
    one.wait()
    process.stdin.close()
    assert process.wait(15) == 0


def test_a_reload_loses_no_request(stage):
    """New workers take from the same socket while the old ones finish: clients on kept connections notice nothing."""
    one = stage(words=2, every_s=0.01)
    one.show()
    one.start("w0")
    one.wait("w0")
    stop, failed, done = threading.Event(), [], []

    def ask_on():
        connection = None
        while not stop.is_set():
            connection = connection or http.client.HTTPConnection("127.0.0.1", one.port, timeout=10)
            try:
                body = json.dumps({"model": "law", "messages": [{"role": "user", "content": "?"}]})
                connection.request(
                    "POST",
                    "/v1/chat/completions",
                    body,
                    {"Authorization": f"Bearer {one.key}", "Content-Type": "application/json"},
                )
                reply = connection.getresponse()
                content = reply.read()
                (done if reply.status == 200 else failed).append((reply.status, content[:200]))
                if reply.getheader("connection") == "close":
                    connection.close()
                    connection = None
            except OSError as fault:
                failed.append(repr(fault))
                connection = None

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in (1, 2):
        time.sleep(0.4)
        one.start(f"w{number}")
        one.wait(f"w{number}")
        time.sleep(0.2)
        one.processes[-2].send_signal(signal.SIGTERM)
        assert one.processes[-2].wait(20) == 0
    before = len(done)
    time.sleep(0.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed and len(done) > before > 50, (failed[:3], len(done), before)


def test_slow_and_endless_heads_are_cut(stage):
    one = stage()
    one.show()
    one.start()
    one.wait()
    with socket.create_connection(("127.0.0.1", one.port)) as probe:
        probe.settimeout(10)
        with contextlib.suppress(OSError):
            for _ in range(100):
                probe.sendall(b"GET / HTTP/1.1\r\n" if _ == 0 else b"x-%d: %s\r\n" % (_, b"a" * 2000))
        with contextlib.suppress(ConnectionError):
            assert probe.recv(100) == b""
    assert one.get("/healthz")[0] == 200


def test_more_than_may_wait_is_told_to_come_back(stage):
    one = stage(words=30, every_s=0.1)
    one.show()
    one.start(caps={"waiting": 1})
    one.wait()
    held, reply = one.ask(stream=True)
    reply.read(10)
    _, second = one.ask()
    said = json.loads(second.read())
    assert second.status == 503 and said["error"]["code"] == "overloaded" and second.getheader("retry-after") == "1"
    assert one.get("/healthz")[0] == 200
    held.close()
