"""A gateway before a real engine: small models of `engine_kit`, the gateway of `gateway_kit`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import engine_kit as kit
from danlu.serving.drivers.driver import EngineSpec
from gateway_kit import Loop, Served, board_of, served

CONTEXT = 256


@contextmanager
def gateway_before(name: str, folder: Path, spec: EngineSpec) -> Iterator[Served]:
    loop = Loop()
    engine = kit.running(name, spec, folder / "engine")
    try:
        running = asyncio.run_coroutine_threadsafe(engine.__aenter__(), loop.loop).result(120)
        names = running.driver.engine_names(spec)
        board = board_of(
            running.address, driver=name, context=spec.context, engine_name=names[""], secret=running.secret
        )  # fmt: skip
        board = replace(board, lenses=tuple(replace(lens, is_base=True) for lens in board.lenses))
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
