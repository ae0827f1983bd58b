"""What has happened to others' engines, each as a test: pickles, remote code, shells, headers that lie, dead engines."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import engine_kit as kit
from danlu.core.errors import DanluError, EngineError
from danlu.exports.verify import verify
from danlu.serving.drivers import DRIVERS
from danlu.serving.drivers.driver import EngineSpec, bare
from danlu.serving.drivers.gguf_header import check_gguf
from danlu.serving.drivers.requests import ask
from danlu.serving.processes import Patience
from waiting_kit import until


@pytest.fixture(scope="module")
def gguf() -> Path:
    pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
    (path,) = kit.artefact("gguf-f32").glob("*.gguf")
    return path


# ---- 8: pickles


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/danlu-was-here"),))  # would run if it were ever loaded


def test_incident_8_a_pickle_by_any_name_reaches_no_engine(tmp_path) -> None:
    """CVE-2025-32434, CVE-2026-24747, CVE-2025-62164: what is no safetensors is refused by its content."""
    folder = tmp_path / "adapter"
    shutil.copytree(kit.artefact("adapter"), folder)
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DanluError):
        verify(folder)

    async def story() -> None:
        async with kit.running("native", EngineSpec(kit.base(), context=256), tmp_path / "engine") as engine:
            with pytest.raises(EngineError):
                await engine.driver.load(engine.address, engine.secret, "bomb@1", folder)
            assert await engine.driver.is_ready(engine.address, engine.secret), "and it goes on answering"

    asyncio.run(story())
    assert not Path("/tmp/danlu-was-here").exists()


def test_incident_8_other_engines_are_told_to_read_safetensors_only(tmp_path) -> None:
    spec = EngineSpec(Path("/m"))
    words = list(DRIVERS.load("vllm")().command(spec, tmp_path).argv)
    assert words[words.index("--load-format") + 1] == "safetensors" and "--enable-prompt-embeds" not in words
    DRIVERS.load("sglang")().command(spec, tmp_path)
    assert "load-format: safetensors" in (tmp_path / "sglang.yaml").read_text()


# ---- 9: remote code


def test_incident_9_a_model_that_brings_its_own_code_is_not_served(tmp_path) -> None:
    """CVE-2026-22807: `auto_map` was run although trust_remote_code was False."""
    folder = tmp_path / "model"
    shutil.copytree(kit.base(), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text("import pathlib; pathlib.Path('/tmp/danlu-was-here').touch()")

    async def story() -> None:
        with pytest.raises(EngineError, match="did not start"):
            async with kit.running("native", EngineSpec(folder), tmp_path / "engine"):
                pass

    asyncio.run(story())
    assert not Path("/tmp/danlu-was-here").exists()
    for name in ("vllm", "sglang"):
        command = DRIVERS.load(name)().command(EngineSpec(folder), tmp_path)
        said = " ".join(command.argv) + "".join(path.read_text() for path in tmp_path.glob("*.yaml"))
        assert "trust" not in said and not {"-c", "eval"} & set(command.argv)


# ---- 10: shells


@pytest.mark.parametrize("name", ["native", "llamacpp", "vllm", "sglang"])
def test_incident_10_a_folder_named_like_a_command_stays_a_folder(name: str, gguf: Path, tmp_path) -> None:
    """CVE-2024-52803: a path went into a shell."""
    place = tmp_path / "$(touch pwned); `touch pwned` --trust-remote-code"
    place.mkdir()
    shutil.copy(gguf, place / "model.gguf")
    folder = tmp_path / "engine"
    command = DRIVERS.load(name)().command(EngineSpec(place, name="base; touch pwned"), folder)
    written = [yaml.safe_load(path.read_text()) for path in (*folder.glob("*.yaml"), *folder.glob("*.json"))]
    told = [*command.argv, *(value for each in written for value in each.values())]
    assert str(place) in told or str(place / "model.gguf") in told
    assert not any(word in ("sh", "bash", "-c", "/bin/sh", "--trust-remote-code") for word in command.argv)


# ---- 14: llama.cpp and files that lie


def spoilt(gguf: Path, to: Path, at: int, content: bytes) -> Path:
    data = bytearray(gguf.read_bytes())
    data[at : at + len(content)] = content
    to.write_bytes(data)
    return to


def test_incident_14_what_we_write_passes(gguf: Path) -> None:
    header = check_gguf(gguf)
    assert header.kind == "model" and header.architecture == "qwen2" and header.context and header.is_f32
    (lora,) = kit.artefact("gguf-lora").glob("*.gguf")
    assert check_gguf(lora).kind == "adapter"


HUGE = struct.pack("<Q", 2**64 - 1)


@pytest.mark.parametrize(
    ("at", "content"),
    [(0, b"GGML"), (4, struct.pack("<I", 2)), (8, HUGE), (16, HUGE), (8, struct.pack("<Q", 2**61)), (24, HUGE),
     (16, struct.pack("<Q", 10**6))],
    ids=["magic", "version", "tensors", "keys", "a product that overflows", "a name's length", "keys beyond the end"],
)  # fmt: skip
def test_incident_14_counts_that_overflow_are_not_believed(gguf: Path, tmp_path, at: int, content: bytes) -> None:
    """CVE-2025-53630, CVE-2026-27940: sums of sizes from the header overflowed, and memory beyond was written."""
    with pytest.raises(EngineError, match=r"llama\.cpp is not shown it") as told:
        check_gguf(spoilt(gguf, tmp_path / "bad.gguf", at, content))
    assert told.value.key == "drivers.bad_gguf"


def tensor_at(gguf: Path, name: bytes) -> int:
    """Where the header tells of a tensor: just after its name."""
    return gguf.read_bytes().index(struct.pack("<Q", len(name)) + name) + 8 + len(name)


def test_incident_14_tensors_lie_within_the_file(gguf: Path, tmp_path) -> None:
    """CVE-2026-7482: three requests read the heap through a tensor that was larger than its file."""
    at = tensor_at(gguf, b"output_norm.weight")
    num_axes = struct.unpack("<I", gguf.read_bytes()[at : at + 4])[0]
    assert num_axes == 1
    for place, content in (
        (at, struct.pack("<I", 9)), (at + 4, struct.pack("<Q", 2**62)), (at + 4, struct.pack("<Q", 0)),
        (at + 12, struct.pack("<I", 99)), (at + 16, struct.pack("<Q", 2**63)), (at + 16, struct.pack("<Q", 7)),
        (at + 4, struct.pack("<Q", 10**7)),
    ):  # fmt: skip
        with pytest.raises(EngineError):
            check_gguf(spoilt(gguf, tmp_path / "bad.gguf", place, content))
    truncated = tmp_path / "short.gguf"
    truncated.write_bytes(gguf.read_bytes()[:-1000])
    with pytest.raises(EngineError):
        check_gguf(truncated)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(EngineError):
        check_gguf(tmp_path / "empty.gguf")


@settings(max_examples=150)
@given(data=st.data())
def test_incident_14_no_header_breaks_the_parser(data) -> None:
    """Any bytes anywhere: an error for people or a header, never a crash, and never more memory than the file has."""
    pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
    (path,) = kit.artefact("gguf-lora").glob("*.gguf")
    content = bytearray(path.read_bytes()[:20_000])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(1500, len(content) - 9)))
        content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    target = kit.home() / "fuzzed.gguf"
    target.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        check_gguf(target)
    except EngineError as told:
        assert told.key == "drivers.bad_gguf"


def test_incident_14_the_file_is_read_before_llamacpp_is_started(gguf: Path, tmp_path) -> None:
    bad = spoilt(gguf, tmp_path / "bad.gguf", 8, HUGE)
    with pytest.raises(EngineError, match="does not hold together"):
        DRIVERS.load("llamacpp")().command(EngineSpec(bad), tmp_path / "engine")
    with pytest.raises(EngineError, match="an adapter for qwen2, not model qwen2"):
        DRIVERS.load("llamacpp")().command(EngineSpec(gguf, adapters={"x": gguf}), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_incident_14_llamacpp_is_behind_a_socket_and_a_secret(gguf: Path, tmp_path) -> None:
    """Its SECURITY.md: not for untrusted networks."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")

    async def story() -> None:
        async with kit.running("llamacpp", EngineSpec(gguf, context=128), tmp_path / "engine") as engine:
            assert engine.address.startswith("unix:")
            body = {"messages": [{"role": "user", "content": "q"}]}
            assert (await ask(engine.address, bare(engine.address, "/v1/chat/completions"), "", body)).status == 401
            assert (await ask(engine.address, bare(engine.address, "/"), engine.secret)).status in (401, 404)
            tables = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
            inodes = {line.split()[9] for line in tables.splitlines() if ":" in line and line.split()[3] == "0A"}
            assert engine.child is not None
            links = [p.readlink() for p in Path(f"/proc/{engine.child.pid}/fd").iterdir() if p.is_symlink()]
            mine = {str(link)[8:-1] for link in links if str(link).startswith("socket:[")}
            assert not inodes & mine, "it listens on no port"
            status = Path(f"/proc/{engine.child.pid}/status").read_text()
            assert "NoNewPrivs:\t1" in status

    asyncio.run(story())


# ---- 15: engines die


def test_incident_15_a_dead_engine_is_back(gguf: Path, tmp_path) -> None:
    """vLLM's core died of one request, and every later one failed until somebody looked."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")

    async def story() -> None:
        patience = Patience(ready_s=60, ask_every_s=0.1, first_wait_s=0.1)
        async with kit.running(
            "llamacpp", EngineSpec(gguf, context=128), tmp_path / "engine", patience=patience
        ) as engine:
            before = await engine.answer("", kit.QUESTIONS[0], num_tokens=8)
            child = engine.child
            assert child is not None
            pid = child.pid
            await child.kill()
            await until(lambda: child.state == "ready" and child.pid != pid)
            assert await engine.answer("", kit.QUESTIONS[0], num_tokens=8) == before, "same address, same secret"
            assert child.facts.num_failures == 1 and "SIGKILL" in child.facts.last_end

    asyncio.run(story())


def test_incident_15_a_bad_adapter_is_refused_at_its_loading_and_the_engine_lives(tmp_path) -> None:
    """vllm#10546: a bad adapter that was loaded lazily bricked the engine."""
    bad = tmp_path / "bad"
    shutil.copytree(kit.artefact("adapter"), bad)
    whole = (bad / "adapter_model.safetensors").read_bytes()
    (bad / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])

    async def story() -> None:
        spec = EngineSpec(kit.base(), speech=kit.artefact("adapter"), context=256)
        async with kit.running("native", spec, tmp_path / "engine") as engine:
            driver, at = engine.driver, (engine.address, engine.secret)
            for folder in (bad, tmp_path / "nowhere", kit.base()):
                with pytest.raises(EngineError):
                    await driver.load(*at, "bad@1", folder)
            engine.names["good@1"] = await driver.load(*at, "good@1", kit.artefact("adapter"))
            assert await engine.answer("good@1", kit.QUESTIONS[3]) == kit.ANSWERS[0][3]
            await driver.drop(*at, engine.names["good@1"])
            with pytest.raises(EngineError):
                await engine.answer("good@1", kit.QUESTIONS[0])
            assert await driver.is_ready(*at)

    asyncio.run(story())
