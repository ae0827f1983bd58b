"""Adapters that were trained on a quantised base, several of them served on one: the greedy answers through the gateway
are those of the process that trained them, and the base under them is quantised as it was there."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason='no server: pip install "danlu[serve]"')

from server_kit import serving_with

import engine_kit as kit
from danlu.core.errors import EngineError
from danlu.data.sample import Message
from danlu.engines.engine import Question, Sampling
from danlu.run.artifact import Manifest
from danlu.serving.choosing import Machine, Offered, choose
from danlu.serving.lenses import look_through
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.rollout import Offer
from tiny_chat import QUESTIONS
from waiting_kit import PATIENCE_S

NUM_TOKENS = 40
MACHINE = Machine("cpu", frozenset({"native", "llamacpp"}))
PATIENCE = Patience(ready_s=PATIENCE_S, ask_every_s=0.3, term_s=5)


def pool_for(folder: Path, manifest: Manifest) -> PoolPlan:
    offered = [Offered(manifest.name, folder, manifest)]
    return choose(offered, MACHINE, lambda folder, manifest: kit.base())[0].plan


def trained_answers(seed: int, quantize: str) -> list[str]:
    """In training's own process, layer by layer over codes."""
    engine, _ = kit.tuned(seed, quantize)
    asked = [Question((Message("system", kit.SYSTEM), Message("user", text))) for text in QUESTIONS]
    return [engine.generate([one], Sampling(max_new_tokens=NUM_TOKENS))[0].text for one in asked]


def test_qlora_adapters_answer_through_the_gateway_as_where_they_were_trained(tmp_path: Path) -> None:
    folders = {f"expert-{seed}": kit.artefact("adapter", seed, "nf4") for seed in (0, 1)}
    expected = {f"expert-{seed}": trained_answers(seed, "nf4") for seed in (0, 1)}
    assert expected["expert-0"] != expected["expert-1"]

    async def story() -> None:
        offers = [Offer(model, str(folder)) for model, folder in folders.items()]
        async with serving_with(tmp_path, *offers, pool_for=pool_for, patience=PATIENCE) as place:
            (pool,) = {replica.pool for replica in place.server.rollout.board.replicas}
            assert pool == pool_for(folders["expert-0"], Manifest.read(folders["expert-0"])).name, "one base for both"

            def ask(model: str, question: str) -> str:
                body = {"model": model, "messages": [{"role": "user", "content": question}]}
                body |= {"temperature": 0, "max_tokens": NUM_TOKENS}
                headers = place.client.headers | {"Content-Type": "application/json"}
                url = f"{place.client.url}/v1/chat/completions"
                with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as reply:
                    return str(json.load(reply)["choices"][0]["message"]["content"])

            pairs = [(model, question) for question in QUESTIONS for model in folders]
            given = await asyncio.gather(*(asyncio.to_thread(ask, *pair) for pair in pairs))
            assert dict(zip(pairs, given, strict=True)) == {
                (model, question): expected[model][n] for n, question in enumerate(QUESTIONS) for model in folders
            }

    asyncio.run(story())


def test_an_adapter_is_not_let_onto_a_base_that_lies_in_something_else() -> None:
    coded, whole = kit.artefact("adapter", 0, "nf4"), kit.artefact("adapter", 0)
    pools = {folder: pool_for(folder, Manifest.read(folder)) for folder in (coded, whole)}
    assert pools[coded].spec.quantize == "nf4" and pools[whole].spec.quantize == "none"
    for folder, other in ((coded, whole), (whole, coded)):
        look_through(folder, Manifest.read(folder), pools[folder])
        with pytest.raises(EngineError) as caught:
            look_through(folder, Manifest.read(folder), pools[other])
        assert caught.value.key == "rollout.quantize"
