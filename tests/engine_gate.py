"""A gateway before a real engine: small models of `engine_kit`, the gateway of `gateway_kit`."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import engine_kit as kit
from danlu.serving.drivers.driver import EngineSpec
from danlu.serving.processes import Patience
from gateway_kit import Loop, Served, board_of, served

CONTEXT = 256
TOOLED = (
    "{%- if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool.function.name }}\n{% endfor %}"
    "Call as <tool_call>{...}</tool_call><|im_end|>\n{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with tools as Hermes models are trained on them."""
PLACE = {"type": "object", "properties": {"city": {"enum": ["京", "沪"]}, "near": {"$ref": "#/$defs/km"}},
         "required": ["city", "near"], "additionalProperties": False, "$defs": {"km": {"type": "integer", "minimum": 1, "maximum": 9}}}  # fmt: skip
DAY = {"type": "object", "properties": {"day": {"type": "string", "maxLength": 3}}, "required": ["day"],
       "additionalProperties": False}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": PLACE}},
    {"type": "function", "function": {"name": "calendar", "parameters": DAY}},
]


def tooled(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "tokenizer_config.json").read_text())
    (to / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": TOOLED}, ensure_ascii=False))
    (to / "chat_template.jinja").unlink(missing_ok=True)
    return to


@contextmanager
def gateway_before(name: str, folder: Path, spec: EngineSpec, *, ready_s: float = 90) -> Iterator[Served]:
    loop = Loop()
    engine = kit.running(name, spec, folder / "engine", patience=Patience(ready_s=ready_s, ask_every_s=0.3, term_s=5))
    try:
        running = asyncio.run_coroutine_threadsafe(engine.__aenter__(), loop.loop).result(ready_s + 30)
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
