"""Tools, formats and long prompts through a real vLLM behind the gateway: a minute to start, so not in every run."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engine_kit as kit
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import EngineSpec
from engine_gate import PLACE, TOOLS, gateway_before, tooled
from gateway_kit import Served

jsonschema = pytest.importorskip("jsonschema")
openai = pytest.importorskip("openai", reason="the official client: pip install openai")
pytestmark = pytest.mark.slow

CONTEXT = 512
ASK = {"model": "law", "messages": [{"role": "user", "content": "?"}], "max_tokens": 300, "seed": 1}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """DANLU_VLLM is the Python of an environment with vLLM (on a CPU: the build for it)."""
    python = os.environ.get("DANLU_VLLM", "")
    if not python:
        pytest.skip("no environment with vLLM is named (DANLU_VLLM=/path/to/python)")
    folder = tmp_path_factory.mktemp("vllm")
    spec = EngineSpec(
        tooled(kit.base(), folder / "model"), context=CONTEXT, num_slots=4, max_adapters=0, dtype="float32",
        python=python, device="cpu",
    )  # fmt: skip
    with gateway_before("vllm", folder, spec, ready_s=500) as found:
        yield found


@pytest.fixture
def client(gate: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0, timeout=120) as found:
        yield found


def test_tools_are_rendered_as_training_does(gate: Served) -> None:
    (replica,) = gate.gateway.router.board.replicas
    body = {"messages": ASK["messages"], "tools": TOOLS}
    asked = DRIVERS.load("vllm")().prompt_ids(replica.address, replica.secret, body, "base")
    folder = Path(replica.address.removeprefix("unix:")).parents[1] / "model"
    tokenizer = Tokenizer.load(folder)
    ours = Encoder(tokenizer, Template.load(folder, tokenizer)).encode_prompt((Message("user", "?"),), TOOLS)
    assert asyncio.run(asked) == ours


@pytest.mark.parametrize("is_stream", [False, True])
def test_tools_are_taken_and_forced_calls_fit(client: Any, is_stream: bool) -> None:
    """vLLM holds arguments to their schema where the tool says so."""
    strict = [{"type": "function", "function": tool["function"] | {"strict": True}} for tool in TOOLS]
    free = client.chat.completions.create(**ASK, tools=TOOLS, stream=is_stream)
    assert list(free) if is_stream else free.choices
    named = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(**ASK, tools=strict, tool_choice=named, stream=is_stream)
    if is_stream:
        calls = [call for part in answer for choice in part.choices for call in choice.delta.tool_calls or ()]
        text = "".join(call.function.arguments or "" for call in calls)
        assert calls[0].function.name == "weather"
    else:
        (call,) = answer.choices[0].message.tool_calls
        text = call.function.arguments
        assert call.function.name == "weather" and call.id
    jsonschema.validate(json.loads(text), PLACE)


def test_formats_are_held(client: Any) -> None:
    wished = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
    found = client.chat.completions.create(**ASK, response_format=wished).choices[0]
    assert found.finish_reason == "stop"
    jsonschema.validate(json.loads(found.message.content), PLACE)


def test_long_prompts_and_what_it_does_not_make(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**ASK | {"messages": [{"role": "user", "content": "报销 " * CONTEXT}]})
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages"), caught.value
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(model="law", input="x")
    assert caught.value.code == "cannot_embeddings"
    answer = client.chat.completions.create(**ASK | {"max_tokens": 3})
    assert not answer.model_extra and not any(choice.model_extra for choice in answer.choices), answer
