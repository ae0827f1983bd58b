"""What drivers say to start an engine, and how a request names its adapter; llama.cpp for real."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import stat
from pathlib import Path

import pytest
import yaml

import engine_kit as kit
from danlu.core.errors import EngineError, RunError
from danlu.openai.address import Address
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import EngineSpec, bare, endpoint
from danlu.serving.drivers.llamacpp import threads_for
from danlu.serving.drivers.requests import ask, socket_in
from danlu.serving.drivers.sglang import settings_of
from danlu.serving.drivers.tool_parsers import reads_calls, tool_parser
from danlu.serving.drivers.upstream import read_key
from danlu.serving.drivers.vllm import allowed_rank

SPEC = EngineSpec(
    Path("/models/base"), adapters={"law@1": Path("/models/law")}, speech=Path("/models/law"), context=4096,
    num_slots=32, max_rank=24, max_adapters=4,
)  # fmt: skip


@pytest.mark.parametrize("name", ["native", "llamacpp", "vllm", "sglang", "upstream"])
def test_each_driver_keeps_the_contract(name: str) -> None:
    driver = DRIVERS.load(name)()
    assert driver.name == name
    body = {"model": "law", "messages": [{"role": "user", "content": "q"}]}
    for engine_name in driver.engine_names(EngineSpec(None, name="base")).values():
        told = driver.address_body(body, engine_name)
        assert told["messages"] is body["messages"] and body["model"] == "law", "the client's request stays as it is"
        json.dumps(told)


@pytest.mark.parametrize("name", DRIVERS.names())
def test_who_quantises_bases_is_told_in_what(name: str, tmp_path: Path) -> None:
    driver = DRIVERS.load(name)()
    if not driver.about.quantizes_bases:
        assert name != "native"
        return
    words = list(driver.command(dataclasses.replace(SPEC, quantize="nf4"), tmp_path).argv)
    assert words[words.index("--quantize") + 1] == "nf4"
    assert "--quantize" not in driver.command(SPEC, tmp_path).argv


@pytest.mark.parametrize("name", ["native", "vllm", "sglang"])
def test_a_command_is_a_list_of_words_without_the_secret(name: str, tmp_path) -> None:
    command = DRIVERS.load(name)().command(SPEC, tmp_path)
    assert command is not None and all(isinstance(word, str) for word in command.argv)
    assert len(command.secret) >= 40
    assert command.secret not in " ".join(command.argv) + str(dict(command.env)) + command.address
    again = DRIVERS.load(name)().command(SPEC, tmp_path)
    assert again is not None and again.secret != command.secret


def test_vllm_is_started_as_its_documentation_says(tmp_path) -> None:
    words = DRIVERS.load("vllm")().command(SPEC, tmp_path).argv
    told = dict(itertools.pairwise(words))
    assert words[:5] == [words[0], "-m", "danlu.serving.drivers.keeper", "VLLM_API_KEY", "vllm"]
    assert told["serve"] == "/models/base" and told["--uds"] == str(tmp_path / "engine.sock")
    assert told["--tokenizer"] == told["--generation-config"] == "/models/law"
    assert told["--max-model-len"] == "4096" and told["--max-num-seqs"] == "32" and told["--max-loras"] == "4"
    assert told["--max-lora-rank"] == "32", "24 is no rank that vLLM keeps room for"
    assert "--enable-lora" in words and told["--lora-modules"] == "law@1=/models/law"
    assert not {"--trust-remote-code", "--api-key", "--host", "--enable-prompt-embeds"} & set(words)
    with pytest.raises(EngineError, match="513"):
        allowed_rank(513)


CALLS = {
    "{{ '<tool_call>\\n' }}": ("hermes", "qwen25"), "<tool_call>\n<function=x>\n<parameter=y>": ("qwen3_coder",) * 2,
    "[TOOL_CALLS] [": ("mistral",) * 2, '{"name": x, "parameters": y} <|python_tag|>': ("llama3_json", "llama3"),
    "<tool_call>f<arg_key>k</arg_key><arg_value>": ("glm45",) * 2, "<|im_start|>": ("", ""),
}  # fmt: skip


@pytest.mark.parametrize("template", CALLS)
def test_engines_are_told_how_the_model_writes_calls(template: str, tmp_path) -> None:
    """vLLM answers 400 to every request with tools otherwise, and to read them wrongly shows calls as text."""
    (tmp_path / "chat_template.jinja").write_text("{{ tools }}" + template)
    spec = EngineSpec(tmp_path, name="base")
    for name, parser in zip(("vllm", "sglang"), CALLS[template], strict=True):
        assert tool_parser(name, tmp_path) == parser and reads_calls(name, tmp_path) == bool(parser)
        assert reads_calls("native", tmp_path) and reads_calls("llamacpp", tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}<tool_call>")
    assert not any(reads_calls(name, tmp_path) for name in ("native", "llamacpp", "vllm"))
    (tmp_path / "chat_template.jinja").write_text("{{ tools }}" + template)
    words = DRIVERS.load("vllm")().command(spec, tmp_path / "engine").argv
    told = dict(itertools.pairwise(words))
    assert ("--enable-auto-tool-choice" in words) == bool(CALLS[template][0])
    assert told.get("--tool-call-parser", "") == CALLS[template][0]
    assert settings_of(spec, port=1).get("tool-call-parser", "") == CALLS[template][1]


def test_sglangs_settings_are_those_that_its_own_parser_takes(tmp_path) -> None:
    """Of 0.5.23, whose parser was asked; not run here: it needs a GPU. `lora-paths` in the file ends its start
    (`Unsupported config option 'lora_paths'`), so adapters of the start are arguments."""
    taken = {
        "model-path", "served-model-name", "host", "port", "load-format", "tokenizer-path", "chat-template",
        "context-length", "max-running-requests", "dtype", "enable-metrics", "log-level-http", "enable-lora",
        "max-lora-rank", "lora-target-modules", "max-loras-per-batch", "api-key",
        "tool-call-parser",
    }  # fmt: skip
    command = DRIVERS.load("sglang")().command(SPEC, tmp_path)
    assert command is not None
    path = tmp_path / "sglang.yaml"
    told = yaml.safe_load(path.read_text())
    assert set(told) <= taken
    assert told["api-key"] == command.secret and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert told["host"] == "127.0.0.1" and command.address == f"http://127.0.0.1:{told['port']}"
    assert command.argv[-2:] == ["--lora-paths", "law@1=/models/law"] and told["max-loras-per-batch"] == 4
    assert "enable-lora" not in settings_of(EngineSpec(Path("/models/merged"), max_adapters=0), port=1)


def test_how_a_request_names_its_adapter() -> None:
    def told(name: str, engine_name: str, **more) -> dict:
        return DRIVERS.load(name)().address_body({"model": "law", "messages": [], **more}, engine_name)

    assert told("vllm", "law@1")["model"] == "law@1"
    assert told("llamacpp", "lora:1")["lora"] == [{"id": 1, "scale": 1.0}] and told("llamacpp", "base")["lora"] == []
    assert told("sglang", "lora:law@1")["lora_path"] == "law@1" and "lora_path" not in told("sglang", "base")
    for name, engine_name in (("vllm", "law@1"), ("native", "law@1"), ("sglang", "lora:law@1"), ("sglang", "base")):
        streamed = told(name, engine_name, stream=True, stream_options={"include_usage": True})
        assert streamed["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}, name
    assert DRIVERS.load("llamacpp")().engine_names(SPEC) == {"": "base", "law@1": "lora:0"}


def test_addresses() -> None:
    assert endpoint("unix:/run/e.sock", "/chat/completions") == "http://engine/v1/chat/completions"
    assert endpoint("http://127.0.0.1:8000", "/models") == "http://127.0.0.1:8000/v1/models"
    assert endpoint("https://host/api/paas/v4/", "/models") == "https://host/api/paas/v4/models"
    assert bare("unix:/x", "/health") == "http://engine/health"


def test_a_socket_whose_path_is_too_long_lies_elsewhere(tmp_path) -> None:
    assert socket_in(tmp_path / "short") == tmp_path / "short" / "engine.sock"
    deep = tmp_path / ("d" * 90) / "engines"
    other = socket_in(deep)
    assert len(str(other)) < 100 and stat.S_IMODE(other.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "url",
    ["ftp://host/v1", "file:///etc/passwd", "http://", "http://me:pw@host/v1", "http://host/v1?x=1", "http://host/#a",
     "http://host:99999/v1", "http://ho st/v1", "gopher://x", "//host", "http://host\\@evil/v1", "http://ho\nst/"],
)  # fmt: skip
def test_urls_that_no_upstream_has(url: str) -> None:
    with pytest.raises(EngineError) as told:
        Address.parse(url)
    assert "pw" not in told.value.text


def test_an_upstreams_key_lies_in_a_file_of_its_owner(tmp_path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-abc\n")
    path.chmod(0o644)
    with pytest.raises(RunError, match="0644"):
        read_key(path)
    path.chmod(0o600)
    assert read_key(path) == "sk-abc"
    assert DRIVERS.load("upstream")().where(EngineSpec(None, url="http://127.0.0.1:11434/v1/", key_file=path)) == (
        "http://127.0.0.1:11434/v1", "sk-abc",
    )  # fmt: skip
    path.write_text("two words")
    with pytest.raises(EngineError):
        read_key(path)


def test_a_redirect_is_not_followed() -> None:
    """An upstream must not send us, and our key, anywhere else."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 307 T\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        driver = DRIVERS.load("upstream")()
        assert not await driver.is_ready(address, "key")
        assert (await ask(address, endpoint(address, "/models"), "key")).status == 307
        server.close()

    asyncio.run(story())
    assert len(seen) == 2 and all(b"/elsewhere" not in request for request in seen)


def test_threads() -> None:
    assert threads_for(10**6) == 1 and threads_for(10**10) >= 1


# ---- llama.cpp


@pytest.fixture(scope="module")
def llamacpp() -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")


def test_llamacpp_answers_behind_its_secret_and_per_adapter(llamacpp, tmp_path) -> None:
    pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
    from danlu.serving.drivers.base_gguf import base_file

    lora = {"one@1": kit.artefact("gguf-lora"), "two@1": kit.artefact("gguf-lora", 1)}
    file = base_file(kit.manifest_of("gguf-lora"), lora["one@1"], kit.base(), tmp_path / "bases")
    assert base_file(kit.manifest_of("gguf-lora"), lora["one@1"], kit.base(), tmp_path / "bases") == file
    expected = {name: kit.manifest_of("gguf-lora", seed).canaries for name, seed in (("one@1", 0), ("two@1", 1))}

    async def story() -> None:
        spec = EngineSpec(file, adapters=lora, context=256, num_slots=4)
        async with kit.running("llamacpp", spec, tmp_path / "engine") as engine:
            assert engine.address.startswith("unix:")
            place = Path(engine.address.removeprefix("unix:"))
            assert stat.S_IMODE(place.stat().st_mode) & 0o077 == 0
            for path in ("/v1/models", "/props", "/slots", "/lora-adapters", "/metrics", "/tokenize"):
                assert (await ask(engine.address, bare(engine.address, path), "wrong")).status == 401, path
            asked = [
                (lens, canary, engine.answer(lens, question, num_tokens=len(canary.answer_ids)))
                for _ in range(2)
                for number, question in enumerate(kit.QUESTIONS)
                for lens in ("one@1", "two@1")
                for canary in [next(c for c in expected[lens] if question in c.prompt)]
                if number < 3
            ]
            given = await asyncio.gather(*(answer for _, _, answer in asked))
            for (lens, canary, _), text in zip(asked, given, strict=True):
                assert text == canary.answer, f"{lens}: the other adapter's words, or a mixture"
            bare_base = await engine.answer("", kit.QUESTIONS[0])
            assert bare_base not in given and bare_base == await engine.answer("", kit.QUESTIONS[0])
            with pytest.raises(EngineError, match="at its start only"):
                await engine.driver.load(engine.address, engine.secret, "three@1", lora["one@1"])

    asyncio.run(story())
