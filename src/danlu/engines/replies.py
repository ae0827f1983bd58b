"""What the native engine's server answers: OpenAI's shapes of answers, of a stream's events, of errors. Torch-free."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from danlu.engines.asking import Asked
from danlu.engines.sampling_extras import TokenLogProb
from danlu.openai.hermes import CALL, called
from danlu.openai.sse import DONE, event_of


def error_body(text: str, kind: str = "invalid_request_error", *, param: str = "", code: str = "") -> bytes:
    return orjson.dumps({"error": {"message": text, "type": kind, "param": param or None, "code": code or None}})


@dataclass(slots=True)
class Reply:
    """One answer on its way out. `name_of` gives a token's text."""

    asked: Asked
    id: str
    name_of: Callable[[int], str]
    created: int = field(default_factory=lambda: int(time.time()))
    num_tokens: dict[int, int] = field(default_factory=dict)
    """Of each choice, so far."""
    held: dict[int, str] = field(default_factory=dict)
    """Text of a choice that may be a call: it is said at the end."""

    @property
    def _lead(self) -> str:
        """How an answer that is a call begins: its prompt ended so."""
        return CALL if self.asked.is_call else ""

    @property
    def _finish(self) -> str:
        """Of an answer with calls in it."""
        return "stop" if self.asked.is_named else "tool_calls"

    @property
    def usage(self) -> dict[str, int]:
        asked = sum(map(len, self.asked.prompts)) * self.asked.num_choices
        made = sum(self.num_tokens.values())
        return {"prompt_tokens": asked, "completion_tokens": made, "total_tokens": asked + made}

    def whole(self, texts: Sequence[str], finishes: Sequence[str], ids: Sequence[Sequence[int]],
              log_probs: Sequence[Sequence[TokenLogProb]]) -> bytes:  # fmt: skip
        choices = []
        for number, text in enumerate(texts):
            logs = self._logs(ids[number], log_probs[number])
            if not self.asked.is_chat:
                choices.append({"index": number, "text": text, "logprobs": logs, "finish_reason": finishes[number]})
                continue
            said, calls = called(self._lead + text) if self.asked.has_tools else (text, [])
            message: dict[str, Any] = {"role": "assistant", "content": said or (None if calls else "")}
            finish = finishes[number]
            if calls:
                message["tool_calls"], finish = calls, self._finish
            choices.append({"index": number, "message": message, "logprobs": logs, "finish_reason": finish})
        return orjson.dumps(self._body(choices, is_event=False) | {"usage": self.usage})

    def opening(self, number: int) -> bytes:
        """A chat's first event, which only says who speaks."""
        if not self.asked.is_chat:
            return b""
        return self._event([{"index": number, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])

    def event(
        self, number: int, piece: str, ids: Sequence[int], log_probs: Sequence[TokenLogProb], finish: str | None
    ) -> bytes:
        if self.asked.is_chat and self.asked.has_tools:
            return self._watched(number, piece, ids, log_probs, finish)
        return self._piece(number, piece, ids, log_probs, finish)

    def ending(self) -> bytes:
        """The usage, where it was asked for, and the end."""
        if not self.asked.has_usage:
            return DONE
        return event_of(self._body([], is_event=True) | {"usage": self.usage}) + DONE

    def _watched(
        self, number: int, piece: str, ids: Sequence[int], log_probs: Sequence[TokenLogProb], finish: str | None
    ) -> bytes:
        """Text up to where a call may begin; the calls with the last event."""
        text = self.held.get(number, self._lead) + piece
        start = text.find(CALL)
        if start < 0 and finish is None:
            start = next((len(text) - n for n in range(min(len(text), len(CALL) - 1), 0, -1)
                          if text.endswith(CALL[:n])), -1)  # fmt: skip
        if finish is None:
            say, self.held[number] = (text, "") if start < 0 else (text[:start], text[start:])
            return self._piece(number, say, ids, log_probs, None) if say or log_probs else b""
        said, calls = called(text)
        if not calls:
            return self._piece(number, text, ids, log_probs, finish)
        listed = [call | {"index": place} for place, call in enumerate(calls)]
        delta: dict[str, Any] = {"tool_calls": listed} | ({"content": said} if said else {})
        logs = self._logs(ids, log_probs)
        return self._event([{"index": number, "delta": delta, "logprobs": logs, "finish_reason": self._finish}])

    def _piece(
        self, number: int, piece: str, ids: Sequence[int], log_probs: Sequence[TokenLogProb], finish: str | None
    ) -> bytes:
        choice: dict[str, Any] = {"index": number}
        if self.asked.is_chat:
            choice["delta"] = {"content": piece} if piece or finish is None else {}
        else:
            choice["text"] = piece
        return self._event([choice | {"logprobs": self._logs(ids, log_probs), "finish_reason": finish}])

    def _event(self, choices: list[dict[str, Any]]) -> bytes:
        body = self._body(choices, is_event=True)
        if self.asked.counts_on:
            body["usage"] = self.usage
        return event_of(body)

    def _body(self, choices: list[dict[str, Any]], *, is_event: bool) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if is_event else "chat.completion") if self.asked.is_chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.asked.model, "choices": choices}

    def _logs(self, ids: Sequence[int], log_probs: Sequence[TokenLogProb]) -> dict[str, Any] | None:
        if self.asked.extras.num_likeliest is None:
            return None
        pairs = list(zip(ids, log_probs, strict=True))
        if self.asked.is_chat:
            return {"content": [
                self._named(token, one.log_prob)
                | {"top_logprobs": [self._named(other, log_prob) for other, log_prob in one.likeliest]}
                for token, one in pairs
            ]}  # fmt: skip
        names = [self.name_of(token) for token in ids]
        tops = [{self.name_of(other): log_prob for other, log_prob in one.likeliest} for one in log_probs]
        offsets = [0, *itertools.accumulate(map(len, names))][:-1]  # among this event's own tokens
        return {"tokens": names, "token_logprobs": [one.log_prob for one in log_probs], "top_logprobs": tops,
                "text_offset": offsets}  # fmt: skip

    def _named(self, token: int, log_prob: float) -> dict[str, Any]:
        name = self.name_of(token)
        return {"token": name, "logprob": log_prob, "bytes": list(name.encode())}
