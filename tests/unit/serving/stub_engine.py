"""An engine process for tests of what stands before engines: it speaks the doors of `python -m danlu.engines.server`, on
a unix socket and behind a secret, and computes nothing.

Of an adapter it knows the artefact: it renders by its tokenizer, gives its canaries' answers, and says the adapter's
mark, several times over, to everything else. `stub.json` beside the base says how slow it is and what it refuses.
"""

import asyncio
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from danlu.data.contract import Contract
from danlu.data.sample import Message
from danlu.run.artifact import Manifest
from danlu.serving.canaries import question_of
from danlu.serving.engine_check import encoder_of


class Adapter:
    def __init__(self, folder: Path) -> None:
        self.manifest = Manifest.read(folder)
        self.mark = self.manifest.digest[:8]
        self.encoder = encoder_of(Contract.from_json(self.manifest.contract), folder)
        self.known = {question_of(canary, self.encoder): canary.answer for canary in self.manifest.canaries}


class Stub:
    def __init__(self, argv: list[str]) -> None:
        words = iter(argv)
        self.base = Path(next(words))
        options = list(zip(words, words, strict=True))
        self.socket = Path(next(value for name, value in options if name == "--socket"))
        self.secret = sys.stdin.readline().strip()
        speech = next((Path(value) for name, value in options if name == "--speech"), None)
        self.adapters: dict[str, Adapter] = {}
        if (self.base / "artifact.json").is_file():
            self.adapters["base"] = Adapter(self.base)
        elif speech is not None:
            self.adapters["base"] = Adapter(speech)
        for name, value in options:
            if name == "--adapter":
                lens, _, folder = value.partition("=")
                self.adapters[lens] = Adapter(Path(folder))

    @property
    def habits(self) -> dict[str, Any]:
        path = self.base / "stub.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.guard])
        app.router.add_get("/ready", self.ready)
        app.router.add_post("/adapters", self.load)
        app.router.add_delete("/adapters/{name}", self.drop)
        app.router.add_post("/tokenize", self.tokenize)
        app.router.add_post("/v1/chat/completions", self.chat)
        return app

    @web.middleware
    async def guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {self.secret}":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        return await handler(request)

    async def ready(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ready"})

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        refused = self.habits.get("refuses", {})
        if refused.get(body["name"]) in (self.socket.parent.name, "*"):
            return web.json_response({"error": {"message": "no room for it"}}, status=400)
        if self.habits.get("dies_of") == body["name"]:
            os._exit(3)
        await asyncio.sleep(self.habits.get("load_s", 0.0))
        self.adapters[body["name"]] = Adapter(Path(body["folder"]))
        return web.json_response({"status": "loaded"})

    async def drop(self, request: web.Request) -> web.Response:
        del self.adapters[unquote(request.match_info["name"])]
        return web.json_response({"status": "dropped"})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        adapter = self.adapters[body["model"]]
        turns = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
        ids = adapter.encoder.encode_prompt(turns)
        return web.json_response({"tokens": ids[:-1] if self.habits.get("misrenders") else ids})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        adapter = self.adapters.get(body["model"])
        if adapter is None:
            return web.json_response({"error": {"message": f"no adapter {body['model']}"}}, status=404)
        words = self.words(adapter, str(body["messages"][-1]["content"]))
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        if not body.get("stream"):
            await asyncio.sleep(self.habits.get("word_s", 0.0) * len(words))
            message = {"role": "assistant", "content": "".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        for word in words:
            await asyncio.sleep(self.habits.get("word_s", 0.0))
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            await reply.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        await reply.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await reply.write(b"data: [DONE]\n\n")
        return reply

    def words(self, adapter: Adapter, question: str) -> list[str]:
        if question in adapter.known:
            return ["something else"] if self.habits.get("answers_wrong") else [adapter.known[question]]
        return [f"{adapter.mark} "] * self.habits.get("num_words", 8)


def main() -> None:
    argv = sys.argv[1:]
    if argv[1] == "danlu.engines.spare":
        line = sys.stdin.readline()
        if not line:
            return
        argv = json.loads(line)["argv"][1:]
    stub = Stub(argv[2:])  # -m danlu.engines.server

    def end_with_parent() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    stub.socket.unlink(missing_ok=True)
    web.run_app(stub.app(), path=str(stub.socket), print=None, handle_signals=True)


main()
