"""What a model server answered to a chat request, whole or in events: its words, why it ended, what it counted. Servers
under load cut and garble replies; what cannot be read is a fault worth another try. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import orjson

from danlu.core.files import dump_json
from danlu.engines.engine import Answer
from danlu.engines.thinking import ThinkingDropper
from danlu.engines.wire import TransientError
from danlu.openai.hermes import call_text
from danlu.openai.turns import text_of

MAX_QUOTED_BYTES = 4096


def parse_completion(content: bytes, scrub: Callable[[str], str] = str) -> dict[str, Any]:
    """A chat completion whose first choice can be read, or TransientError: servers under load cut or garble replies.
    `scrub` takes the key out of what is quoted."""
    try:
        completion: dict[str, Any] = orjson.loads(content)
        message = completion["choices"][0]["message"]
        text_of(message.get("content"))
        for call in message.get("tool_calls") or ():
            call_text(call)
        return completion
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        said = scrub(content[:MAX_QUOTED_BYTES].decode("utf-8", "replace"))
        raise TransientError(f"the reply is not a chat completion: {said[:80]!r}") from None


def text_of_completion(completion: dict[str, Any]) -> tuple[str, Literal["stop", "length"]]:
    """The first choice's words, calls as text among them, and why it ended."""
    choice = completion["choices"][0]
    message = choice["message"]
    calls = "".join(call_text(call) for call in message.get("tool_calls") or ())
    return text_of(message.get("content")) + calls, "length" if choice.get("finish_reason") == "length" else "stop"


def tokens_of(body: dict[str, Any], usage: Any, text: str) -> tuple[int, int]:
    """(prompt, answer) tokens by the server's count, or a cautious estimate of one token per two bytes."""
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, dict) else []
    asked, made = (n if type(n) is int and n >= 0 else None for n in (counts or (None, None)))
    if asked is not None and (made is not None or counts[1] is None):
        return asked, made or 0
    return len(dump_json(body["messages"], indent=False)) // 2, len(text.encode()) // 2


class StreamedAnswer:
    """A streamed answer being put together: text, finish reason, usage."""

    def __init__(self, keep_thinking: bool, scrub: Callable[[str], str]) -> None:
        self._scrub = scrub
        self._dropper = None if keep_thinking else ThinkingDropper()
        self._shown: list[str] = []
        self.raw, self.is_begun = "", False
        self.usage: Any = None
        self._finish: Literal["stop", "length"] = "stop"

    def feed(self, data: str) -> str:
        """What one event lets us show."""
        try:
            event = orjson.loads(data)
            choices = event["choices"]
            delta = choices[0].get("delta") or {} if choices else {}
            piece = text_of(delta.get("content"))
        except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as fault:
            raise TransientError(f"a stream event is not a chat chunk: {self._scrub(data)[:80]!r}") from fault
        self.usage = event.get("usage") or self.usage
        if choices and choices[0].get("finish_reason") == "length":
            self._finish = "length"
        self.raw += piece
        piece = self._dropper.feed(piece) if self._dropper else piece
        return self._show(piece)

    def close(self) -> str:
        return self._show(self._dropper.close() if self._dropper else "")

    def answer(self, tokens: tuple[int, int]) -> Answer:
        return Answer("".join(self._shown), self._finish, tokens[0], tokens[1])

    def _show(self, piece: str) -> str:
        if piece:
            self.is_begun = True
            self._shown.append(piece)
        return piece
