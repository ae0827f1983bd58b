"""What a remote engine remembers and what it costs: nothing is paid for twice, and no cap is passed."""

from __future__ import annotations

from pathlib import Path

import pytest
from remote_kit import SAMPLING, Server, ask, status

from danlu.core.errors import EngineError
from danlu.engines.cache import AnswerCache
from danlu.engines.cost import Bill, Price
from danlu.engines.engine import Sampling


def test_keeping_thinking_is_another_engine(server: Server) -> None:
    assert server.engine().digest != server.engine(keep_thinking=True).digest


def test_a_stopped_run_asks_only_what_is_missing(server: Server, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    first = server.engine(cache=cache).generate([ask("a"), ask("b")], SAMPLING)
    again = server.engine(cache=cache).generate([ask("a"), ask("b"), ask("c")], SAMPLING)
    assert [a.text for a in again[:2]] == [a.text for a in first] and len(server.requests) == 3
    assert "".join(server.engine(cache=cache).stream(ask("a"), SAMPLING)) == first[0].text and len(server.requests) == 3
    for path in tmp_path.rglob("*.json"):
        path.write_bytes(b'{"text": "ha')
    server.engine(cache=cache).generate([ask("a")], SAMPLING)
    assert len(server.requests) == 4, "a broken cache file counts as absent"


def test_errors_are_not_cached(server: Server, tmp_path: Path) -> None:
    server.acts = [status(400, b"no")]
    engine = server.engine(cache=AnswerCache(tmp_path))
    assert engine.generate([ask("a")], SAMPLING)[0].finish == "error"
    assert engine.generate([ask("a")], SAMPLING)[0].text == "回答 a"


def test_other_sampling_is_another_request(server: Server, tmp_path: Path) -> None:
    engine = server.engine(cache=AnswerCache(tmp_path))
    for sampling in (SAMPLING, Sampling(max_new_tokens=17), Sampling(16, 0.7, seed=1), Sampling(16, 0.7, seed=2)):
        engine.generate([ask("a")], sampling)
    assert len(server.requests) == 4
    assert server.requests[-1][1]["seed"] == 2 and "seed" not in server.requests[0][1]


def test_cost_is_counted_and_the_cap_is_never_passed(server: Server, tmp_path: Path) -> None:
    price = Price(prompt_per_million=1000, answer_per_million=10_000)  # 10 + 5 tokens: 0.06; at worst about 0.3
    bill = Bill(price)
    engine = server.engine(bill=bill, cache=AnswerCache(tmp_path))
    engine.generate([ask("a"), ask("a2")], SAMPLING)
    assert bill.spent == pytest.approx(0.12) and bill.num_prompt_tokens == 20
    engine.generate([ask("a")], SAMPLING)
    assert bill.num_requests == 2, "a cached answer costs nothing"

    capped = Bill(price, cap=1.0)
    engine = server.engine(bill=capped, cache=AnswerCache(tmp_path), num_parallel=4)
    with pytest.raises(EngineError) as caught:
        engine.generate([ask(f"q{i}") for i in range(100)], SAMPLING)
    assert caught.value.key == "engine.cost_cap" and 0 < capped.spent <= 1.0
    num_asked = len(server.requests)
    server.engine(cache=AnswerCache(tmp_path)).generate([ask(f"q{i}") for i in range(100)], SAMPLING)
    assert len(server.requests) == 102 and num_asked > 2, "what the capped run paid for was not asked again"


def test_a_failed_request_gives_its_reservation_back(server: Server) -> None:
    bill = Bill(Price(1000, 10_000), cap=0.5)
    server.acts = [status(400, b"no")] * 5
    server.engine(bill=bill, num_parallel=1).generate([ask(str(i)) for i in range(5)], SAMPLING)
    assert bill.spent == 0 and server.engine(bill=bill).generate([ask("x")], SAMPLING)[0].finish == "stop"


def test_a_cap_needs_a_price() -> None:
    with pytest.raises(EngineError):
        Bill(cap=3.0)
