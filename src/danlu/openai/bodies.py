"""What a question's body may hold: the fields of each endpoint, with their ranges. Deny by default.

A field is one of four: forwarded (checked, with a range), ignored (OpenAI's bookkeeping that changes no answer here: it
is accepted, and goes no further), unsupported (it would change the answer and cannot be honoured: refused unless
neutral), or unknown (refused, with the nearest name). Only text is taken: nothing here fetches an address, names a
file, or reaches a chat template but through `messages` and `tools`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from danlu.openai.refused import RefusedError, quoted
from danlu.openai.rules import (
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

Kind = Literal["chat", "completion", "embedding"]
PATHS: dict[Kind, str] = {"chat": "/chat/completions", "completion": "/completions", "embedding": "/embeddings"}
"""Below an address' `/v1`."""
PREFIXES: dict[Kind, str] = {"chat": "chatcmpl-", "completion": "cmpl-", "embedding": "embd-"}
"""How an answer's id begins."""
MOST_TOKEN_ID = 2**24
SEED_BITS = 2**63


@dataclass(frozen=True, slots=True)
class BodyCaps:
    """The largest numbers that a body may hold."""

    most_messages: int = 1024
    most_prompts: int = 64
    """Of a completion request."""
    most_inputs: int = 1024
    """Texts of an embedding request."""
    most_tools: int = 128
    most_stops: int = 16
    most_choices: int = 8
    """`n`."""
    most_logprobs: int = 20
    most_depth: int = 32
    """Nesting of a JSON schema or a tool's parameters."""
    most_answer_tokens: int = 4096
    """The largest `max_tokens` a client may ask."""


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


def bodies(caps: BodyCaps) -> dict[Kind, Record]:
    """What each endpoint takes under these caps; made once."""
    return {"chat": _chat(caps), "completion": _completion(caps), "embedding": _embedding(caps)}


def checked(kind: Kind, value: Any, record: Record) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(the fields that count, the names of those that were sent in vain). RefusedError. Of two names for one thing the
    newer one counts (`max_completion_tokens`); what says nothing is left out."""
    if type(value) is not dict:
        raise RefusedError("gateway.not_an_object")
    body = record.check(value, "")
    ignored = tuple(name for name in value if name in record.ignored and value[name] is not None)
    newer = body.pop("max_completion_tokens", None)
    if newer is not None:
        body["max_tokens"] = newer
    if kind == "chat" and body.get("top_logprobs") and not body.get("logprobs"):
        raise RefusedError("gateway.top_logprobs", param="top_logprobs")
    if not body.get("stop", True):
        del body["stop"]
    if kind == "chat":
        _settle_tools(body)
    if (body.get("response_format") or {}).get("type") == "text":
        del body["response_format"]
    return body, ignored


def _settle_tools(body: dict[str, Any]) -> None:
    if not body.get("tools"):
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)


def chosen_tools(body: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The tools that a checked body lets the model call: those, or the one, that `tool_choice` names. RefusedError
    where it names none of them, which no JSON Schema could say."""
    choice, tools = body.get("tool_choice"), tuple(body.get("tools") or ())
    if type(choice) is not dict:
        return () if choice == "none" else tools
    wanted = choice["function"]["name"]
    found = tuple(tool for tool in tools if tool["function"]["name"] == wanted)
    if not found:
        raise RefusedError("gateway.no_such_tool", param="tool_choice", given=quoted(wanted))
    return found


def _sampling(caps: BodyCaps) -> dict[str, Rule]:
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
        "stream_options": stream_options("include_usage"),
    }


def stream_options(*known: str) -> Record:
    others = {"include_usage", "continuous_usage_stats", "include_obfuscation"} - {*known}
    return Record({name: Flag() for name in known}, ignored={name: Flag() for name in sorted(others)})


def _chat(caps: BodyCaps) -> Record:
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


def _tool(caps: BodyCaps) -> Record:
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


def _response_format(caps: BodyCaps) -> ByField:
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


def _completion(caps: BodyCaps) -> Record:
    fields = _sampling(caps) | {
        "prompt": _ids_or_texts(caps.most_prompts),
        "echo": Flag(),
        "logprobs": Whole(0, caps.most_logprobs),
    }
    unsupported: dict[str, tuple[Any, ...]] = {"suffix": ("",), "best_of": (1,)}  # engines of today know no best_of
    return Record(fields, ("model", "prompt"), _BOOKKEEPING, unsupported, _HINTS | {"messages": "prompt"})


def _embedding(caps: BodyCaps) -> Record:
    fields: dict[str, Rule] = {
        "model": Text(1, 256),
        "input": _ids_or_texts(caps.most_inputs),
        "encoding_format": OneOf(("float", "base64")),
        "dimensions": Whole(1, 65536),
    }
    return Record(fields, ("model", "input"), _BOOKKEEPING, hints={"prompt": "input", "messages": "input"})
