"""What may be asked: the fields of each endpoint, and how a body that passed becomes an Ask. Deny by default.

A field is one of four: forwarded (checked, with a range), ignored (OpenAI's bookkeeping that changes no answer here: it
is accepted, goes no further, and `x-danlu-ignored` says so), unsupported (it would change the answer and cannot be
honoured: refused unless neutral), or unknown (refused, with the nearest name). Only text is taken: nothing here fetches
an address, names a file, or reaches a chat template but through `messages` and `tools`.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from danlu.serving.ask import Ask, Kind
from danlu.serving.board import Lens
from danlu.serving.caps import Caps
from danlu.serving.drivers.driver import Can
from danlu.serving.replies import RefusedError, new_id
from danlu.serving.rules import (
    Alias,
    Anything,
    ByField,
    Either,
    Flag,
    Free,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Record,
    Rule,
    Text,
    Whole,
)

MOST_TOKEN_ID = 2**24
SEED_BITS = 2**63
RENDERED_TOKENS = 32
"""Added to a prompt's estimate: what a template puts around the turns."""
PREFIXES: dict[Kind, str] = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}

_NAME = Text(1, 64)
_CALL_ID = Text(1, 256)
_FUNCTION_NAME = Text(1, 128)
_HINTS = {
    "max_length": "max_tokens", "max_new_tokens": "max_tokens", "num_predict": "max_tokens", "n_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty", "stop_sequences": "stop", "prompt": "messages", "input": "messages",
}  # fmt: skip
_BOOKKEEPING: dict[str, Rule] = {
    "user": Anything(), "metadata": Anything(), "store": Anything(), "service_tier": Anything(),
    "safety_identifier": Anything(), "prompt_cache_key": Anything(), "prompt_cache_retention": Anything(),
}  # fmt: skip


def bodies(caps: Caps) -> dict[Kind, Record]:
    """What each endpoint takes under these caps; made once."""
    return {"chat": _chat(caps), "completion": _completion(caps), "embedding": _embedding(caps)}


def understand(kind: Kind, value: Any, record: Record, caps: Caps) -> Ask:
    """The Ask of a decoded body. RefusedError where it is none. Whether an engine can do it is asked later: `fit`."""
    if type(value) is not dict:
        raise RefusedError("gateway.not_an_object")
    body = record.check(value, "")
    ignored = tuple(name for name in value if name in record.ignored and value[name] is not None)
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
        _settle_choices(ask, caps)
        _settle_stream(ask)
    return ask


def fit(ask: Ask, lenses: tuple[Lens, ...], can: Can | None, caps: Caps) -> None:
    """Hold an Ask against what answers: its abilities and its context. It ends with the reservation it needs."""
    if can is not None:
        _check_abilities(ask, can)
    if ask.kind == "embedding":
        return
    body = ask.body
    context = min((lens.context for lens in lenses if lens.context), default=0)
    asked = body.get("max_tokens")
    if context and asked is not None and asked > context:
        raise RefusedError("gateway.context_length_exceeded", param="max_tokens", context=context, given=asked)
    most, num_choices = asked or caps.answer_tokens, _num_choices(ask)
    ask.most_tokens = most * num_choices
    if context:
        ask.num_prompt_tokens = min(ask.num_prompt_tokens, context * _num_prompts(ask))
        if asked is None and ask.num_prompt_tokens + most > context:
            # the engine answers to the end of its context, each choice, and no further; the prompt may be shorter
            # than it was estimated
            ask.most_tokens = context * num_choices - ask.num_prompt_tokens
            return
    body["max_tokens"] = most


def _num_prompts(ask: Ask) -> int:
    prompt = ask.body.get("prompt")
    return len(prompt) if type(prompt) is list and type(prompt[0]) is not int else 1


def _num_choices(ask: Ask) -> int:
    choices: int = ask.body.get("n", 1)
    return choices * _num_prompts(ask)


def _settle_choices(ask: Ask, caps: Caps) -> None:
    """The rules between fields; `max_completion_tokens`, OpenAI's newer name, is what counts where both are given."""
    body = ask.body
    newer = body.pop("max_completion_tokens", None)
    if newer is not None:
        body["max_tokens"] = newer
    if ask.kind == "chat" and body.get("top_logprobs") and not body.get("logprobs"):
        raise RefusedError("gateway.top_logprobs", param="top_logprobs")
    if not body.get("stop", True):
        del body["stop"]
    if not body.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
    if (body.get("response_format") or {}).get("type") == "text":
        del body["response_format"]


def _settle_stream(ask: Ask) -> None:
    """Usage is always asked of an engine; whether the client gets to see it is the client's choice."""
    options = ask.body.pop("stream_options", None) or {}
    if ask.is_stream:
        ask.wants_usage = bool(options.get("include_usage", False))
        ask.body["stream_options"] = {"include_usage": True}


def _check_abilities(ask: Ask, can: Can) -> None:
    body = ask.body
    lacking = (
        ("embeddings", "input", ask.kind == "embedding" and not can.embeddings),
        ("tools", "tools", "tools" in body and body.get("tool_choice") != "none" and not can.tools),
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


def _sampling(caps: Caps) -> dict[str, Rule]:
    """What chat and completions share."""
    stop = Text(1, 256)
    return {
        "model": Text(1, 256),
        "max_tokens": Whole(1, caps.most_answer_tokens),
        "temperature": Number(0, 2),
        "top_p": Number(0, 1, is_above=True),
        "top_k": Whole(-1, 1000),
        "min_p": Number(0, 1),
        "repetition_penalty": Number(0, 2, is_above=True),
        "presence_penalty": Number(-2, 2),
        "frequency_penalty": Number(-2, 2),
        "logit_bias": MapOf(Number(-100, 100), 300),
        "n": Whole(1, caps.most_choices),
        "seed": Whole(-SEED_BITS, SEED_BITS - 1),
        "stop": Either({str: stop, list: ListOf(stop, 0, caps.most_stops)}),
        "stream": Flag(),
        "stream_options": Record(
            {"include_usage": Flag()},
            ignored={"include_obfuscation": Flag(), "continuous_usage_stats": Flag()},
        ),
    }


def _chat(caps: Caps) -> Record:
    fields = _sampling(caps) | {
        "messages": ListOf(_messages(), 1, caps.most_messages),
        "max_completion_tokens": Whole(1, caps.most_answer_tokens),
        "logprobs": Flag(),
        "top_logprobs": Whole(0, caps.most_logprobs),
        "response_format": _response_format(caps),
        "tools": ListOf(_tool(caps), 0, caps.most_tools),
        "tool_choice": Either(
            {
                str: OneOf(("none", "auto", "required")),
                dict: Record(
                    {"type": OneOf(("function",)), "function": Record({"name": _FUNCTION_NAME}, ("name",))},
                    ("type", "function"),
                ),
            }
        ),
        "parallel_tool_calls": Flag(),
    }
    unsupported: dict[str, tuple[Any, ...]] = {
        "functions": ([],), "function_call": ("none", "auto"), "modalities": (["text"],), "audio": (),
        "prediction": (), "web_search_options": (), "reasoning_effort": ("none",), "verbosity": ("medium",),
        "moderation": (),
    }  # fmt: skip
    return Record(fields, ("model", "messages"), _BOOKKEEPING, unsupported, _HINTS)


def _messages() -> ByField:
    parts = ByField(
        "type",
        {"text": Record({"type": OneOf(("text",)), "text": Text()}, ("type", "text"))},
        dict.fromkeys(("image_url", "input_image", "input_audio", "file", "video_url"), "gateway.text_only"),
    )
    content = Either({str: Text(), list: ListOf(parts, 1, 1024)})
    call = Record(
        {
            "id": _CALL_ID,
            "type": OneOf(("function",)),
            "function": Record({"name": _FUNCTION_NAME, "arguments": Text()}, ("name", "arguments")),
        },
        ("id", "type", "function"),
        {"index": Anything()},
    )
    # what clients send back of an answer they got, by `message.model_dump()`
    echoes: dict[str, Rule] = {
        name: Anything()
        for name in ("refusal", "audio", "annotations", "function_call", "reasoning_content", "reasoning")
    }
    role: dict[str, Rule] = {role: OneOf((role,)) for role in ("system", "user", "assistant", "tool")}
    role["developer"] = Alias("developer", "system")  # OpenAI's newer name; templates know the older one
    plain = {
        told: Record({"role": role[told], "content": content, "name": _NAME}, ("role", "content"))
        for told in ("system", "developer", "user")
    }
    assistant = Record(
        {"role": role["assistant"], "content": content, "name": _NAME, "tool_calls": ListOf(call, 0, 128)},
        ("role",),
        echoes,
    )
    tool = Record(
        {"role": role["tool"], "content": content, "tool_call_id": _CALL_ID, "name": _FUNCTION_NAME},
        ("role", "content", "tool_call_id"),
    )
    return ByField("role", plain | {"assistant": assistant, "tool": tool})


def _tool(caps: Caps) -> Record:
    function = Record(
        {
            "name": _FUNCTION_NAME,
            "description": Text(0, 16384),
            "parameters": Free(caps.most_depth),
            "strict": Flag(),
        },
        ("name",),
    )
    return Record({"type": OneOf(("function",)), "function": function}, ("type", "function"))


def _response_format(caps: Caps) -> ByField:
    schema = Record(
        {"name": _NAME, "description": Text(0, 16384), "schema": Free(caps.most_depth), "strict": Flag()},
        ("name", "schema"),
    )
    return ByField(
        "type",
        {
            "text": Record({"type": OneOf(("text",))}, ("type",)),
            "json_object": Record({"type": OneOf(("json_object",))}, ("type",)),
            "json_schema": Record({"type": OneOf(("json_schema",)), "json_schema": schema}, ("type", "json_schema")),
        },
    )


def _ids_or_texts(most: int) -> Either:
    ids = ListOf(Whole(0, MOST_TOKEN_ID), 1)
    return Either(
        {
            str: Text(1),
            (list, str): ListOf(Text(1), 1, most),
            (list, int): ids,
            (list, list): ListOf(ids, 1, most),
        }
    )


def _completion(caps: Caps) -> Record:
    fields = _sampling(caps) | {
        "prompt": _ids_or_texts(caps.most_prompts),
        "echo": Flag(),
        "logprobs": Whole(0, caps.most_logprobs),
    }
    unsupported: dict[str, tuple[Any, ...]] = {"suffix": ("",), "best_of": (1,)}  # engines of today know no best_of
    return Record(fields, ("model", "prompt"), _BOOKKEEPING, unsupported, _HINTS | {"messages": "prompt"})


def _embedding(caps: Caps) -> Record:
    fields: dict[str, Rule] = {
        "model": Text(1, 256),
        "input": _ids_or_texts(caps.most_prompts),
        "encoding_format": OneOf(("float", "base64")),
        "dimensions": Whole(1, 65536),
    }
    return Record(fields, ("model", "input"), {"user": Anything()})
