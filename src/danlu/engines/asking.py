"""What a client of the native engine's server asks: OpenAI's bodies as tokens, sampling and grammars. Torch-free.

What a body may hold is `danlu.openai.bodies`' to say, here with what this engine cannot (`logit_bias`) refused by name:
an answer that ignores half of what was asked is worse than none.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.engines.engine import Sampling
from danlu.engines.grammars import ANY_OBJECT, Grammar, Grammars
from danlu.engines.sampling_extras import PLAIN, SamplingExtras
from danlu.openai.bodies import BodyCaps, Kind, bodies, checked, chosen_tools, stream_options
from danlu.openai.hermes import CALL, END_CALL, schema_of_call
from danlu.openai.refused import RefusedError
from danlu.openai.rules import Flag, Record, Rule
from danlu.openai.turns import message_of

USUAL_TOKENS: dict[Kind, int] = {"chat": 1 << 20, "completion": 16}
"""Of an answer whose length is not asked for: to the end of the context, and OpenAI's few of plain text."""
LONG_TEXT = 1 << 16
"""Characters of a prompt from which its tokens are first counted from below."""
_CANNOT: dict[str, tuple[Any, ...]] = {"logit_bias": ({},), "echo": (False,), "dimensions": ()}
"""With the values that change nothing."""


def _own(record: Record) -> Record:
    """What a gateway takes, more or less: with its words to engines, without what this one cannot do."""
    fields: dict[str, Rule] = {name: rule for name, rule in record.fields.items() if name not in _CANNOT}
    if "messages" in fields:
        fields["chat_template_kwargs"] = Record({"enable_thinking": Flag()})
    if "stream_options" in fields:
        fields["stream_options"] = stream_options("include_usage", "continuous_usage_stats")
    unsupported = {name: neutral for name, neutral in _CANNOT.items() if name in record.fields}
    return replace(record, fields=fields, unsupported={**record.unsupported, **unsupported})


RECORDS = {kind: _own(record) for kind, record in bodies(BodyCaps(most_answer_tokens=1 << 20)).items()}


@dataclass(frozen=True, slots=True)
class Asked:
    """One understood request. `prompts` are token ids; each is answered `num_choices` times."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    sampling: Sampling
    extras: SamplingExtras
    is_chat: bool
    is_stream: bool
    num_choices: int
    has_usage: bool
    """A stream ends with the usage; `counts_on`: each event has it so far."""
    counts_on: bool
    has_tools: bool = False
    """Calls in the answer are looked for."""
    is_call: bool = False
    """The answer is a call and nothing else: its grammar sees to that."""
    is_named: bool = False
    """The client chose the tool; as at OpenAI its answer's reason to end is then `stop`."""


@dataclass(frozen=True, slots=True)
class AskedMeans:
    """One understood request for embeddings; `prompts` are token ids."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    is_base64: bool


class Reader:
    """Reads bodies for one model's tokenizer and template. `defaults` are the checkpoint's own sampling."""

    def __init__(self, encoders: Mapping[bool, Encoder], defaults: Sampling) -> None:
        """`encoders`: with thinking, and without."""
        self.encoders, self.defaults = encoders, defaults
        self.tokenizer = encoders[True].tokenizer
        self.context = 0
        """Tokens of a prompt and its answer, where that is known."""
        self.grammars = Grammars(self.tokenizer, encoders[True].stop_ids)

    def chat(self, value: Any) -> Asked:
        """RefusedError. With a format or a forced call it compiles a grammar, which may take a while."""
        body, _ = checked("chat", value, RECORDS["chat"])
        choice = body.get("tool_choice", "auto")
        ids, tools = self._rendered(body)
        asked = self._asked("chat", body, ((*ids,),), body.get("top_logprobs", 0) if body.get("logprobs") else None)
        if not tools:
            return asked
        if "response_format" in body:
            raise RefusedError("gateway.format_and_tools", param="response_format")
        if choice != "auto":
            return self._forced(asked, choice, chosen_tools(body))
        if body.get("parallel_tool_calls") is False:  # the first call ends the answer
            stop = (*asked.sampling.stop, END_CALL)
            asked = replace(asked, sampling=replace(asked.sampling, stop=stop))
        return replace(asked, has_tools=True)

    def chat_ids(self, value: Any) -> list[int]:
        """The rendered conversation, generation prompt included."""
        return self._rendered(checked("chat", value, RECORDS["chat"])[0])[0]

    def text(self, value: Any) -> Asked:
        body, _ = checked("completion", value, RECORDS["completion"])
        return self._asked("completion", body, self._prompts(body["prompt"], "prompt"), body.get("logprobs"))

    def means(self, value: Any) -> AskedMeans:
        """A text begins with the tokenizer's own mark, where it puts one."""
        body, _ = checked("embedding", value, RECORDS["embedding"])
        given, begin = body["input"], self.tokenizer.bos_id
        prompts = self._prompts(given, "input")
        is_text = isinstance(given if isinstance(given, str) else given[0], str)
        if is_text and self.tokenizer.adds_bos and begin is not None:
            prompts = tuple((begin, *ids) for ids in prompts)
        return AskedMeans(body["model"], prompts, body.get("encoding_format") == "base64")

    def _prompts(self, given: Any, param: str) -> tuple[tuple[int, ...], ...]:
        """Token ids of a text, texts, ids or lists of ids. No template. RefusedError."""
        listed = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        for one in listed:
            if isinstance(one, str):
                self._check_length(one)
        found = tuple(tuple(self.tokenizer.encode_text(one) if isinstance(one, str) else one) for one in listed)
        most = self.tokenizer.vocab_size - 1
        if any(token > most for ids in found for token in ids):
            raise RefusedError("gateway.token_range", param=param, name=param, most=most)
        return found

    def _rendered(self, body: Mapping[str, Any]) -> tuple[list[int], tuple[dict[str, Any], ...]]:
        """The prompt's ids, and the tools that stand in it."""
        messages = tuple(message_of(turn, f"messages[{number}]") for number, turn in enumerate(body["messages"]))
        tools = () if body.get("tool_choice") == "none" else tuple(body.get("tools") or ())
        thinks = (body.get("chat_template_kwargs") or {}).get("enable_thinking", True)
        rendered = self.encoders[thinks].render_prompt(messages, tools)
        self._check_length(rendered.text)
        return rendered.tokens(self.tokenizer).ids.tolist(), tools

    def _check_length(self, text: str) -> None:
        """Megabytes that are surely too long are not read first, which takes seconds."""
        if self.context and len(text) > LONG_TEXT and (least := self.tokenizer.least_tokens(text)) >= self.context:
            raise RefusedError("engine.context_length_exceeded", least=least, context=self.context)

    def _forced(self, asked: Asked, choice: Any, tools: tuple[dict[str, Any], ...]) -> Asked:
        """A call of any tool, or of the named one. Where the template knows how a call begins, it has begun."""
        extras = replace(asked.extras, grammar=self._grammar(schema_of_call(tools), "tools"))
        opened = self._opening() if any(CALL in text for text in self.encoders[True].template.texts.values()) else []
        prompts = tuple((*ids, *opened) for ids in asked.prompts)
        return replace(
            asked, prompts=prompts, extras=extras, has_tools=True, is_call=True, is_named=isinstance(choice, dict)
        )  # fmt: skip

    def _opening(self) -> list[int]:
        mark = self.tokenizer.marks.get(CALL)
        return self.tokenizer.encode_parts([CALL if mark is None else mark, "\n"])[0]

    def _asked(
        self, kind: Kind, body: Mapping[str, Any], prompts: tuple[tuple[int, ...], ...], num_likeliest: int | None
    ) -> Asked:
        options = body.get("stream_options") or {}
        extras = _extras(body, num_likeliest)
        if (wished := body.get("response_format")) is not None:
            schema = wished["json_schema"]["schema"] if wished["type"] == "json_schema" else ANY_OBJECT
            extras = replace(extras, grammar=self._grammar(schema, "response_format"))
        return Asked(
            body["model"], prompts, self._sampling(kind, body), extras, kind == "chat", body.get("stream", False),
            body.get("n", 1), options.get("include_usage", False), options.get("continuous_usage_stats", False),
        )  # fmt: skip

    def _sampling(self, kind: Kind, body: Mapping[str, Any]) -> Sampling:
        usual, seed, stop = self.defaults, body.get("seed"), body.get("stop", ())
        return Sampling(
            max_new_tokens=body.get("max_tokens", USUAL_TOKENS[kind]),
            temperature=float(body.get("temperature", usual.temperature)),
            top_p=float(body.get("top_p", usual.top_p)),
            top_k=max(0, body.get("top_k", usual.top_k)),
            seed=secrets.randbits(63) if seed is None else seed % 2**64,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )

    def _grammar(self, schema: dict[str, Any], param: str) -> Grammar:
        try:
            return self.grammars.of(schema)
        except EngineError as fault:
            raise RefusedError(fault.key, param=param, **fault.values) from fault


def seeded(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of one of several choices: the first has the asked seed."""
    return replace(sampling, seed=(sampling.seed + choice) % 2**64)


def _extras(body: Mapping[str, Any], num_likeliest: int | None) -> SamplingExtras:
    extras = SamplingExtras(
        presence=float(body.get("presence_penalty", 0.0)),
        frequency=float(body.get("frequency_penalty", 0.0)),
        repetition=float(body.get("repetition_penalty", 1.0)),
        min_p=float(body.get("min_p", 0.0)),
        num_likeliest=num_likeliest,
    )
    return PLAIN if extras == PLAIN else extras
