"""A teacher for tests: a real OpenAI-shaped server on the loopback that says what a script says, also wrongly."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from danlu.core.progress import Silent
from danlu.data.sample import Document, Origin
from danlu.data.synthesis import Reading
from danlu.engines.cache import AnswerCache
from danlu.engines.cost import Bill, Price
from danlu.engines.remote import Endpoint
from danlu.evaluation.fold import fold
from danlu.evaluation.metrics.refusal import says_not_stated
from danlu.pipeline.remote_teacher import RemoteTeacher
from http_kit import Quiet, listen
from waiting_kit import PATIENCE_S

READING = Reading(fold, says_not_stated)
SILENT = Silent()
Script = Callable[[dict[str, Any]], "str | Act"]


class Act:
    """A reply that is no completion: a status, broken bytes, headers."""

    def __init__(self, status: int, content: bytes = b"{}", *, cut: bool = False, **headers: str) -> None:
        self.status, self.content, self.cut, self.headers = status, content, cut, headers


class TeacherServer:
    """Answers every request with `script(body)`. `acts` come first, one per request."""

    def __init__(self, script: Script) -> None:
        self.script, self.acts = script, list[Act]()
        self.bodies: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.finish = "stop"
        self.running = self.most = 0
        outer = self

        class Handler(Quiet):
            def do_POST(self) -> None:  # noqa: N802 - the name that http.server asks for
                body = json.loads(self.content())
                with outer.lock:
                    outer.bodies.append(body)
                    act = outer.acts.pop(0) if outer.acts else None
                    outer.running += 1
                    outer.most = max(outer.most, outer.running)
                try:
                    said = act or outer.script(body)
                finally:
                    with outer.lock:
                        outer.running -= 1
                if isinstance(said, str):
                    said = Act(200, completion(said, outer.finish, body))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.reply(said)

            def reply(self, act: Act) -> None:
                self.send_response(act.status)
                for name, value in act.headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(act.content) + (500 if act.cut else 0)))
                self.end_headers()
                self.wfile.write(act.content)
                self.close_connection = act.cut

        self.http = listen(Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def teacher(
        self, cache: Path, *, price: Price | None = None, max_cost: float | None = None, **options: Any
    ) -> RemoteTeacher:
        max_tokens = options.pop("max_tokens", None)
        levels = options.pop("levels", frozenset({"public", "internal"}))
        options = {"backoff_s": 0.01, "timeout_s": PATIENCE_S, "num_retries": 3} | options
        endpoint = Endpoint(url=self.url, model="teacher", **options)
        bill = Bill(price, cap=max_cost)
        return RemoteTeacher(endpoint, AnswerCache(cache), bill, levels=levels, max_tokens=max_tokens)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


@contextlib.contextmanager
def serving(script: Script) -> Iterator[TeacherServer]:
    server = TeacherServer(script)
    try:
        yield server
    finally:
        server.close()


def completion(text: str, finish: str, body: dict[str, Any]) -> bytes:
    usage = {"prompt_tokens": len(str(body["messages"])) // 2, "completion_tokens": max(1, len(text) // 2)}
    return json.dumps(
        {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}], "usage": usage}
    ).encode()


def items(*rows: dict[str, Any]) -> str:
    return json.dumps({"items": list(rows)}, ensure_ascii=False)


def qa(kind: str, question: str, answer: str, *evidence: str) -> dict[str, Any]:
    return {"kind": kind, "question": question, "answer": answer, "evidence": list(evidence)}


def document(text: str, *, name: str = "rules.md", level: str | None = "internal", masked: bool = True) -> Document:
    tags = ({"level": level} if level else {}) | ({"masked": True} if masked else {})
    return Document(text, Origin(name, 1, start=0, end=len(text), document=f"sha-{name}"), tags=tags)


def asked(body: dict[str, Any]) -> str:
    """Which kind of request this is, by its system text."""
    system, user = body["messages"][0]["content"], body["messages"][-1]["content"]
    for mark, name in (
        ("知识库出题", "questions"), ("write questions for a knowledge base", "questions"), ("只依据资料回答", "answerable"),
        ("passages between marks, and a question", "answerable"),
        ("换一种问法", "paraphrase"), ("in other words with exactly", "paraphrase"), ("审查问答", "judge"), ("训练助手的任务", "instruct"),
        ("You write tasks", "instruct"), ("译成", "translate"), ("Translate the user", "translate"), ("改写用户的文字", "reword"), ("Put the user", "reword"),
        ("属于哪一类", "classify"),
    ):  # fmt: skip
        if mark in system:
            return name
    return "question" if not re.search("JSON", system) else f"unknown: {system[:40]} {user[:40]}"
