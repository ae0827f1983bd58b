"""What may be asked: each field's range, what is ignored and said, what is refused and how it is named."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.core.messages import load_room
from danlu.openai.bodies import bodies
from danlu.openai.refused import RefusedError
from danlu.serving.ask import Ask, Kind
from danlu.serving.board import Lens
from danlu.serving.caps import Caps
from danlu.serving.drivers.driver import Can
from danlu.serving.openapi import document
from danlu.serving.schema import fit, understand
from gateway_kit import chat

CAPS = Caps()
RECORDS = bodies(CAPS)
ALL = Can(loads_adapters=True, embeddings=True, tools=True, forced_calls=True, json_schema=True, logprobs=True)
TOOL = {"type": "function", "function": {"name": "price", "parameters": {"type": "object", "properties": {}}}}


def asked(body: dict[str, Any], kind: Kind = "chat", caps: Caps = CAPS) -> Ask:
    return understand(kind, body, RECORDS[kind] if caps is CAPS else bodies(caps)[kind], caps)


def refused(body: dict[str, Any], kind: Kind = "chat") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        asked(body, kind)
    return caught.value


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.7, 2], [-0.1, 2.1, "1", True, [], 1e999]),
        ("top_p", [0.01, 1], [0, 1.01, "x"]),
        ("max_tokens", [1, 5.0, 4096], [0, -1, 4097, 1.5, 2**70, True]),
        ("max_completion_tokens", [1], [0]),
        ("n", [1, 8], [0, 9]),
        ("seed", [0, -(2**63), 2**63 - 1], [2**63, 0.5, "0"]),
        ("stop", ["。", ["a", "b"], []], ["", ["a"] * 17, [""], ["x" * 300], 3, [1]]),
        ("presence_penalty", [-2, 2], [-2.1]),
        ("logit_bias", [{"1": -100, "2": 3.5}], [{"x": 1}, {"1": 101}, {"-1": 0}, [], {str(n): 1 for n in range(301)}]),
        ("top_k", [-1, 40], [-2, 1001]),
        ("stream", [True, False], ["true", 1]),
        ("logprobs", [True], [1, "yes"]),
        ("model", ["x"], ["", "m" * 257, 3]),
        ("response_format", [{"type": "text"}, {"type": "json_object"}], [{"type": "xml"}, "json", {"type": "json_schema"}]),
        ("tools", [[], [TOOL]], [[{"type": "web_search"}], [{"type": "function"}], [TOOL] * 129, TOOL]),
        ("stream_options", [{}, {"include_usage": True}], [{"x": 1}, True]),
    ],
)  # fmt: skip
def test_each_field_has_its_range(field: str, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        asked(chat(**{field: value}))
    for value in bad:
        assert refused(chat(**{field: value})).status == 400, value


def test_null_is_absent() -> None:
    body = asked(chat(temperature=None, tools=None, stop=None, user=None, function_call=None)).body
    assert set(body) == {"model", "messages"}
    assert refused({"model": None, "messages": []}).param == "messages"


def test_an_unknown_field_is_refused_with_its_nearest_name() -> None:
    fault = refused(chat(temprature=0.5))
    assert fault.code == "unknown_parameter" and "'temperature'" in fault.to_json()["error"]["message"]
    assert "'max_tokens'" in refused(chat(max_new_tokens=5)).to_json()["error"]["message"]
    assert "Did you mean" not in refused(chat(zzz=5)).to_json()["error"]["message"]
    deep = refused(chat(messages=[{"role": "user", "content": "x", "contents": "y"}]))
    assert deep.param == "messages[0].contents" and "content" in deep.to_json()["error"]["message"]


def test_what_openai_clients_send_beside_does_not_break_and_is_told() -> None:
    ask = asked(chat(user="u1", metadata={"a": "b"}, store=True, service_tier="auto", prompt_cache_key="k"))
    assert ask.ignored == ("user", "metadata", "store", "service_tier", "prompt_cache_key")
    assert set(ask.body) == {"model", "messages"}


def test_what_would_change_the_answer_is_not_dropped_in_silence() -> None:
    for field, value in (
        ("functions", [{}]),
        ("modalities", ["audio"]),
        ("web_search_options", {}),
        ("prediction", {}),
        ("reasoning_effort", "high"),
    ):
        assert refused(chat(**{field: value})).code == "unsupported_parameter"
    asked(chat(functions=[], modalities=["text"], function_call="auto"))


def test_an_answer_can_be_sent_back_as_the_client_dumps_it() -> None:
    dumped = {"role": "assistant", "content": None, "refusal": None, "audio": None, "annotations": [], "function_call": None,
              "tool_calls": [{"id": "call_1", "type": "function", "index": 0, "function": {"name": "price", "arguments": "{}"}}],
              "reasoning_content": "hm"}  # fmt: skip
    turns = [{"role": "user", "content": "x"}, dumped, {"role": "tool", "tool_call_id": "call_1", "content": "80"}]
    kept = asked(chat(messages=turns)).body["messages"][1]
    assert set(kept) == {"role", "tool_calls"} and kept["tool_calls"][0]["function"]["name"] == "price"


def test_developer_is_system_and_parts_are_text() -> None:
    turns = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "x"}]}]
    assert asked(chat(messages=turns)).body["messages"][0] == {"role": "system", "content": "be brief"}
    for kind in ("image_url", "input_audio", "file"):
        part = {"type": kind, kind: {"url": "http://169.254.169.254/"}}
        assert refused(chat(messages=[{"role": "user", "content": [part]}])).code == "text_only"


def test_rules_between_fields() -> None:
    assert refused(chat(top_logprobs=3)).code == "top_logprobs"
    assert asked(chat(max_tokens=5, max_completion_tokens=7)).body["max_tokens"] == 7
    assert asked(chat(tools=[], tool_choice="auto", parallel_tool_calls=True)).body.keys() == {"model", "messages"}
    assert refused({"model": "law", "prompt": "x", "best_of": 2}, "completion").code == "unsupported_parameter"


def test_usage_is_always_asked_of_a_stream() -> None:
    ask = asked(chat(stream=True))
    assert ask.body["stream_options"] == {"include_usage": True} and not ask.wants_usage
    assert asked(chat(stream=True, stream_options={"include_usage": True})).wants_usage
    assert "stream_options" not in asked(chat(stream_options={"include_usage": True})).body


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("tools", [TOOL], "cannot_tools"),
        ("response_format", {"type": "json_object"}, "cannot_json_schema"),
        ("logprobs", True, "cannot_logprobs"),
    ],
)
def test_what_the_pool_cannot_do_is_refused_before_an_engine_is_asked(field: str, value: Any, code: str) -> None:
    with pytest.raises(RefusedError) as caught:
        fit(asked(chat(**{field: value})), (), Can(loads_adapters=True), CAPS)
    assert caught.value.code == code
    fit(asked(chat(**{field: value})), (), ALL, CAPS)


def test_reservations_cover_all_choices_and_never_more_than_the_context() -> None:
    ask = asked(chat(n=3, max_tokens=10))
    fit(ask, (), ALL, CAPS)
    assert ask.most_tokens == 30 and ask.num_prompt_tokens > 12
    text = asked({"model": "law", "prompt": ["a", "b"], "n": 4, "max_tokens": 10}, "completion")
    fit(text, (), ALL, CAPS)
    assert text.most_tokens == 80
    long = asked(chat(messages=[{"role": "user", "content": "长" * 4000}]))
    fit(long, (Lens("a", "p", context=4096),), ALL, CAPS)
    assert long.reserve_tokens == 4096 and "max_tokens" not in long.body  # the engine answers to its context's end
    short = asked(chat())
    fit(short, (Lens("a", "p", context=4096),), ALL, CAPS)
    assert short.body["max_tokens"] == CAPS.answer_tokens
    with pytest.raises(RefusedError, match="context_length"):
        fit(asked(chat(max_tokens=3000)), (Lens("a", "p", context=2048),), ALL, CAPS)


def test_many_prompts_or_choices_do_not_slip_under_a_limit() -> None:
    """64 prompts were reserved as one context, eight choices of a long prompt as nothing beyond it."""
    lenses = (Lens("a", "p", context=1024),)
    for body, used in (
        ({"prompt": ["word " * 700] * 64, "max_tokens": 16}, 64 * (701 + 16)),
        ({"prompt": "word " * 410, "n": 8}, 411 + 8 * (1024 - 411)),
        ({"prompt": ["word " * 410] * 2, "n": 4}, 2 * 411 + 8 * (1024 - 411)),
    ):
        ask = asked({"model": "law"} | body, "completion")
        fit(ask, lenses, ALL, CAPS)
        assert used <= ask.reserve_tokens <= (1024 + 16) * 64


def test_prompts_come_as_text_or_ids_and_not_mixed() -> None:
    for prompt in ("x", ["x", "y"], [1, 2, 3], [[1, 2], [3]]):
        asked({"model": "law", "prompt": prompt}, "completion")
    for prompt in ("", [], [""], ["x", 1], [1, "x"], [-1], [[]], [2**30], {"x": 1}, None):
        refused({"model": "law", "prompt": prompt}, "completion")
    assert asked({"model": "law", "prompt": [1, 2, 3]}, "completion").num_prompt_tokens == 3


def test_deep_schemas_are_refused_without_recursion() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"properties": deep}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": deep}}
    assert refused(chat(response_format=shape)).code == "too_deep"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
NAMES = st.sampled_from([*RECORDS["chat"].fields, *RECORDS["completion"].fields, "user", "functions", "zzz"])


@given(st.dictionaries(NAMES, JSON, max_size=8), st.sampled_from(["chat", "completion", "embedding"]))
def test_no_body_does_anything_but_pass_or_be_refused(body: dict[str, Any], kind: Kind) -> None:
    try:
        ask = asked(body, kind)
        fit(ask, (), ALL, CAPS)
    except RefusedError as fault:
        assert fault.status == 400 and fault.to_json()["error"]["message"]


@given(
    st.fixed_dictionaries(
        {"model": st.just("law"), "messages": st.just([{"role": "user", "content": "x"}])},
        optional=dict.fromkeys(
            (
                "temperature",
                "top_p",
                "n",
                "stop",
                "seed",
                "tools",
                "tool_choice",
                "logit_bias",
                "user",
                "logprobs",
                "top_logprobs",
            ),
            JSON,
        ),
    )
)
def test_what_is_taken_is_what_is_documented(body: dict[str, Any]) -> None:
    schema = document(CAPS)["components"]["schemas"]["ChatRequest"]
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(body)
    try:
        asked(body)
    except RefusedError:
        assert not is_valid
    else:
        assert is_valid


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("", "'input': ''. Expected a string of at least 1 character(s)."),
        (["a", ""], "'input[1]': ''. Expected a string of at least 1 character(s)."),
        ([], "'input': []. Expected one of these types: string, array of strings, array of integers, array of arrays."),
        ([True], "'input': an array. Expected one of these types: string, array of strings,"),
        (True, "'input': true. Expected one of"),
        ({"a": 1}, "'input': an object. Expected one of"),
    ],
)
def test_a_refusal_says_what_would_have_done(given: Any, said: str) -> None:
    message = refused({"model": "law", "input": given}, "embedding").to_json()["error"]["message"]
    assert f"Invalid value for {said}" in message


def test_what_helps_is_a_clause_of_its_own() -> None:
    assert "masked here; send text" in RefusedError("serve.redact_ids").to_json()["error"]["message"]


def test_every_code_has_both_languages() -> None:
    assert set(load_room("gateway", "en")) == set(load_room("gateway", "zh"))


PHRASES = {
    "flag",
    "whole",
    "number",
    "number_above",
    "text",
    "text_from",
    "text_of",
    "one_of",
    "list",
    "list_of",
    "object",
    "other_type",
    "token_id",
}
"""Parts of `invalid_value`."""


@pytest.mark.parametrize(
    ("body", "can", "lens", "code"),
    [
        ({"input": "x"}, {}, {}, "cannot_embeddings"),
        ({"input": "x"}, {"embeddings": True}, {}, "cannot_embeddings"),  # llama.cpp gave the base's for an adapter
        ({"input": "x"}, {"embeddings": True}, {"is_base": True}, ""),
        ({"input": "x"}, {"adapter_embeddings": True}, {}, ""),
        ({"input": "x", "dimensions": 9}, {"adapter_embeddings": True}, {}, "cannot_dimensions"),
        ({"input": "x", "dimensions": 9}, {"adapter_embeddings": True, "dimensions": True}, {}, ""),
        (chat(tools=[TOOL]), {"tools": True}, {}, ""),
        (chat(tools=[TOOL]), {"tools": True}, {"takes_tools": False}, "cannot_tools"),
        (chat(tools=[TOOL], tool_choice="none"), {"tools": True}, {"takes_tools": False}, ""),
        (chat(tools=[TOOL]), {}, {}, "cannot_tools"),
        (chat(tools=[TOOL], tool_choice="required"), {"tools": True}, {}, "cannot_force_calls"),
        (chat(tools=[TOOL], tool_choice="required"), {"tools": True, "forced_calls": True}, {}, ""),
    ],
)
def test_what_an_engine_or_a_version_cannot_is_refused(
    body: dict[str, Any], can: dict[str, bool], lens: dict[str, bool], code: str
) -> None:
    ask = asked({"model": "law"} | body, "embedding" if "input" in body else "chat")
    one = Lens("law@1", "pool", context=100, **lens)
    try:
        fit(ask, (one, replace(one, is_base=True, takes_tools=True)), Can(loads_adapters=True, **can), CAPS)
    except RefusedError as refused:
        assert refused.code == code and refused.to_json()["error"]["message"]
    else:
        assert not code and ask.num_prompt_tokens <= 100


def test_a_forced_call_names_a_tool_that_is_there() -> None:
    choice = {"type": "function", "function": {"name": "prices"}}
    ask = asked(chat(tools=[TOOL], tool_choice=choice))
    with pytest.raises(RefusedError) as caught:
        fit(ask, (Lens("law@1", "pool"),), Can(loads_adapters=True, tools=True, forced_calls=True), CAPS)
    assert caught.value.code == "no_such_tool"
    assert "tool_choice" not in asked(chat(tool_choice=choice)).body


@pytest.mark.parametrize("page", ["api.md", "api.zh.md"])
def test_the_page_names_every_field_and_every_code(page: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "serving" / page).read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", text))
    for record in RECORDS.values():
        assert {*record.fields, *record.ignored, *record.unsupported} <= told
    assert {name.removesuffix("_near").removesuffix("_said") for name in load_room("gateway", "en")} - PHRASES <= told
