"""What a client of the native engine's server asks: OpenAI's bodies, read strictly. Torch-free.

A field that is not known, or that cannot be kept (`logit_bias`), is refused by name: an answer that
ignores half of what was asked is worse than none.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from danlu.core.errors import DataError, EngineError
from danlu.data.calls import call_of, tools_of
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.engines.engine import Sampling
from danlu.engines.grammars import ANY_OBJECT, Grammar, Grammars
from danlu.engines.tastes import PLAIN, Taste

MOST_CHOICES = 8
MOST_LIKELIEST = 20
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_SHARED = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n",
     "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "user", "response_format", "logit_bias"}
)  # fmt: skip
_CHAT = _SHARED | {
    "messages", "tools", "tool_choice", "parallel_tool_calls", "max_completion_tokens", "top_logprobs",
    "chat_template_kwargs",
}  # fmt: skip
_TEXT = _SHARED | {"prompt", "echo", "suffix", "best_of"}


class BadRequestError(Exception):
    """What was sent cannot be answered here; `param` names the field."""

    def __init__(self, text: str, param: str = "") -> None:
        super().__init__(text)
        self.param = param


@dataclass(frozen=True, slots=True)
class Asked:
    """One understood request. `prompts` are token ids; each is answered `num_choices` times."""

    model: str
    prompts: tuple[tuple[int, ...], ...]
    sampling: Sampling
    taste: Taste
    is_chat: bool
    is_stream: bool
    num_choices: int
    has_usage: bool
    """A stream ends with the usage; `counts_on`: each event has it so far."""
    counts_on: bool
    has_tools: bool


class Reader:
    """Reads bodies for one model's tokenizer and template. `defaults` are the checkpoint's own sampling."""

    def __init__(self, encoders: Mapping[bool, Encoder], defaults: Sampling) -> None:
        """`encoders`: with thinking, and without."""
        self.encoders, self.defaults = encoders, defaults
        self.grammars = Grammars(encoders[True].tokenizer, encoders[True].stop_ids)

    def chat(self, body: Any) -> Asked:
        body = _object(body, _CHAT)
        if _of(body, "parallel_tool_calls", bool, True) is False:
            raise BadRequestError("one call at a time cannot be promised", "parallel_tool_calls")
        ids, has_tools = self.chat_ids(body)
        sampling = self._sampling(body, body.get("max_completion_tokens", body.get("max_tokens")))
        wants = _of(body, "logprobs", bool, False)
        likeliest = _number(body, "top_logprobs", 0, 0, MOST_LIKELIEST, whole=True)
        taste = _taste(body, int(likeliest) if wants else None)
        return self._asked(body, ((*ids,),), sampling, taste, is_chat=True, has_tools=has_tools)

    def chat_ids(self, body: Mapping[str, Any]) -> tuple[list[int], bool]:
        """The rendered conversation, generation prompt included, and whether tools are in it."""
        turns = body.get("messages")
        if not isinstance(turns, list) or not turns:
            raise BadRequestError("messages: a list of turns with a role and a content", "messages")
        messages = tuple(_message(turn, number) for number, turn in enumerate(turns))
        choice = body.get("tool_choice") or "auto"
        if choice not in ("auto", "none"):
            raise BadRequestError("a call cannot be forced here; auto or none", "tool_choice")
        tools: tuple[dict[str, Any], ...] = ()
        if body.get("tools") and choice == "auto":
            try:
                tools = tools_of(body["tools"])
            except DataError as fault:
                raise BadRequestError(fault.text, "tools") from fault
        switches = body.get("chat_template_kwargs") or {}
        if not isinstance(switches, dict) or set(switches) - {"enable_thinking"}:
            raise BadRequestError("only enable_thinking is known", "chat_template_kwargs")
        thinks = _of(switches, "enable_thinking", bool, True)
        return self.encoders[thinks].encode_prompt(messages, tools), bool(tools)

    def text(self, body: Any) -> Asked:
        body = _object(body, _TEXT)
        for name in ("echo", "suffix"):
            if body.get(name):
                raise BadRequestError("not done here", name)
        if body.get("best_of") not in (None, body.get("n", 1)):
            raise BadRequestError("not done here", "best_of")
        likeliest = _number(body, "logprobs", -1, 0, MOST_LIKELIEST, whole=True)
        taste = _taste(body, int(likeliest) if likeliest >= 0 else None)
        sampling = self._sampling(body, body.get("max_tokens"), 16)
        return self._asked(body, self._prompts(body.get("prompt")), sampling, taste, is_chat=False)

    def _prompts(self, prompt: Any) -> tuple[tuple[int, ...], ...]:
        """A text, texts, ids or lists of ids, as the API allows. No template."""
        given = [prompt] if isinstance(prompt, str) or _is_ids(prompt) else prompt
        if not isinstance(given, list) or not given or not all(isinstance(one, str) or _is_ids(one) for one in given):
            raise BadRequestError("prompt: a text, texts, ids, or lists of ids", "prompt")
        tokenizer = self.encoders[True].tokenizer
        found = tuple(tuple(tokenizer.encode_text(one) if isinstance(one, str) else one) for one in given)
        if not all(ids and all(0 <= token < tokenizer.vocab_size for token in ids) for ids in found):
            raise BadRequestError("prompt: nothing, or an id outside the vocabulary", "prompt")
        return found

    def _sampling(self, body: Mapping[str, Any], most: Any, usual: int = 1 << 20) -> Sampling:
        if most is not None and (type(most) is not int or most < 1):
            raise BadRequestError("max_tokens: a whole number, at least 1", "max_tokens")
        stop = body.get("stop") or []
        stops = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else None
        if stops is None or len(stops) > 16 or not all(isinstance(one, str) and one for one in stops):
            raise BadRequestError("stop: a text, or up to 16 texts", "stop")
        seed = body.get("seed")
        if seed is not None and (type(seed) is not int or abs(seed) >= 2**63):
            raise BadRequestError("seed: a whole number of 64 bits", "seed")
        usually = self.defaults
        return Sampling(
            max_new_tokens=usual if most is None else most,
            temperature=_number(body, "temperature", usually.temperature, 0, 100),
            top_p=_number(body, "top_p", usually.top_p, 1e-6, 1),
            top_k=max(0, int(_number(body, "top_k", usually.top_k, -1, 2**31, whole=True))),
            seed=secrets.randbits(63) if seed is None else seed % 2**64,
            stop=stops,
        )

    def _asked(
        self, body: Mapping[str, Any], prompts: tuple[tuple[int, ...], ...], sampling: Sampling, taste: Taste, *,
        is_chat: bool, has_tools: bool = False,
    ) -> Asked:  # fmt: skip
        model = body.get("model")
        if not isinstance(model, str):
            raise BadRequestError("model: a name", "model")
        if (grammar := self._grammar(body.get("response_format"), has_tools=has_tools)) is not None:
            taste = replace(taste, grammar=grammar)
        if body.get("logit_bias"):
            raise BadRequestError("not done here", "logit_bias")
        options = body.get("stream_options") or {}
        if not isinstance(options, dict) or set(options) - {"include_usage", "continuous_usage_stats"}:
            raise BadRequestError("include_usage and continuous_usage_stats are known", "stream_options")
        counts_on = _of(options, "continuous_usage_stats", bool, False)
        return Asked(
            model, prompts, sampling, taste, is_chat, _of(body, "stream", bool, False),
            int(_number(body, "n", 1, 1, MOST_CHOICES, whole=True)),
            _of(options, "include_usage", bool, False), counts_on, has_tools,
        )  # fmt: skip

    def _grammar(self, wished: Any, *, has_tools: bool) -> Grammar | None:
        """What an answer is held to, compiled: this may take a while. None: nothing."""
        if wished is None or wished == {"type": "text"}:
            return None
        if has_tools:
            raise BadRequestError("an answer held to a format cannot call tools; ask for one", "response_format")
        if wished == {"type": "json_object"}:
            schema: Any = ANY_OBJECT
        else:
            is_schema = isinstance(wished, dict) and wished.keys() == {"type", "json_schema"}
            named = wished["json_schema"] if is_schema and wished["type"] == "json_schema" else None
            if not isinstance(named, dict) or set(named) - {"name", "description", "schema", "strict"}:
                known = "text, json_object, or json_schema with a json_schema of name and schema"
                raise BadRequestError(f"response_format: {known}", "response_format")
            schema = named.get("schema")
        if not isinstance(schema, dict):
            raise BadRequestError("response_format.json_schema.schema: an object", "response_format")
        try:
            return self.grammars.of(schema)
        except EngineError as fault:
            raise BadRequestError(fault.text, "response_format") from fault


def seeded(sampling: Sampling, choice: int) -> Sampling:
    """The sampling of one of several choices: the first has the asked seed."""
    return replace(sampling, seed=(sampling.seed + choice) % 2**64)


def _taste(body: Mapping[str, Any], num_likeliest: int | None) -> Taste:
    taste = Taste(
        presence=_number(body, "presence_penalty", 0.0, -2, 2),
        frequency=_number(body, "frequency_penalty", 0.0, -2, 2),
        repetition=_number(body, "repetition_penalty", 1.0, 1e-3, 100),
        min_p=_number(body, "min_p", 0.0, 0, 1),
        num_likeliest=num_likeliest,
    )
    return PLAIN if taste == PLAIN else taste


def _object(body: Any, known: frozenset[str]) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise BadRequestError("the body is no JSON object")
    if odd := sorted(set(body) - known):
        raise BadRequestError(f"{odd[0]!r} is not known here", odd[0])
    return body


def _of(body: Mapping[str, Any], name: str, kind: Callable[..., Any], usual: Any) -> Any:
    given = body.get(name)
    if given is None:
        return usual
    if type(given) is not kind:
        raise BadRequestError(f"{name}: expected {kind.__name__}", name)
    return given


def _number(
    body: Mapping[str, Any], name: str, usual: float, least: float, most: float, *, whole: bool = False
) -> float:
    given = body.get(name)
    if given is None:
        return usual
    if isinstance(given, bool) or not isinstance(given, int if whole else int | float) or not math.isfinite(given):
        raise BadRequestError(f"{name}: a number", name)
    if not least <= given <= most:
        raise BadRequestError(f"{name}: from {least:g} to {most:g}", name)
    return given if whole else float(given)


def _is_ids(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(token) is int for token in given)


def _message(turn: Any, number: int) -> Message:
    where = f"messages[{number}]"
    role = _ROLES.get(turn.get("role", "")) if isinstance(turn, dict) and isinstance(turn.get("role"), str) else None
    if role is None:
        raise BadRequestError(f"{where}: a turn has a role ({', '.join(_ROLES)}) and a content", where)
    content = turn.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise BadRequestError(f"{where}.content: only parts of type text are read", where)
        content = "".join(str(part.get("text", "")) for part in content)
    if content is not None and not isinstance(content, str):
        raise BadRequestError(f"{where}.content: a text", where)
    calls = turn.get("tool_calls") or []
    try:
        made = tuple(call_of(call) for call in calls)
    except (DataError, TypeError) as fault:
        raise BadRequestError(f"{where}.tool_calls: {fault}", where) from fault
    name, call_id = turn.get("name"), turn.get("tool_call_id")
    return Message(
        role,  # type: ignore[arg-type]
        content or "",
        name=name if isinstance(name, str) else None,
        reasoning=turn.get("reasoning_content") if isinstance(turn.get("reasoning_content"), str) else None,
        tool_calls=made,
        tool_call_id=call_id if isinstance(call_id, str) else None,
    )
