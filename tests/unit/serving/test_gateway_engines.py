"""The gateway before real engines, asked by the official client: embeddings, tools, prompts that are too long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import engine_kit as kit
from danlu.serving.drivers.driver import EngineSpec
from engine_gate import CONTEXT, DAY, PLACE, TOOLS, gateway_before, spec_of, tooled
from gateway_kit import LENS, Served

jsonschema = pytest.importorskip("jsonschema")
openai = pytest.importorskip("openai", reason="the official client: pip install openai")

ENGINES = ("native", "llamacpp")


@pytest.fixture(scope="module", params=ENGINES)
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with gateway_before(request.param, tmp_path_factory.mktemp(request.param), spec_of(request.param)) as found:
        yield found


@pytest.fixture
def client(gate: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0) as found:
        yield found


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_prompt_that_is_too_long_gets_openais_code(client: Any, gate: Served, is_stream: bool) -> None:
    """Clients cut their history by this code; each engine says it in words of its own."""
    turns = [{"role": "user", "content": "报销 " * CONTEXT}]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="law", messages=turns, stream=is_stream, max_tokens=8)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
    assert str(CONTEXT) in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="law", prompt="报销 " * CONTEXT, stream=is_stream, max_tokens=8)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert client.chat.completions.create(model="law", messages=[{"role": "user", "content": "?"}], max_tokens=2)


def test_an_answer_has_openais_fields_only(client: Any) -> None:
    """llama.cpp adds `timings`, and its build."""
    asked = {"model": "law", "messages": [{"role": "user", "content": "?"}], "max_tokens": 3}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for said in (whole, *parts):
        assert not said.model_extra and said.system_fingerprint is None, said
        assert not any(choice.model_extra for choice in said.choices)
        assert said.model == LENS
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 3


@pytest.mark.parametrize("gate", ["llamacpp"], indirect=True)
def test_an_engine_without_embeddings_says_so(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="law", input="x")
    assert (caught.value.code, caught.value.param) == ("cannot_embeddings", "input")


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The native engine's client; a template that takes tools."""
    folder = tmp_path_factory.mktemp("tools")
    spec = EngineSpec(
        tooled(kit.artefact("merged"), folder / "model"), context=CONTEXT * 2, num_threads=1, dtype="float32"
    )
    with gateway_before("native", folder, spec) as gate, openai.OpenAI(
        base_url=gate.url, api_key=gate.credential, max_retries=0
    ) as found:  # fmt: skip
        yield found


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "weather", "calendar"])
def test_a_call_that_is_asked_for_comes_and_fits_its_tool(native: Any, choice: str, is_stream: bool) -> None:
    """A model that would never call: its answer is held to the call, whatever it would rather say."""
    pytest.importorskip("llguidance", reason='no grammars: pip install "danlu[serve]"')
    forced = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    schemas = {"weather": PLACE, "calendar": DAY}
    for seed in range(4):
        asked = {"model": "law", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS, "tool_choice": forced}
        asked |= {"temperature": 0.8, "seed": seed, "max_tokens": 360}
        if is_stream:
            parts = [part.choices[0] for part in native.chat.completions.create(**asked, stream=True) if part.choices]
            said, finish = "".join(part.delta.content or "" for part in parts), parts[-1].finish_reason
            calls = [call for part in parts for call in part.delta.tool_calls or ()]
        else:
            answer = native.chat.completions.create(**asked).choices[0]
            said, finish, calls = answer.message.content or "", answer.finish_reason, answer.message.tool_calls or []
        if finish == "length":  # a random model likes blank space between two marks
            continue
        assert finish == ("tool_calls" if choice == "required" else "stop") and not said and len(calls) == 1
        assert choice in ("required", calls[0].function.name) and calls[0].id.startswith("call_")
        jsonschema.validate(json.loads(calls[0].function.arguments), schemas[calls[0].function.name])
        return
    raise AssertionError(f"no answer came to its end: {said}")


def test_what_no_call_can_be(native: Any) -> None:
    asked = {"model": "law", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS, "max_tokens": 4}
    for more, code in (
        ({"tool_choice": {"type": "function", "function": {"name": "wether"}}}, "no_such_tool"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "engine_declined"),
        ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "x", "parameters": {"not": {}}}}]}, "engine_declined"),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as caught:
            native.chat.completions.create(**asked | more)
        assert caught.value.code == code
    for more in ({"tool_choice": "none"}, {"parallel_tool_calls": False}, {"tool_choice": "auto"}):
        assert native.chat.completions.create(**asked | more).choices[0].finish_reason in ("length", "stop")


def test_formats_are_held_by_both(client: Any) -> None:
    wished = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    asked = {"model": "law", "messages": [{"role": "user", "content": "?"}], "temperature": 0, "max_tokens": 200}
    found = client.chat.completions.create(**asked, response_format=wished).choices[0]
    if found.finish_reason == "stop":  # a small model likes blank space between two marks
        jsonschema.validate(json.loads(found.message.content), PLACE)
    assert found.message.content.lstrip().startswith("{")


@pytest.mark.parametrize("gate", ["llamacpp"], indirect=True)
def test_a_call_that_cannot_be_made_sure_of_is_refused(client: Any) -> None:
    """llama.cpp takes `required` and lets text come first, to the answer's limit where the model would not call. The
    vLLM side is in tests/slow."""
    asked = {"model": "law", "messages": [{"role": "user", "content": "?"}], "tools": TOOLS[1:], "max_tokens": 9}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked, tool_choice="required")
    assert (caught.value.code, caught.value.param) == ("cannot_force_calls", "tool_choice")
    assert client.chat.completions.create(**asked).choices
