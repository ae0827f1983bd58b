"""One base, two experts on it, every engine: the same 32 greedy tokens as transformers', each expert its own, and the
wrong one not let through the door."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine_kit as kit
import parity_trial as trial
from danlu.core.errors import EngineError
from danlu.serving.drivers.driver import EngineSpec, bare
from danlu.serving.drivers.requests import ask
from danlu.serving.engine_check import check_engine

pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")


@pytest.fixture(scope="module")
def expected() -> Iterator[trial.Found]:
    found = trial.oracle()
    longest = [text for (_, text), (_, num) in found.answers.items() if num == kit.NUM_TOKENS]
    assert len(longest) >= 5, "some answers are longer than what is asked for"
    assert len(set(found.answers.values())) >= 10, "each expert says its own"
    yield found


@pytest.mark.parametrize("name", ["native", "llamacpp-f32", "llamacpp-bf16"])
def test_32_greedy_tokens_are_transformers_own(name: str, expected: trial.Found, tmp_path: Path) -> None:
    found = asyncio.run(trial.through(name, tmp_path))
    assert trial.apart(expected.answers, found.answers) == []
    assert set(found.grades.values()) == {"ids"} and set(found.canaries.values()) == {"4/4"}


def test_an_expert_under_anothers_name_is_not_let_through(tmp_path: Path) -> None:
    """Native engine, running: loaded, checked, swapped for a new version, dropped."""

    async def story() -> None:
        spec = EngineSpec(kit.base(), speech=kit.artefact("adapter"), context=256, num_threads=1, dtype="float32")
        async with kit.running("native", spec, tmp_path / "engine") as engine:
            at = (engine.driver, engine.address, engine.secret)
            wrong = await engine.driver.load(engine.address, engine.secret, "law@2", kit.artefact("adapter", 1))
            with pytest.raises(EngineError, match="4 of 4 canaries"):
                await check_engine(*at, kit.manifest_of("adapter", 0), wrong, kit.artefact("adapter", 0))
            right = await engine.driver.load(engine.address, engine.secret, "客服@3", kit.artefact("adapter", 0))
            grade = await check_engine(*at, kit.manifest_of("adapter", 0), right, kit.artefact("adapter", 0))
            assert grade.level == "ids" and grade.canaries.num_equal == 4
            await engine.driver.drop(engine.address, engine.secret, right)
            for path in ("/ready", "/metrics", "/v1/models", "/tokenize"):
                assert (await ask(engine.address, bare(engine.address, path), "wrong")).status in (401, 403), path

    asyncio.run(story())


@pytest.mark.slow
def test_vllm_for_real(expected: trial.Found, tmp_path: Path) -> None:
    """DANLU_VLLM is the Python of an environment with vLLM (on a CPU: the build for it)."""
    python = os.environ.get("DANLU_VLLM", "")
    if not python:
        pytest.skip("no environment with vLLM is named (DANLU_VLLM=/path/to/python)")
    found = asyncio.run(trial.through("vllm", tmp_path, vllm=python))
    assert trial.apart(expected.answers, found.answers) == []
    assert set(found.grades.values()) == {"ids"} and set(found.canaries.values()) == {"4/4"}
