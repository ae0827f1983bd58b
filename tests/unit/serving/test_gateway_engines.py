"""The gateway before real engines, asked by the official client: embeddings, tools, prompts that are too long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import engine_kit as kit
from danlu.serving.drivers.driver import EngineSpec
from gateway_kit import LENS, Loop, Served, board_of, served

openai = pytest.importorskip("openai", reason="the official client: pip install openai")

ENGINES = ("native", "llamacpp")
CONTEXT = 256


@contextmanager
def gateway_before(name: str, folder: Path, spec: EngineSpec) -> Iterator[Served]:
    loop = Loop()
    engine = kit.running(name, spec, folder / "engine")
    try:
        running = asyncio.run_coroutine_threadsafe(engine.__aenter__(), loop.loop).result(120)
        names = running.driver.engine_names(spec)
        board = board_of(
            running.address, driver=name, context=CONTEXT, engine_name=names[""], secret=running.secret
        )  # fmt: skip
        with served(folder, board) as gate:
            yield gate
        asyncio.run_coroutine_threadsafe(engine.__aexit__(None, None, None), loop.loop).result(30)
    finally:
        loop.stop()


def spec_of(name: str) -> EngineSpec:
    if name == "llamacpp":
        pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
        pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
        return EngineSpec(kit.artefact("gguf-f32"), context=CONTEXT, num_slots=2)
    return EngineSpec(kit.artefact("merged"), context=CONTEXT, num_threads=1, dtype="float32")


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
