"""A server's self-test, against our own engine behind the loopback and against servers that lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from danlu.core.errors import EngineError
from danlu.data.encode import Encoder
from danlu.data.sample import Message
from danlu.data.template import Template
from danlu.data.tokenizer import Tokenizer
from danlu.engines.engine import Question, Sampling
from danlu.engines.loopback import Loopback
from danlu.engines.native import NativeEngine
from danlu.engines.remote import Endpoint, RemoteEngine
from danlu.engines.self_test import ECHOED, SelfTest, echoed, self_test
from danlu.engines.wire import DeclinedError, Wire
from danlu.model.build import load_model
from danlu.openai.address import Address
from tiny_chat import write_base


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> NativeEngine:
    folder = write_base(tmp_path_factory.mktemp("base"))
    tokenizer = Tokenizer.load(folder)
    encoder = Encoder(tokenizer, Template.load(folder, tokenizer), context=512)
    return NativeEngine(load_model(folder, dtype="fp32"), encoder, name="tiny")


@pytest.fixture(scope="module")
def server(engine: NativeEngine) -> Iterator[Loopback]:
    with Loopback({"tiny": engine}) as running:
        yield running


class Lying(Loopback):
    """Ignores `echo`, as llama.cpp#27174 does: multiple-choice scores come out at chance and nobody is told."""

    way = "ignore"

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        reply = super().complete(body)
        (choice,) = reply["choices"]
        log_probs = choice["logprobs"]
        match self.way:
            case "ignore":
                choice["logprobs"] = {"token_logprobs": log_probs["token_logprobs"][-1:]}
                choice["text"] = "x"
            case "flat":
                choice["logprobs"] = {"token_logprobs": [None] + [0.0] * (len(log_probs["token_logprobs"]) - 1)}
            case "none":
                choice["logprobs"] = None
            case "positive":
                choice["logprobs"] = {"token_logprobs": [0.5 * n for n in range(len(log_probs["token_logprobs"]))]}
        return reply


def outcomes(found: SelfTest) -> dict[str, str]:
    return {finding.name: finding.outcome for finding in found.findings}


def test_our_own_server_passes(server: Loopback, engine: NativeEngine) -> None:
    found = self_test(Endpoint(server.url, "tiny"), num_tokens=lambda q: len(engine.prompt_ids(q)))
    assert set(outcomes(found).values()) == {"pass"}, found.to_json()
    found.require(scores=True)
    assert found.can_answer and found.can_score and found.is_repeatable


@pytest.mark.parametrize("way", ["ignore", "flat", "none", "positive"])
def test_likelihoods_are_refused_where_they_are_not_real(way: str, engine: NativeEngine) -> None:
    with Lying({"tiny": engine}) as running:
        running.way = way
        found = self_test(Endpoint(running.url, "tiny"))
    assert outcomes(found)["logprobs"] == "fail" and found.can_answer
    found.require()
    with pytest.raises(EngineError) as caught:
        found.require(scores=True)
    assert caught.value.key == "self_test.failed"


def test_another_template_is_told_by_its_tokens(server: Loopback, engine: NativeEngine) -> None:
    found = self_test(Endpoint(server.url, "tiny"), num_tokens=lambda q: len(engine.prompt_ids(q)) + 2)
    assert outcomes(found)["template"] == "fail"
    with pytest.raises(EngineError):
        found.require()


def test_a_model_that_is_not_there(server: Loopback) -> None:
    found = self_test(Endpoint(server.url, "other", num_retries=0))
    assert outcomes(found) == {"models": "fail", "answers": "fail"} and "tiny" in found.findings[0].said


def test_wavering_answers_are_told(engine: NativeEngine) -> None:
    counted = itertools.count()

    class Wavering(Loopback):
        def chat(self, body: dict[str, Any]) -> dict[str, Any]:
            reply = super().chat(body)
            reply["choices"][0]["message"]["content"] += str(next(counted))
            return reply

    with Wavering({"tiny": engine}) as running:
        found = self_test(Endpoint(running.url, "tiny"))
    assert outcomes(found)["determinism"] == "fail" and not found.is_repeatable
    found.require()  # told, not refused


def test_echoed_numbers_are_the_models_own(server: Loopback, engine: NativeEngine) -> None:
    ids = engine.encoder.tokenizer.encode_text(ECHOED)
    wire = Wire(Address.parse(server.url))
    (logits_TV,) = engine.logits([ids])
    wanted = logits_TV[:-1].log_softmax(-1)[range(len(ids) - 1), ids[1:]].tolist()
    assert echoed(wire, "tiny", ids) == pytest.approx(wanted, abs=1e-4)
    assert echoed(wire, "tiny", ECHOED) == pytest.approx(wanted, abs=1e-4)


def test_the_loopback_answers_as_the_engine_and_many_at_once(server: Loopback, engine: NativeEngine) -> None:
    asked = [Question((Message("user", f"出差 {n} 天补贴多少?"),)) for n in range(12)]
    how = Sampling(max_new_tokens=9)
    remote = RemoteEngine(Endpoint(server.url, "tiny", num_parallel=6))
    for theirs, ours in zip(remote.generate(asked, how), engine.generate(asked, how), strict=True):
        assert (theirs.text, theirs.finish, theirs.num_tokens) == (ours.text, ours.finish, ours.num_tokens)


def test_senseless_requests_are_refused_one_by_one(server: Loopback) -> None:
    wire = Wire(Address.parse(server.url))
    for path, body in (
        ("/completions", b'{"model":"tiny","prompt":[99999]}'), ("/completions", b'{"model":"tiny"}'),
        ("/chat/completions", b'{"model":"tiny","messages":[{"role":"boss","content":"x"}]}'),
        ("/chat/completions", b'{"model":"no","messages":[{"role":"user","content":"x"}]}'),
        ("/chat/completions", b"[1]"), ("/chat/completions", b"{"),
        ("/completions", b'{"model":"tiny","prompt":["a",1]}'), ("/completions", b'{"model":"tiny","prompt":[["a"]]}'),
        ("/completions", b'{"model":["tiny"],"prompt":"x"}'), ("/completions", b'{"model":"tiny","prompt":[{}]}'),
        ("/chat/completions", b'{"model":"tiny","stop":[["x"]],"messages":[{"role":"user","content":"x"}]}'),
        ("/chat/completions", b'{"model":"tiny","tools":7,"messages":[{"role":"user","content":"x"}]}'),
        ("/chat/completions", b'{"model":"tiny","temperature":"hot","messages":[{"role":"user","content":"x"}]}'),
    ):  # fmt: skip
        with pytest.raises(DeclinedError):
            wire.post(path, body)
    # and what computes is still alive
    assert wire.post("/chat/completions", b'{"model":"tiny","max_tokens":1,"messages":[{"role":"user","content":"x"}]}')
