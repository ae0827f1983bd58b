"""A small OpenAI-shaped server on this machine's loopback, around engines of this process: so that harnesses, which
speak HTTP only, can ask a model that was just trained. Torch-free; the standard library's HTTP.

Models, chat completions and completions with `echo` and `logprobs`. Requests that wait together are answered together.
Not the serving side: no streaming, no keys, no limits, one queue, 127.0.0.1 only.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import numpy as np
import orjson

from danlu.core.errors import DanluError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.tokens import Tokens
from danlu.engines.engine import Answer, Question, Sampling, Score

GATHER_S = 0.01
"""So long a request waits for others to be answered with it."""
MOST_TOGETHER = 256
MAX_BODY_BYTES = 16 * 2**20
_ROLES = ("system", "user", "assistant", "tool")


class Speaking(Protocol):
    """An engine of this process: a `NativeEngine`."""

    name: str

    @property
    def encoder(self) -> Encoder: ...

    def generate(self, questions: Sequence[Question], sampling: Sampling) -> list[Answer]: ...

    def continue_texts(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Answer]: ...

    def score(self, samples: Sequence[Tokens]) -> list[Score]: ...


class BadRequestError(Exception):
    """What was sent is no request that is understood here."""


@dataclass(slots=True)
class _Order:
    """One request on its way to the thread that computes; `done` is set when `reply` or `fault` is there."""

    model: str
    what: tuple[Any, ...]
    """("chat", Question), ("text", ids) or ("echo", ids); what stands with equal `how` is asked together."""
    how: Sampling
    done: threading.Event = field(default_factory=threading.Event)
    reply: Any = None
    fault: str = ""


class Loopback:
    """`with Loopback({"base": engine, "tuned": other}) as server:` and `server.url` is what a client is told."""

    def __init__(self, engines: Mapping[str, Speaking]) -> None:
        self.engines = dict(engines)
        self.num_requests = 0
        self._orders: queue.Queue[_Order | None] = queue.Queue()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _door(self))
        self._http.daemon_threads = True
        self._threads = [
            threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True),
            threading.Thread(target=self._answer_all, daemon=True),
        ]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Loopback:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._orders.put(None)
        for thread in self._threads:
            thread.join(timeout=10)

    # ---- what the door asks

    def models(self) -> dict[str, Any]:
        return {
            "object": "list",
            "data": [{"id": name, "object": "model", "owned_by": "danlu"} for name in self.engines],
        }

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        engine = self._engine(body)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise BadRequestError("messages")
        tools = body.get("tools") or ()
        if not isinstance(tools, list | tuple) or not all(isinstance(tool, dict) for tool in tools):
            raise BadRequestError("tools")
        question = Question(tuple(_message(turn) for turn in messages), tuple(tools))
        answer = self._ask(body, ("chat", question), _sampling(body))
        choice = {"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": answer.finish}
        return _reply("chat.completion", engine.name, [choice], answer.num_prompt_tokens, answer.num_tokens)

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ready text or ids, without a template; with `echo` the log-probabilities of what was shown."""
        engine = self._engine(body)
        choices: list[dict[str, Any]] = []
        num_prompt = num_made = 0
        for number, ids in enumerate(_prompts(body.get("prompt"), engine.encoder)):
            answer = self._ask(body, ("text", ids), _sampling(body))
            text, log_probs = answer.text, None
            if body.get("logprobs") and body.get("echo"):
                log_probs = self._shown(body, engine, ids, answer)
            if body.get("echo"):
                text = engine.encoder.tokenizer.decode(ids, skip_control=False) + text
            choices.append({"index": number, "text": text, "finish_reason": answer.finish, "logprobs": log_probs})
            num_prompt, num_made = num_prompt + len(ids), num_made + answer.num_tokens
        return _reply("text_completion", engine.name, choices, num_prompt, num_made)

    def _shown(self, body: dict[str, Any], engine: Speaking, ids: list[int], answer: Answer) -> dict[str, Any]:
        """`token_logprobs` of the prompt and the answer; `top_logprobs` names the greedy token of each place, so that
        clients can tell whether a text is what the model itself would say."""
        whole = [*ids, *answer.ids]
        found = self._ask(body, ("echo", tuple(whole)), Sampling(max_new_tokens=1))
        log_probs, best = found
        tokens = [engine.encoder.tokenizer.decode([token], skip_control=False) for token in whole]
        top: list[dict[str, float] | None] = [None]
        for token, log_prob, (best_id, best_log_prob) in zip(tokens[1:], log_probs, best, strict=True):
            best_text = engine.encoder.tokenizer.decode([best_id], skip_control=False)
            top.append({best_text: best_log_prob} | {token: log_prob})
        offsets = np.cumsum([0, *map(len, tokens)])[:-1].tolist()
        return {"tokens": tokens, "token_logprobs": [None, *log_probs], "top_logprobs": top, "text_offset": offsets}

    def _engine(self, body: dict[str, Any]) -> Speaking:
        name = body.get("model")
        if not isinstance(name, str) or name not in self.engines:
            raise BadRequestError(f"model {name!r}; served: {', '.join(self.engines)}")
        return self.engines[name]

    def _ask(self, body: dict[str, Any], what: tuple[Any, ...], how: Sampling) -> Any:
        order = _Order(str(body["model"]), what, how)
        self.num_requests += 1
        self._orders.put(order)
        order.done.wait()
        if order.fault:
            raise BadRequestError(order.fault)
        return order.reply

    # ---- the thread that computes

    def _answer_all(self) -> None:
        while (first := self._orders.get()) is not None:
            orders = [first, *self._gathered()]
            groups: dict[tuple[str, str, Sampling], list[_Order]] = {}
            for order in orders:
                groups.setdefault((order.model, order.what[0], order.how), []).append(order)
            for (model, kind, how), group in groups.items():
                try:
                    self._answer(self.engines[model], kind, how, group)
                except Exception as fault:  # whatever it is: these requests fail, the next ones are served
                    for order in group:
                        order.fault = fault.text if isinstance(fault, DanluError) else repr(fault)
                for order in group:
                    order.done.set()

    def _gathered(self) -> Iterator[_Order]:
        for _ in range(MOST_TOGETHER):
            try:
                order = self._orders.get(timeout=GATHER_S)
            except queue.Empty:
                return
            if order is None:
                self._orders.put(None)
                return
            yield order

    def _answer(self, engine: Speaking, kind: str, how: Sampling, group: list[_Order]) -> None:
        if kind == "echo":
            for order in group:
                order.reply = _scored(engine, order.what[1])
            return
        asked = [order.what[1] for order in group]
        answers = engine.generate(asked, how) if kind == "chat" else engine.continue_texts(asked, how)
        for order, answer in zip(group, answers, strict=True):
            if answer.finish == "error":
                order.fault = answer.error
            order.reply = answer


def _scored(engine: Speaking, ids: tuple[int, ...]) -> tuple[list[float], list[tuple[int, float]]]:
    """log p of each token but the first, and the likeliest token of its place with its own."""
    logits = next(iter(engine.logits([ids])))  # type: ignore[attr-defined]
    wide = logits[:-1].double().log_softmax(-1)
    best, places = wide.max(-1)
    picked = wide[range(len(ids) - 1), list(ids[1:])]
    return picked.tolist(), list(zip(places.tolist(), best.tolist(), strict=True))


def _reply(kind: str, model: str, choices: list[dict[str, Any]], num_prompt: int, num_made: int) -> dict[str, Any]:
    usage = {"prompt_tokens": num_prompt, "completion_tokens": num_made, "total_tokens": num_prompt + num_made}
    return {"id": "danlu", "object": kind, "created": 0, "model": model, "choices": choices, "usage": usage}


def _message(turn: Any) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in _ROLES:
        raise BadRequestError("a turn has a role and a content")
    content = turn.get("content") or ""
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return Message(turn["role"], str(content))


def _prompts(prompt: Any, encoder: Encoder) -> list[list[int]]:
    """A text, texts, ids or lists of ids, as the API allows."""
    if isinstance(prompt, str):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise BadRequestError("prompt")
    if all(isinstance(token, int) for token in prompt):
        prompt = [prompt]
    if not all(isinstance(one, str) or (isinstance(one, list) and all(type(n) is int for n in one)) for one in prompt):
        raise BadRequestError("prompt: neither texts nor ids")
    found = [encoder.tokenizer.encode_text(one) if isinstance(one, str) else one for one in prompt]
    size = encoder.tokenizer.vocab_size
    if not all(ids and all(0 <= token < size for token in ids) for ids in found):
        raise BadRequestError("prompt: nothing, or an id outside the vocabulary")
    return found


def _sampling(body: dict[str, Any]) -> Sampling:
    stop = body.get("stop") or ()
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or not all(isinstance(one, str) for one in stops):
        raise BadRequestError("stop")
    try:
        return Sampling(
            max_new_tokens=max(1, int(body.get("max_completion_tokens") or body.get("max_tokens") or 256)),
            temperature=float(body.get("temperature") or 0.0), top_p=float(body.get("top_p") or 1.0),
            seed=abs(int(body.get("seed") or 0)),
            stop=tuple(filter(None, stops)),
        )  # fmt: skip
    except (TypeError, ValueError, OverflowError) as fault:
        raise BadRequestError(str(fault)) from fault


def _door(server: Loopback) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.rstrip("/").endswith("/models"):
                self._send(200, server.models())
            else:
                self._send(404, {"error": {"message": "not here"}})

        def do_POST(self) -> None:
            path = self.path.rstrip("/")
            ways = {"/v1/chat/completions": server.chat, "/v1/completions": server.complete}
            told = self.headers.get("Content-Length") or "0"
            length = int(told) if told.isdecimal() else MAX_BODY_BYTES + 1
            if path not in ways or length > MAX_BODY_BYTES:
                self.close_connection = True  # its body stays unread
                self._send(404, {"error": {"message": "not here"}})
                return
            try:
                body = orjson.loads(self.rfile.read(length))
                if not isinstance(body, dict):
                    raise BadRequestError("the body is no JSON object")
                self._send(200, ways[path](body))
            except (BadRequestError, orjson.JSONDecodeError) as fault:
                self._send(400, {"error": {"message": str(fault), "type": "invalid_request_error"}})

        def _send(self, status: int, value: dict[str, Any]) -> None:
            content = orjson.dumps(value)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: what is asked is nobody's log."""

    return Door
