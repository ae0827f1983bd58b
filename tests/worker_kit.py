"""A gateway worker as a process of its own, for tests: the server's side as far as it sees it, and somebody's engine."""

import asyncio
import contextlib
import http.client
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from danlu.recipe.serving import ServingSection
from danlu.serving.bind import address_text, listen
from danlu.serving.board import Board, Lens, Model, Replica
from danlu.serving.keys import PEPPER, Key, KeyBook, Pepper
from danlu.serving.line import Line
from danlu.serving.settings import Settings
from danlu.serving.store import open_store
from waiting_kit import PATIENCE_S, until_true

LENS = "law@0123456789ab"


class Engine:
    """Somebody else's engine: raw HTTP that speaks the protocol, a word each `every_s`."""

    def __init__(self, words=8, every_s=0.0):
        self.words, self.every_s = words, every_s
        self.num_asked = 0
        self.bodies = []
        """What it was asked, newest last."""

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET"):
                    told = b'{"object": "list", "data": []}'
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(told), told))
                    continue
                length = int(
                    next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(
                        b":"
                    )[1]
                )
                body = json.loads(await reader.readexactly(length))
                self.num_asked += 1
                self.bodies.append(body)
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

    def __init__(self, home: Path, engine: Engine, *, store_url: str = "", requests_per_minute: int = 1_000_000):
        self.home, self.engine = home, engine
        self.listener = listen("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]
        store = open_store(home, store_url)
        _, self.key = KeyBook(store, Pepper.open(home / PEPPER)).create(
            "test", ("law",), now=time.time(), limits=Key("", "", (), requests_per_minute=requests_per_minute)
        )
        store.close()
        self.processes: list[subprocess.Popen] = []
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.run(self.open())

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

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
        has_tls = bool(told["tls"]["cert"])
        url = address_text("127.0.0.1", self.port, has_tls=has_tls)
        settings = Settings(str(self.home), url, ("127.0.0.1", "localhost"), 1, told)
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

    def wait(self, name="w0", *, board=1):
        """Until a worker goes by this board; 0: until it has a line."""

        def has_it():
            post = self.line.posts.get(name)
            return post is not None and post.board >= board

        until_true(has_it, lambda: (self.home / f"{name}.err").read_text()[-3000:])

    def ended(self, process, name="w0"):
        """Its exit code; what it printed where it does not end."""
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError((self.home / f"{name}.err").read_text()[-3000:]) from None

    def journal(self):
        """All lines."""
        paths = sorted((self.home / "journal").glob("*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_text().splitlines()]

    def ask(self, *, stream=False, timeout=PATIENCE_S, **more):
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
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("GET", path, headers=headers)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
        self.listener.close()
        self.run(self.line.close())


def make_certificate(folder, days=30):
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(key), "-out", str(cert), "-days", str(days), "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")
    return cert, key


class Receiver:
    """A real HTTP server that answers what it is told to, and keeps what came."""

    def __init__(self, statuses=(), delay_s=0.0, port=0):
        self.got, self.statuses = [], list(statuses)
        outer = self

        class Door(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(delay_s)
                status = outer.statuses.pop(0) if outer.statuses else 200
                outer.got.append((self.path, dict(self.headers), body, status))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Door)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=t"

    def wait(self, number):
        until_true(lambda: len(self.got) >= number, lambda: str(self.got))
        return self.got
