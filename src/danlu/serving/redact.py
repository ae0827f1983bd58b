"""Redaction of what is forwarded (`serving.redact`), for those who want it: questions before an engine gets them,
answers before a client does. Off unless asked for, and then nothing of this is loaded.

What is changed: every text of a question's messages, its prompts and inputs, its tools' words and the arguments and
results of their calls; every text of an answer, and the arguments of calls it makes. What is not: names of members,
roles, tools and models, ids. A participant's name is taken out. Prompts as token ids, and log-probabilities beside
masked answers, would carry past us what we look for: they are refused.

What it may cost is bounded, in length by the body's and in density by `MOST_CLOSE`; longer texts are looked through in
one thread a worker, one after another, so that nobody else's stream waits for them.

Detectors are no proof. An answer to a masked question is another answer: the engine reads `<MOBILE>`. What was counted
and charged stays what the engine counted. Kept bodies (bodies.py) are masked with or without this.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import orjson

from danlu.data.privacy.scan import Effort, SpentError
from danlu.openai.refused import RefusedError
from danlu.recipe.serving import RedactSection, RedactWhere
from danlu.serving.ask import Ask
from danlu.serving.board import Board
from danlu.serving.events import Events
from danlu.serving.mask import Mask
from danlu.serving.redact_stream import RedactedEvents
from danlu.serving.router import Router

T = TypeVar("T")
SPARED = frozenset((
    "model", "role", "type", "name", "id", "tool_call_id", "finish_reason", "$ref", "$schema", "format", "pattern",
    "required",
))  # fmt: skip
"""Members whose text is structure. A tool may call one of its parameters so, and what describes it is masked."""
TEXTS = ("message", "text")
"""Of a choice in an answer."""
INLINE_BYTES = 8192
"""Longer texts are looked through in the thread."""
MOST_CLOSE = 200_000
"""Characters of a question that may be looked at closely: 12,000 phone numbers, and two seconds at most."""
UPSTREAM = "upstream"


class Redacted:
    """What is redacted of one request, and how much was: kinds and numbers, never a value."""

    def __init__(self, mask: Mask, thread: Executor, *, masks_answer: bool) -> None:
        self.question, self.answer = Counter[str](), Counter[str]()
        self._mask, self._thread, self.masks_answer = mask, thread, masks_answer

    async def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer that is no stream."""
        choices = answer.get("choices")
        if not self.masks_answer or type(choices) is not list:
            return answer

        def masked() -> list[Any]:
            return [self._choice(choice) if type(choice) is dict else choice for choice in choices]

        return answer | {"choices": await _run(masked, self._thread, num_bytes=len(orjson.dumps(choices)))}

    def events(self, events: Events) -> Events | RedactedEvents:
        """The same of one that is."""
        return RedactedEvents(events, self._mask, self.answer) if self.masks_answer else events

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Who asks is told that the question was changed."""
        told = ", ".join(f"{kind}={num}" for kind, num in sorted(self.question.items()))
        return [(b"x-danlu-redacted", told.encode())] if told else []

    def note(self) -> dict[str, str]:
        """For the journal."""
        return {
            side: " ".join(f"{kind}={num}" for kind, num in sorted(counts.items()))
            for side, counts in (("question", self.question), ("answer", self.answer))
            if counts
        }

    def _choice(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: self._mask.all_of(value, self.answer, spared=SPARED) if name in TEXTS else value
            for name, value in choice.items()
            if name != "logprobs" or value is None  # nobody asked for them
        }


class Redaction:
    """One a worker, where anything is to be redacted at all."""

    def __init__(self, section: RedactSection, router: Router, *, bytes_per_token: float) -> None:
        self._section, self._router, self._bytes_per_token = section, router, bytes_per_token
        self._mask = Mask()
        self._thread = ThreadPoolExecutor(1, "redact")
        self._board, self._outside = Board(-1, (), (), ()), frozenset[str]()

    @classmethod
    def of(cls, section: RedactSection, router: Router, *, bytes_per_token: float) -> Redaction | None:
        """None where nothing is."""
        is_off = section.questions == section.answers == "never"
        return None if is_off else cls(section, router, bytes_per_token=bytes_per_token)

    async def question(self, ask: Ask) -> Redacted | None:
        """Mask what goes to the engine, and prepare for the answer; None where nothing is to be done. RefusedError for
        what cannot be looked through."""
        masks_question = self._applies(self._section.questions, ask.model)
        masks_answer = self._applies(self._section.answers, ask.model) and ask.kind != "embedding"
        if not masks_question and not masks_answer:
            return None
        redacted = Redacted(self._mask, self._thread, masks_answer=masks_answer)
        logprobs = ask.body.get("logprobs")
        if masks_answer and logprobs is not None and logprobs is not False:  # with 0 a completion shows its tokens too
            raise RefusedError("serve.redact_logprobs", param="logprobs")
        if masks_question:
            await self._mask_question(ask, redacted)
        return redacted

    async def _mask_question(self, ask: Ask, redacted: Redacted) -> None:
        for name in ("prompt", "input"):
            if _has_ids(ask.body.get(name)):
                raise RefusedError("serve.redact_ids", param=name)

        def masked() -> dict[str, Any]:
            effort = Effort(MOST_CLOSE)
            body: dict[str, Any] = self._mask.all_of(ask.body, redacted.question, spared=SPARED, effort=effort)
            for message in body.get("messages", ()):
                if message["role"] not in ("tool", "function") and message.pop("name", None) is not None:
                    redacted.question["name"] += 1
            places = _users_texts(body)
            texts = self._mask.turns([holder[member] for holder, member in places], redacted.question, effort)
            for (holder, member), text in zip(places, texts, strict=True):
                holder[member] = text
            return body

        before = len(orjson.dumps(ask.body))
        try:
            ask.body = await _run(masked, self._thread, num_bytes=before)
        except SpentError:
            raise RefusedError("serve.redact_dense", status=413, most=MOST_CLOSE) from None
        more = len(orjson.dumps(ask.body)) - before
        if more > 0:  # a short value may have a long name
            ask.num_prompt_tokens += math.ceil(more / self._bytes_per_token)

    def _applies(self, where: RedactWhere, model: str) -> bool:
        if where != "urls":
            return where == "always"
        board = self._router.board
        if board is not self._board:  # what answers from elsewhere, or from nobody knows where
            inside = {replica.pool for replica in board.replicas if replica.driver != UPSTREAM}
            self._board, self._outside = board, frozenset(lens.name for lens in board.lenses if lens.pool not in inside)
        return any(lens.name in self._outside for lens in self._router.lenses_of(model))


async def _run(work: Callable[[], T], thread: Executor, *, num_bytes: int) -> T:
    if num_bytes <= INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(thread, work)


def _users_texts(body: Mapping[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Where the texts of the user's turns stand, in order."""
    places = []
    for message in body.get("messages", ()):
        if message["role"] == "user":
            content = message["content"]
            places += [(message, "content")] if type(content) is str else [(part, "text") for part in content]
    return places


def _has_ids(value: Any) -> bool:
    if type(value) is int:
        return True
    return type(value) is list and any(map(_has_ids, value))
