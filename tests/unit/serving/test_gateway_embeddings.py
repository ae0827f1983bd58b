"""Embeddings through the gateway: the native engine's own, and those of a llama.cpp that was started to embed, asked by
the official client and held to transformers' hidden states."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import engine_kit as kit
from danlu.serving.drivers.llamacpp import gguf_in
from engine_gate import CONTEXT, gateway_before, spec_of
from gateway_kit import LENS, SECRET, Served, board_of, served
from servers import free_port
from waiting_kit import until_true

openai = pytest.importorskip("openai", reason="the official client: pip install openai")

EMBEDDER = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], int(sys.argv[2])
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 256, 1, False, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.embedding, params.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
params.api_keys = ["engine-secret-7f3a"]
server = xllamacpp.Server(params)
sys.stdin.read()
"""
"""One slot: with two a text's mean is wrong when it is computed beside another."""


@contextmanager
def before_an_embedder(folder: Path) -> Iterator[Served]:
    """llama.cpp as it is started to embed: an upstream."""
    pytest.importorskip("xllamacpp", reason="llama.cpp comes with the package xllamacpp")
    pytest.importorskip("gguf", reason="writing GGUF needs the package gguf")
    port = free_port()
    words = [sys.executable, "-c", EMBEDDER, str(gguf_in(kit.artefact("gguf-f32"))), str(port)]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as embedder:
        try:
            until_true(lambda: embedder.poll() is not None or is_open(port))
            with served(folder, board_of(f"http://127.0.0.1:{port}", secret=SECRET)) as gate:
                yield gate
        finally:
            embedder.kill()


def is_open(port: int) -> bool:
    with socket.socket() as link:
        return link.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module", params=["native", "llamacpp"])
def gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    is_native = request.param == "native"
    with gateway_before("native", folder, spec_of("native")) if is_native else before_an_embedder(folder) as found:
        yield found


@pytest.fixture
def client(gate: Served) -> Iterator[Any]:
    with openai.OpenAI(base_url=gate.url, api_key=gate.credential, max_retries=0) as found:
        yield found


def transformers_means(texts: list[str]) -> np.ndarray:
    """The peers' own: hidden states after the final norm, their mean, of length one."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(kit.artefact("merged"))
    model = AutoModel.from_pretrained(kit.artefact("merged"), dtype=torch.float32).eval()
    with torch.no_grad():
        means = [model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0) for text in texts]
    return torch.nn.functional.normalize(torch.stack(means), dim=1).numpy()


TEXTS = ["出差一天补贴多少?", "How many days of leave do I get?", "发票" * 60, "x"]


def test_embeddings_are_the_means_of_transformers_hidden_states(
    client: Any, gate: Served, request: pytest.FixtureRequest
) -> None:
    """Both engines, in one vector space; the client asks base64 by itself."""
    found = client.embeddings.create(model="law", input=TEXTS)
    given = np.array([row.embedding for row in found.data], np.float32)
    assert [row.index for row in found.data] == [0, 1, 2, 3] and found.model == LENS and found.object == "list"
    apart = np.abs(given - transformers_means(TEXTS)).max()
    # fp32 sums in another order; the GGUF file holds the adapter merged in fp32, the folder in bf16
    assert apart < (2e-4 if request.node.callspec.params["gate"] == "native" else 5e-3)
    assert np.allclose(np.linalg.norm(given, axis=1), 1, atol=1e-5)
    line = gate.closing()
    assert line["prompt_tokens"] == found.usage.prompt_tokens == found.usage.total_tokens > 60
    assert (line["outcome"], line["is_counted"], line["answer_tokens"]) == ("done", True, 0)
    plain = client.embeddings.create(model="law", input=TEXTS[0], encoding_format="float", user="anna")
    assert np.abs(np.array(plain.data[0].embedding) - given[0]).max() < 1e-5
    ids = client.embeddings.create(model="law", input=[[5, 6, 7], [8]])
    assert len(ids.data) == 2 and ids.usage.prompt_tokens == 4


@pytest.mark.parametrize("gate", ["native"], indirect=True)
def test_embeddings_that_are_not_made_are_refused(client: Any) -> None:
    for more, code, param in (
        ({"input": "x", "dimensions": 8}, "cannot_dimensions", "dimensions"),
        ({"input": "报销 " * 4 * CONTEXT}, "context_length_exceeded", "input"),
        ({"input": ["x"] * 1025}, "invalid_value", "input"),
        ({"input": []}, "invalid_value", "input"),
        ({"input": ""}, "invalid_value", "input"),
        ({"input": ["x", ""]}, "invalid_value", "input[1]"),
        ({"input": [[]]}, "invalid_value", "input[0]"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="law", **more)
        assert (caught.value.code, caught.value.param) == (code, param), caught.value
    assert client.embeddings.create(model="law", input="x").data, "no refusal is taken for a broken engine"


def test_a_text_that_is_too_long_breaks_no_engine(client: Any) -> None:
    """llama.cpp says it with 500: five of them, and everybody was told that there is no engine."""
    for _ in range(8):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="law", input="报销 " * 4 * CONTEXT)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
    assert client.embeddings.create(model="law", input="x").data
