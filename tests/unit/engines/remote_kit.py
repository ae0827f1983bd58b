"""An OpenAI-shaped server on the loopback that misbehaves on demand, for tests of the remote engine."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any

from danlu.data.sample import Message
from danlu.engines.engine import Question, Sampling
from danlu.engines.remote import Endpoint, RemoteEngine
from http_kit import Quiet, listen
from waiting_kit import PATIENCE_S

SAMPLING = Sampling(max_new_tokens=16)


class Server:
    """Answers each POST with the next scripted act, and with an echo of the question when the script is over."""

    def __init__(self) -> None:
        self.acts: list[Callable[[Quiet, dict[str, Any]], None]] = []
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.lock = threading.Lock()
        outer = self

        class Handler(Quiet):
            def do_POST(self) -> None:  # noqa: N802 - the name that http.server asks for
                body = json.loads(self.content())
                with outer.lock:
                    outer.requests.append((dict(self.headers), body))
                    act = outer.acts.pop(0) if outer.acts else echo
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    act(self, body)

        self.http = listen(Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def engine(self, **options: Any) -> RemoteEngine:
        parts = {name: options.pop(name) for name in ("cache", "bill") if name in options}
        options = {"backoff_s": 0.01, "timeout_s": PATIENCE_S} | options
        return RemoteEngine(Endpoint(url=self.url, model="teacher", **options), **parts)


def completion(text: str | None, *, finish: str = "stop", calls: list[Any] | None = None) -> bytes:
    message = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage}).encode()


def echo(handler: Quiet, body: dict[str, Any]) -> None:
    if body.get("stream"):
        return sse("回", "答 " + body["messages"][-1]["content"])(handler, body)
    handler.answer(200, completion("回答 " + body["messages"][-1]["content"]))


def status(code: int, content: bytes = b"{}", **headers: str) -> Callable[..., None]:
    return lambda handler, body: handler.answer(code, content, **headers)


def sse(*pieces: str, done: bool = True) -> Callable[..., None]:
    def act(handler: Quiet, body: dict[str, Any]) -> None:
        events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
        lines = ": hello\n\n" + "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write((lines + ("data: [DONE]\n\n" if done else "")).encode())
        handler.close_connection = True

    return act


def ask(text: str) -> Question:
    return Question((Message("user", text),))
