"""A note below each answer of a model, such as that it is no medical advice. Off unless a model of the recipe names one
(`serving.models.N.note`); then, and only then, answers of that model are looked at.

It is appended to the answer's text, for that is the one place that every client of OpenAI's API shows; a field of our
own would reach nobody. Of a stream it goes into the event that ends a choice, beside the last words that some engines
send there. Not appended: to calls of tools, to embeddings, and where JSON was asked for, which a program reads; the
header `x-danlu-note` names the note there too.

Tokens stay what the engine counted. What is kept of questions and answers is without the note, and so is the history
that a client sends back: a model neither reads it nor learns it. What is masked is masked before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from danlu.core.messages import LANGUAGES, Language, say
from danlu.openai.sse import decoded, event_of, events
from danlu.recipe.privacy import SECTORS
from danlu.recipe.serving import ServedSection
from danlu.serving.ask import Ask
from danlu.serving.events import Events, Usage
from danlu.serving.redact_stream import RedactedEvents
from danlu.serving.router import Router

SPACE = "\n\n"
_ENDED = ("stop", "length")
"""Reasons for which an answer in words ends."""
_CHINESE = re.compile("[\u4e00-\u9fff]")
_UNFINISHED = re.compile(rb'"finish_reason":\s*null')


class Notes:
    """One a worker, where any model has a note."""

    def __init__(self, by_model: Mapping[str, str], router: Router) -> None:
        self._by_model, self._router = by_model, router

    @classmethod
    def of(cls, models: Sequence[ServedSection], router: Router) -> Notes | None:
        """None where no model has one."""
        found = {each.name: each.note for each in models if each.name and each.note}
        return cls(found, router) if found else None

    def question(self, ask: Ask) -> Noted | None:
        """What is appended to the answer, the note of before being taken out of the question; None where the model has
        none."""
        note = self._note_of(ask.model)
        if note is None or ask.kind == "embedding":
            return None
        noted = Noted(note, ask)
        noted.take_out(ask.body)
        return noted

    def _note_of(self, model: str) -> str | None:
        """A version that is asked by its own name has the note of the model that it answers for."""
        if model in self._by_model:
            return self._by_model[model]
        shown = (one for one in self._router.board.models if any(lens == model for lens, _ in one.lenses))
        return next((self._by_model[one.name] for one in shown if one.name in self._by_model), None)


class Noted:
    """The note of one answer: `note` is a sector, whose sentence comes in the question's language, or the sentence."""

    def __init__(self, note: str, ask: Ask) -> None:
        self._name = note if note in SECTORS else "own"
        self._texts = tuple(SPACE + text_of(note, language) for language in LANGUAGES)
        self._text = SPACE + text_of(note, "zh" if _CHINESE.search(_asked(ask.body)) else "en")
        self._is_appended = "response_format" not in ask.body

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"x-danlu-note", self._name.encode())]

    def whole(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer that is no stream."""
        if self._is_appended:
            self._append(answer, "message")
        return answer

    def events(self, inner: Events | RedactedEvents) -> Events | RedactedEvents | NotedEvents:
        """The same of one that is."""
        return NotedEvents(inner, self) if self._is_appended else inner

    def ended(self, event: bytes) -> bytes:
        """The event that ends a choice, with the note."""
        value = decoded(event)
        if value is None:
            return event
        self._append(value, "delta")
        return event_of(value)

    def _append(self, answer: dict[str, Any], box: str) -> None:
        """To each choice that ended in words; a choice of another form is left to who reads it."""
        for choice in answer.get("choices") or ():
            if type(choice) is not dict or choice.get("finish_reason") not in _ENDED:
                continue
            name = "text" if "text" in choice else "content"
            holder = choice if name == "text" else choice.get(box)
            if holder is None:
                holder = choice[box] = {}
            if type(holder) is dict and isinstance(said := holder.get(name), str | None):
                holder[name] = (said or "") + self._text

    def take_out(self, body: dict[str, Any]) -> None:
        """Out of what the model is said to have answered before."""
        for message in body.get("messages") or ():
            if message.get("role") == "assistant" and type(content := message.get("content")) is str:
                for text in self._texts:
                    content = content.removesuffix(text)
                message["content"] = content

    def kept_question(self, body: bytes) -> bytes:
        """A client's request, for those who keep it."""
        value = orjson.loads(body)
        self.take_out(value)
        return orjson.dumps(value)

    def kept_answer(self, answer: bytes) -> bytes:
        """What was sent, whole or as events, for those who keep it."""
        return answer.replace(orjson.dumps(self._text)[1:-1], b"")


class NotedEvents:
    """An engine's events, the note in the last of each choice. What is counted is counted before."""

    def __init__(self, inner: Events | RedactedEvents, noted: Noted) -> None:
        self._inner, self._noted = inner, noted

    @property
    def usage(self) -> Usage | None:
        return self._inner.usage

    @property
    def fault(self) -> str:
        return self._inner.fault

    @property
    def is_done(self) -> bool:
        return self._inner.is_done

    @property
    def num_tokens(self) -> int:
        return self._inner.num_tokens

    def feed(self, piece: bytes) -> bytes:
        data = self._inner.feed(piece)
        if b'"finish_reason"' not in data:
            return data
        return b"".join(event if _UNFINISHED.search(event) else self._noted.ended(event) for event in events(data))


def text_of(note: str, language: Language) -> str:
    """A sector's sentence, or the sentence itself."""
    return say(f"disclaimer.{note}", language) if note in SECTORS else note


def _asked(body: Mapping[str, Any]) -> str:
    """The last thing that was said to the model."""
    messages = body.get("messages")
    said = messages[-1].get("content") if messages else body.get("prompt")
    if type(said) is list:
        said = " ".join(str(part.get("text") or "") if type(part) is dict else str(part) for part in said)
    return said if type(said) is str else ""
