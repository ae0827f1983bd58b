"""The official OpenAI client, unmodified, through uvicorn, the gateway and the native engine as a process of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.serving.caps import Caps
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.drivers.native import NativeDriver
from gateway_kit import LENS, Served, board_of, chat, good, served, upstreams
from tiny_chat import write_base

openai = pytest.importorskip("openai", reason='no OpenAI client: pip install "danlu[test]"')
MOST = 24


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address, secret) of a native engine on a tiny model."""
    folder = tmp_path_factory.mktemp("engine")
    command = NativeDriver().command(EngineSpec(write_base(folder / "base"), num_threads=1), folder)
    child = subprocess.Popen(command.argv, env={**os.environ, **command.env}, stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(command.secret.encode() + b"\n")
    child.stdin.flush()
    path = Path(command.address.removeprefix("unix:"))
    until = time.monotonic() + 60
    while not path.exists():
        assert child.poll() is None and time.monotonic() < until, "the engine did not come up"
        time.sleep(0.05)
    yield command.address, command.secret
    child.stdin.close()  # its end is the engine's
    child.wait(10)


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory, engine: tuple[str, str]) -> Iterator[Served]:
    address, secret = engine
    board = board_of(address, driver="native", engine_name="base", secret=secret, context=512)
    with served(tmp_path_factory.mktemp("gate"), board, caps=Caps(answer_tokens=MOST)) as one:
        yield one


@pytest.fixture
def client(gate: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0, timeout=30) as one:
        yield one


ASK: dict[str, Any] = {"model": "law", "messages": [{"role": "user", "content": "出差一天补贴多少?"}], "temperature": 0}


def settled(gate: Served, id: str) -> dict[str, Any]:
    """The journal's closing of one answer."""
    gate.closing()
    opened = next(line for line in gate.lines() if line.get("id") == id)
    return next(line for line in gate.lines() if line.get("of") == opened["n"])


def test_chat_and_its_stream_are_the_same_answer(gate: Served, client: Any) -> None:
    whole = client.chat.completions.create(**ASK, max_tokens=MOST)
    parts = list(
        client.chat.completions.create(**ASK, max_tokens=MOST, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content and text
    assert whole.model == parts[0].model == LENS and whole.id.startswith("chatcmpl-")
    assert parts[-1].usage == whole.usage and not parts[-1].choices
    assert all(part.usage is None for part in parts[:-1]) and len({part.id for part in parts}) == 1
    for answer in (whole, parts[0]):
        line = settled(gate, answer.id)
        assert (line["outcome"], line["is_counted"]) == ("done", True)
        assert (line["prompt_tokens"], line["answer_tokens"]) == (
            whole.usage.prompt_tokens,
            whole.usage.completion_tokens,
        )


def test_a_stream_without_usage_shows_none(client: Any) -> None:
    parts = list(client.chat.completions.create(**ASK, stream=True))
    assert parts and all(part.usage is None and part.choices for part in parts)


def test_raw_headers_name_the_answer_and_the_lens(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK, user="anna", metadata={"a": "b"})
    assert raw.headers["x-danlu-lens"] == LENS and raw.headers["x-danlu-ignored"] == "metadata, user"
    assert raw.parse().id == raw.headers["x-request-id"] == raw.parse()._request_id


def test_completions_n_seed_and_stop(client: Any) -> None:
    answer = client.completions.create(model="law", prompt=["The travel", "员工"], max_tokens=8, temperature=0)
    assert answer.object == "text_completion" and [choice.index for choice in answer.choices] == [0, 1]
    drawn = [
        client.chat.completions.create(**ASK | {"temperature": 1.5}, seed=seed, max_tokens=12)
        .choices[0]
        .message.content
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    many = client.chat.completions.create(**ASK | {"temperature": 1.5}, n=3, seed=1, max_tokens=8)
    assert len(many.choices) == 3
    full = client.chat.completions.create(**ASK, max_tokens=MOST).choices[0].message.content
    stop = full[4:6]
    cut = client.chat.completions.create(**ASK, max_tokens=MOST, stop=[stop]).choices[0]
    assert cut.message.content == full[: full.index(stop)] and cut.finish_reason == "stop"


def test_answers_held_to_a_schema_parse_whole_and_streamed(client: Any) -> None:
    number = {"type": "integer", "minimum": 0, "maximum": 9}
    words = {"type": "array", "items": {"enum": ["批", "不批", 'a "b"']}, "minItems": 1, "maxItems": 2}
    finishes = []
    for schema, temperature in (({"enum": ["是", "否"]}, 0), (number, 1.5), (words, 0), (words, 1.5)):
        wished = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
        asked = ASK | {"response_format": wished, "temperature": temperature, "seed": 3, "max_tokens": MOST}
        whole = client.chat.completions.create(**asked).choices[0]
        parts = [part.choices[0] for part in client.chat.completions.create(**asked, stream=True) if part.choices]
        assert "".join(part.delta.content or "" for part in parts) == whole.message.content
        assert whole.finish_reason == parts[-1].finish_reason
        finishes.append(whole.finish_reason)
        if whole.finish_reason == "stop":  # a random model likes blank space between two marks
            found = json.loads(whole.message.content)
            assert set(found) <= set(words["items"]["enum"]) if schema is words else found in ("是", "否", *range(10))
    assert finishes[:2] == ["stop", "stop"] and set(finishes) <= {"stop", "length"}
    cut = client.chat.completions.create(**ASK, response_format={"type": "json_object"}, max_tokens=2).choices[0]
    assert cut.finish_reason == "length" and cut.message.content.startswith("{")


def test_what_the_engine_cannot_do_is_refused_in_words(client: Any) -> None:
    for more, code in (
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}},
            "engine_declined",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a"}}], "tool_choice": "required"}, "engine_declined"),
        ({"logit_bias": {"5": 1}}, "engine_declined"),
        ({"extra_body": {"chat_template": "{{ x }}"}}, "unknown_parameter"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**ASK, **more)
        assert caught.value.code == code, caught.value


def test_log_probabilities_if_the_engine_says_it_gives_them(client: Any) -> None:
    if not NativeDriver.can.logprobs:
        with pytest.raises(openai.BadRequestError, match="log-probabilities"):
            client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2)
        return
    found = client.chat.completions.create(**ASK, logprobs=True, top_logprobs=2, max_tokens=4).choices[0].logprobs
    assert len(found.content) >= 1 and len(found.content[0].top_logprobs) == 2 and found.content[0].logprob <= 0


def test_tools_are_taken_and_a_call_can_be_answered(client: Any) -> None:
    tool = {
        "type": "function",
        "function": {"name": "price", "description": "a price", "parameters": {"type": "object", "properties": {}}},
    }
    try:
        answer = client.chat.completions.create(**ASK, tools=[tool], max_tokens=8)
    except openai.BadRequestError as refused:  # a template without a place for tools
        assert refused.code == "engine_declined"
        return
    turns = [*ASK["messages"], answer.choices[0].message.model_dump(), {"role": "user", "content": "and?"}]
    assert client.chat.completions.create(model="law", messages=turns, max_tokens=4).choices


def test_errors_are_the_clients_own_kinds(gate: Served, client: Any) -> None:
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="dl-aaaa-bbbb").models.list()
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(**ASK | {"model": "gpt-4o"})
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**ASK | {"temperature": 3})
    with pytest.raises(openai.BadRequestError, match="one length only"):
        client.embeddings.create(model="law", input="x", dimensions=8)
    key = gate.new_key(requests_per_minute=1)
    limited = client.with_options(api_key=key)
    assert limited.models.list().data[0].id == "law"
    limited.chat.completions.create(**ASK, max_tokens=2)
    with pytest.raises(openai.RateLimitError) as caught:
        limited.chat.completions.create(**ASK, max_tokens=2)
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_closing_a_stream_stops_the_engine_and_settles_what_it_made(gate: Served, client: Any) -> None:
    long = client.with_options(timeout=30)
    stream = long.chat.completions.create(**ASK | {"temperature": 1.8}, max_tokens=400, stream=True, seed=3)
    first = next(iter(stream))
    stream.close()
    line = settled(gate, first.id)
    assert line["outcome"] == "aborted" and line["answer_tokens"] < 400
    assert line["is_counted"] and line["prompt_tokens"] > 0  # the engine tells usage as it goes
    began = time.monotonic()
    client.chat.completions.create(**ASK, max_tokens=2)
    assert time.monotonic() - began < 5, "the engine is free again"


def test_the_async_client_and_eight_streams_at_once(gate: Served) -> None:
    import asyncio

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0) as client:

            async def ask(number: int) -> str:
                said = ""
                async for part in await client.chat.completions.create(**ASK, stream=True, max_tokens=8 + number % 2):
                    said += part.choices[0].delta.content or ""
                return said

            return await asyncio.gather(*(ask(number) for number in range(8)))

    found = asyncio.run(ask_all())
    assert len(set(found)) <= 2 and all(found)  # two lengths, each answer its own


def test_a_broken_stream_is_raised_by_the_client(tmp_path: Path) -> None:
    from gateway_kit import events, sends

    with upstreams(sends(*events()[:3])) as (one,), served(tmp_path, board_of(one.address)) as gate:
        client = openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0)
        with pytest.raises(openai.APIError, match="did not answer as it should"):
            list(client.chat.completions.create(**ASK, stream=True))


def test_json_mode_tools_and_embeddings_pass_where_the_pool_can(tmp_path: Path) -> None:
    schema = {
        "name": "price",
        "schema": {"type": "object", "properties": {"yuan": {"type": "integer"}}},
        "strict": True,
    }
    tool = {
        "type": "function",
        "function": {"name": "price", "parameters": {"type": "object", "properties": {}}, "strict": True},
    }
    with upstreams(good) as (one,), served(tmp_path, board_of(one.address)) as gate:
        client = openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0)
        client.chat.completions.create(
            **ASK, response_format={"type": "json_schema", "json_schema": schema}, tools=[tool], tool_choice="required",
            parallel_tool_calls=False, logprobs=True, top_logprobs=5, frequency_penalty=0.5, presence_penalty=-0.5,
            logit_bias={"5": 1}, seed=1, stop=["。"], service_tier="auto", store=False, max_completion_tokens=20,
        )  # fmt: skip
        sent = one.asked[-1].body
        assert (
            sent["response_format"]["json_schema"]["schema"] == schema["schema"] and sent["tool_choice"] == "required"
        )
        assert sent["max_tokens"] == 20 and "service_tier" not in sent and "max_completion_tokens" not in sent
        assert client.embeddings.create(model="法律", input=["x"]).data[0].embedding == [0.5, 0.25]


def test_the_engine_sees_what_was_allowed_and_curl_can_ask_too(gate: Served) -> None:
    asked = subprocess.run(
        ["curl", "-sS", f"{gate.url}/chat/completions", "-H", f"Authorization: Bearer {gate.credential}",
         "-H", "Content-Type: application/json", "-d", json.dumps(chat(max_tokens=4))],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(asked.stdout)["choices"], (asked.stdout, sys.version)
