"""How a body that passed becomes an Ask, and whether what answers can do it. What may stand in a body at all lies in
`danlu.openai.bodies`.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from danlu.openai.bodies import PREFIXES, Kind, checked, chosen_tools
from danlu.openai.refused import RefusedError
from danlu.openai.rules import Record
from danlu.serving.ask import Ask
from danlu.serving.board import Lens
from danlu.serving.caps import Caps
from danlu.serving.drivers.driver import Can
from danlu.serving.replies import new_id

RENDERED_TOKENS = 32
"""Added to a prompt's estimate: what a template puts around the turns."""


def understand(kind: Kind, value: Any, record: Record, caps: Caps) -> Ask:
    """The Ask of a decoded body. RefusedError where it is none. Whether an engine can do it is asked later: `fit`."""
    body, ignored = checked(kind, value, record)
    ask = Ask(
        id=new_id(PREFIXES[kind]),
        kind=kind,
        model=body["model"],
        body=body,
        is_stream=bool(body.get("stream", False)),
        wants_usage=False,
        num_prompt_tokens=_prompt_tokens(kind, body, caps),
        most_tokens=0,
        ignored=ignored,
    )
    if kind != "embedding":
        _settle_stream(ask)
    return ask


def fit(ask: Ask, lenses: tuple[Lens, ...], can: Can | None, caps: Caps) -> None:
    """Hold an Ask against what answers: its abilities and its context. It ends with the reservation it needs."""
    if can is not None:
        _check_abilities(ask, can, lenses)
    body = ask.body
    context = min((lens.context for lens in lenses if lens.context), default=0)
    if context:
        ask.num_prompt_tokens = min(ask.num_prompt_tokens, context * _num_prompts(ask))
    if ask.kind == "embedding":
        return
    asked = body.get("max_tokens")
    if context and asked is not None and asked > context:
        raise RefusedError("gateway.context_length_exceeded", param="max_tokens", context=context, given=asked)
    most, num_choices = asked or caps.answer_tokens, _num_choices(ask)
    ask.most_tokens = most * num_choices
    if context and asked is None and ask.num_prompt_tokens + most > context:
        # the engine answers to the end of its context, each choice, and no further; the prompt may be shorter
        # than it was estimated
        ask.most_tokens = context * num_choices - ask.num_prompt_tokens
        return
    body["max_tokens"] = most


def _num_prompts(ask: Ask) -> int:
    prompt = ask.body.get("input" if ask.kind == "embedding" else "prompt")
    return len(prompt) if type(prompt) is list and type(prompt[0]) is not int else 1


def _num_choices(ask: Ask) -> int:
    choices: int = ask.body.get("n", 1)
    return choices * _num_prompts(ask)


def _settle_stream(ask: Ask) -> None:
    """Usage is always asked of an engine; whether the client gets to see it is the client's choice."""
    options = ask.body.pop("stream_options", None) or {}
    if ask.is_stream:
        ask.wants_usage = bool(options.get("include_usage", False))
        ask.body["stream_options"] = {"include_usage": True}


def _check_abilities(ask: Ask, can: Can, lenses: tuple[Lens, ...]) -> None:
    body = ask.body
    embeds = can.embeddings if all(lens.is_base for lens in lenses) else can.adapter_embeddings
    has_tools = chosen_tools(body) != ()
    is_forced = has_tools and body.get("tool_choice", "auto") != "auto"
    lacking = (
        ("embeddings", "input", ask.kind == "embedding" and not embeds),
        ("dimensions", "dimensions", "dimensions" in body and not can.dimensions),
        ("tools", "tools", has_tools and not can.tools),
        ("force_calls", "tool_choice", is_forced and not can.forced_calls),
        ("tools_said", "tools", has_tools and not all(lens.takes_tools for lens in lenses)),
        ("json_schema", "response_format", "response_format" in body and not can.json_schema),
        ("logprobs", "logprobs", bool(body.get("logprobs")) and not can.logprobs),
    )
    for what, param, is_lacking in lacking:
        if is_lacking:
            raise RefusedError(f"gateway.cannot_{what}", param=param, model=ask.model)


def _prompt_tokens(kind: Kind, body: dict[str, Any], caps: Caps) -> int:
    """At most, of all prompts. JSON's own marks around the turns stand for the template's."""
    if kind == "chat":
        num_bytes = len(orjson.dumps(body["messages"]))
        for name in ("tools", "response_format"):
            if name in body:
                num_bytes += len(orjson.dumps(body[name]))
        return math.ceil(num_bytes / caps.bytes_per_token) + RENDERED_TOKENS
    prompts = body["prompt" if kind == "completion" else "input"]
    if type(prompts) is str or type(prompts[0]) is int:
        prompts = [prompts]
    return sum(
        math.ceil(len(one.encode()) / caps.bytes_per_token) + 2 if type(one) is str else len(one) for one in prompts
    )
