"""An engine behind any OpenAI-compatible URL: teachers, judges, served models. Torch-free, only the standard library.

Not a scorer: chat endpoints do not tell how likely a given text is. Requests run in a few threads; what was answered
once is found in the cache, so a stopped run resumes; a cost cap stops before it is passed.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError
from danlu.core.files import dump_json, sha256_json
from danlu.data.tokens import Tokens
from danlu.engines.cache import AnswerCache
from danlu.engines.completions import StreamedAnswer, parse_completion, text_of_completion, tokens_of
from danlu.engines.cost import Bill
from danlu.engines.engine import Answer, Question, Sampling, Score, in_order
from danlu.engines.thinking import drop_thinking
from danlu.engines.wire import DeclinedError, TransientError, Wire
from danlu.openai.address import Address
from danlu.openai.turns import turn_of

PATH = "/chat/completions"
MAX_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Which model at which URL, and how patiently. The key lies in a file or in a variable that the user names."""

    url: str
    model: str
    key_file: Path | None = None
    key_variable: str | None = None
    ca_file: Path | None = None
    num_parallel: int = 8
    num_retries: int = 5
    timeout_s: float = 120.0
    backoff_s: float = 0.5
    keep_thinking: bool = False

    def read_key(self) -> str:
        """The API key, or "" when none was named."""
        if self.key_file is not None:
            try:
                key = self.key_file.read_text(encoding="utf-8").strip()
            except OSError as fault:
                raise EngineError("engine.no_key_file", given=str(self.key_file), said=fault.strerror) from fault
        elif self.key_variable is not None:
            key = os.environ.get(self.key_variable, "").strip()
        else:
            return ""
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise EngineError("engine.bad_key", given=str(self.key_file or self.key_variable))
        return key


class RemoteEngine:
    """Engine over HTTP. `bill` counts tokens and money; `cache` keeps answers."""

    def __init__(
        self, endpoint: Endpoint, *, name: str = "", cache: AnswerCache | None = None, bill: Bill | None = None
    ) -> None:
        self.endpoint, self.cache, self.bill = endpoint, cache, bill or Bill()
        self.name = name or endpoint.model
        address = Address.parse(endpoint.url)
        parts: dict[str, Any] = {"url": str(address), "model": endpoint.model}
        self.digest = sha256_json(parts | ({"thinking": True} if endpoint.keep_thinking else {}))
        self._wire = Wire(address, key=endpoint.read_key(), timeout_s=endpoint.timeout_s, ca_file=endpoint.ca_file)
        self._jitter = random.SystemRandom()
        self._is_schemaless = False
        """The server refused a JSON Schema once; it is not sent again."""

    def generate(
        self, questions: Sequence[Question], sampling: Sampling, *, watch: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """One answer per question. A question that the server declines, or keeps failing on, gets `finish="error"`; a
        fault that concerns all of them (key, URL, cap, nobody there) is raised once the requests under way are kept."""
        return in_order(self.answers(questions, sampling), watch)

    def answers(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """(number, answer) as they arrive; faults as in `generate`, after the answers that still came."""
        todo = list(enumerate(questions))[::-1]
        stop = threading.Event()
        fatal: EngineError | None = None
        with ThreadPoolExecutor(self.endpoint.num_parallel, thread_name_prefix="danlu-remote") as pool:
            running: dict[Future[Answer], int] = {}
            try:
                while running or (todo and fatal is None):
                    while todo and fatal is None and len(running) < self.endpoint.num_parallel:
                        index, question = todo.pop()
                        running[pool.submit(self._answer, question, sampling, stop)] = index
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        index = running.pop(future)
                        try:
                            answer = future.result()
                        except EngineError as error:
                            fatal = fatal or error
                            stop.set()
                            continue
                        yield index, answer
            finally:
                stop.set()  # Ctrl-C: waiting threads give up, nothing new starts
        if fatal is not None:
            raise fatal

    def stream(self, question: Question, sampling: Sampling) -> Iterator[str]:
        """Pieces as the server sends them. Tried again only while nothing has been shown."""
        body = self.body(question, sampling)
        digest = self._request_digest(body)
        if found := self._find(digest):
            yield found.text
            return
        reserved = self._reserve(body)
        settled = False
        try:
            reply = StreamedAnswer(self.endpoint.keep_thinking, self._wire.scrub)
            for attempt in range(self.endpoint.num_retries + 1):
                try:
                    for data in self._wire.stream(PATH, dump_json(self._streaming(body), indent=False)):
                        if piece := reply.feed(data):
                            yield piece
                    break
                except TransientError as fault:
                    if reply.is_begun or (fault.reached and attempt == self.endpoint.num_retries):
                        raise EngineError("engine.stream_cut", where=self._where, said=fault.reason) from fault
                    self._pause(fault, attempt, None)
                except DeclinedError as fault:
                    raise EngineError("engine.declined", where=self._where, said=str(fault)) from fault
            if piece := reply.close():
                yield piece
            answer = reply.answer(tokens_of(body, reply.usage, reply.raw))
            self.bill.settle(reserved, (answer.num_prompt_tokens, answer.num_tokens), estimated=not reply.usage)
            settled = True
            self._keep(digest, answer)
        finally:
            if not settled:
                self.bill.settle(reserved, None)

    def score(self, samples: Sequence[Tokens]) -> list[Score]:
        raise EngineError("engine.cannot_score", where=self._where)

    def body(self, question: Question, sampling: Sampling) -> dict[str, Any]:
        """The request as the server reads it, without the streaming switches."""
        body: dict[str, Any] = {
            "model": self.endpoint.model, "messages": [turn_of(message) for message in question.messages],
            "max_tokens": sampling.max_new_tokens, "temperature": sampling.temperature,
        }  # fmt: skip
        if sampling.temperature > 0:
            body |= {"seed": sampling.seed, "top_p": sampling.top_p}
            if sampling.top_k > 0:
                body["top_k"] = sampling.top_k  # not OpenAI's, but vLLM, SGLang and llama.cpp know it
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if question.tools:
            body["tools"] = list(question.tools)
        if question.schema is not None:
            named = {"name": "answer", "schema": question.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    @property
    def _where(self) -> str:
        return f"{self._wire.address} ({self.endpoint.model})"

    def _answer(self, question: Question, sampling: Sampling, stop: threading.Event) -> Answer:
        body = self.body(question, sampling)
        digest = self._request_digest(body)
        if found := self._find(digest):
            return found
        reserved = self._reserve(body)
        spent: tuple[int, int] | None = None
        estimated = False
        began = time.monotonic()
        try:
            completion = self._ask(body, stop)
            text, finish = text_of_completion(completion)
            usage = completion.get("usage")
            spent, estimated = tokens_of(body, usage, text), not usage
            if not self.endpoint.keep_thinking:
                text = drop_thinking(text)
            answer = Answer(text, finish, spent[0], spent[1], seconds=time.monotonic() - began)
        except (TransientError, DeclinedError) as fault:
            return Answer("", "error", error=str(fault), seconds=time.monotonic() - began)
        finally:
            self.bill.settle(reserved, spent, estimated=estimated)
        self._keep(digest, answer)
        return answer

    def _ask(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """The parsed completion, tried again while that may help; without the schema where a server knows none."""
        attempt = 0
        is_bare = self._is_schemaless
        while True:
            sent = {key: value for key, value in body.items() if key != "response_format" or not is_bare}
            try:
                completion = parse_completion(self._wire.post(PATH, dump_json(sent, indent=False)), self._wire.scrub)
            except TransientError as fault:
                self._pause(fault, attempt, stop)
                attempt += 1
            except DeclinedError:
                if "response_format" not in sent:
                    raise
                is_bare = True
            else:
                self._is_schemaless = self._is_schemaless or (is_bare and "response_format" in body)
                return completion

    def _pause(self, fault: TransientError, attempt: int, stop: threading.Event | None) -> None:
        """Wait before the next try: the server's own wish, else full jitter over a doubling span. Raises at the end."""
        if attempt >= self.endpoint.num_retries or (stop is not None and stop.is_set()):
            if fault.reached:
                raise fault
            raise EngineError("engine.unreachable", where=self._where, said=fault.reason, tries=attempt + 1) from fault
        span_s = min(MAX_WAIT_S, self.endpoint.backoff_s * 2**attempt)
        wait_s = self._jitter.uniform(span_s / 2, span_s)
        if fault.retry_after_s is not None:
            wait_s = min(MAX_WAIT_S, fault.retry_after_s) + self._jitter.uniform(0, span_s / 4)
        if stop is None:
            time.sleep(wait_s)
        elif stop.wait(wait_s):
            raise fault

    def _reserve(self, body: dict[str, Any]) -> float:
        # A byte-level token holds at least one byte, so the request's bytes bound its tokens.
        return self.bill.reserve(len(dump_json(body, indent=False)), int(body["max_tokens"]))

    def _streaming(self, body: dict[str, Any]) -> dict[str, Any]:
        switches: dict[str, Any] = {"stream": True}
        if self.bill.price is not None:
            switches["stream_options"] = {"include_usage": True}
        return body | switches

    def _request_digest(self, body: dict[str, Any]) -> str:
        return sha256_json({"url": str(self._wire.address), "body": body, "thinking": self.endpoint.keep_thinking})

    def _find(self, digest: str) -> Answer | None:
        entry = self.cache.find(digest) if self.cache else None
        if entry is None:
            return None
        return Answer(entry["text"], entry["finish"], entry["num_prompt_tokens"], entry["num_tokens"])

    def _keep(self, digest: str, answer: Answer) -> None:
        if self.cache:
            entry = {"text": answer.text, "finish": answer.finish, "model": self.endpoint.model}
            counts = {"num_prompt_tokens": answer.num_prompt_tokens, "num_tokens": answer.num_tokens}
            self.cache.keep(digest, entry | counts)
