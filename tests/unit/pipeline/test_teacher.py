"""Teachers against a real server that misbehaves: busy, broken, slow, cut, dear; and a model of this machine."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from danlu.core.errors import DataError, EngineError
from danlu.core.progress import Silent
from danlu.data.sample import Message
from danlu.data.synthesis.teacher import OPEN, Ask, Clearance
from danlu.engines.cache import AnswerCache
from danlu.engines.cost import Price
from danlu.model.shards import find_shards
from danlu.pipeline.base import open_base
from danlu.pipeline.local_teacher import LocalTeacher
from danlu.pipeline.pace import Pace
from danlu.pipeline.remote_teacher import is_loopback
from danlu.pipeline.replies import without_thinking
from danlu.pipeline.teacher import open_teacher
from danlu.recipe.model import ModelSection
from danlu.recipe.synthesis import TeacherSection
from teacher_kit import Act, completion, serving
from waiting_kit import PATIENCE_S, until_true


def ask(text: str, clearance: Clearance = OPEN, **how: object) -> Ask:
    return Ask((Message("user", text),), clearance, **({"max_new_tokens": 32} | how))  # type: ignore[arg-type]


def echo(body: dict) -> str:
    return "答 " + body["messages"][-1]["content"]


def test_replies_come_in_order_whatever_comes_first(tmp_path: Path) -> None:
    def uneven(body: dict) -> str:
        time.sleep(0.03 * (int(body["messages"][-1]["content"]) % 3))
        return echo(body)

    with serving(uneven) as server:
        seen: list[int] = []
        replies = server.teacher(tmp_path).answer([ask(str(n)) for n in range(20)], watch=seen.append)
    assert [reply.text for reply in replies] == [f"答 {n}" for n in range(20)] and sum(seen) == 20


def test_busy_broken_garbled_and_cut_replies_are_asked_again(tmp_path: Path) -> None:
    with serving(echo) as server:
        server.acts = [
            Act(429, Retry_After="0"), Act(500, b"oops"), Act(200, b'{"choices": [{"mess'), Act(200, b'{"choices": []}'),
            Act(200, completion("half", "stop", {"messages": []})[:40], cut=True), Act(503),
        ]  # fmt: skip
        teacher = server.teacher(tmp_path, num_retries=5)
        replies = teacher.answer([ask(str(n)) for n in range(5)])
    assert [reply.text for reply in replies] == [f"答 {n}" for n in range(5)]
    assert teacher.cost()["retried"] == 6


def test_a_limit_of_the_server_holds_everybody(tmp_path: Path) -> None:
    """A Retry-After concerns the account: other requests wait as well."""
    times: list[float] = []

    def noted(body: dict) -> str:
        times.append(time.monotonic())
        return echo(body)

    with serving(noted) as server:
        server.acts = [Act(429, Retry_After="0.5")]
        began = time.monotonic()
        server.teacher(tmp_path, num_parallel=1).answer([ask(str(n)) for n in range(4)])
    assert min(times) - began >= 0.45


def test_fewer_requests_at_once_while_the_server_is_busy(tmp_path: Path) -> None:
    def crowded(body: dict) -> str | Act:
        time.sleep(0.01)
        return Act(429) if server.running > 2 else echo(body)

    with serving(crowded) as server:
        teacher = server.teacher(tmp_path, num_parallel=16, num_retries=50)
        replies = teacher.answer([ask(str(n)) for n in range(60)])
    assert all(reply.finish == "stop" for reply in replies) and server.most <= 8


def test_pace_halves_once_for_one_crowd_and_grows_back() -> None:
    pace = Pace(16)
    for _ in range(100):
        pace.went_well()
    assert pace.num_allowed > 8
    before = pace.num_allowed
    again = [pace.was_busy(began=1.0, now=2.0, attempt=0, retry_after_s=None) for _ in range(5)]
    assert before // 2 <= pace.num_allowed <= before // 2 + 1, "five replies of one crowd are one sign"
    assert all(2.0 < when <= 2.5 for when in again) and pace.wait_s(2.0) == 0.0
    pace.was_busy(began=3.0, now=4.0, attempt=0, retry_after_s=7.0)
    assert 7.0 <= pace.wait_s(4.0) <= 8.0 and pace.num_allowed < before // 2


def test_one_that_keeps_failing_spoils_itself_only_and_is_asked_by_the_next_run(tmp_path: Path) -> None:
    def picky(body: dict) -> str | Act:
        text = body["messages"][-1]["content"]
        return (
            Act(500, b"down")
            if text == "1" and server.script is picky
            else Act(400, b"too long")
            if text == "2"
            else echo(body)
        )

    with serving(picky) as server:
        replies = server.teacher(tmp_path, num_retries=1).answer([ask(str(n)) for n in range(4)])
        assert [reply.finish for reply in replies] == ["stop", "error", "error", "stop"] and "500" in replies[1].error
        num_before = len(server.bodies)
        server.script = echo
        replies = server.teacher(tmp_path).answer([ask(str(n)) for n in range(4)])
    assert all(reply.finish == "stop" for reply in replies) and len(server.bodies) == num_before + 2


def test_slow_answers_time_out(tmp_path: Path) -> None:
    given_up = threading.Event()
    with serving(lambda body: "spät" if given_up.wait(PATIENCE_S) else "") as server:
        (reply,) = server.teacher(tmp_path, timeout_s=0.1, num_retries=1).answer([ask("hi")])
        assert reply.finish == "error" and "0.1 s" in reply.error
        until_true(lambda: len(server.bodies) == 2)
        given_up.set()


def test_a_bad_key_ends_all_but_keeps_what_was_under_way(tmp_path: Path) -> None:
    with serving(echo) as server:
        teacher = server.teacher(tmp_path, num_parallel=1)
        teacher.answer([ask("a")])
        server.acts = [Act(401, b"no")]
        with pytest.raises(EngineError) as caught:
            teacher.answer([ask("b"), ask("c")])
        assert caught.value.key == "engine.unauthorized" and len(server.bodies) == 2
    with pytest.raises(EngineError) as caught:  # nobody there any more
        server.teacher(tmp_path, num_retries=1).answer([ask("d")])
    assert caught.value.key == "engine.unreachable"
    assert server.teacher(tmp_path).answer([ask("a")])[0].text == "答 a", "known replies need no server"


def test_what_was_answered_is_not_asked_again_and_equal_requests_once(tmp_path: Path) -> None:
    with serving(echo) as server:
        first = server.teacher(tmp_path).answer([ask("a"), ask("a"), ask("b"), ask("a", seed=1, temperature=0.5)])
        assert [reply.text for reply in first] == ["答 a", "答 a", "答 b", "答 a"] and len(server.bodies) == 3
        again = server.teacher(tmp_path)
        assert again.answer([ask("b"), ask("a")]) == [first[2], first[0]]
        assert len(server.bodies) == 3 and again.cost()["from_cache"] == 2


def test_the_cost_cap_stops_before_it_is_passed_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    price = Price(10.0, 1000.0)
    asks = [ask(f"{n} " + "x" * 50, max_new_tokens=100) for n in range(30)]
    with serving(echo) as server:
        teacher = server.teacher(tmp_path, price=price, max_cost=0.5)
        replies = teacher.answer(asks)
        done = [reply.finish for reply in replies]
        assert done.count("undone") + done.count("stop") == 30 and 0 < done.count("stop") < 30
        assert done == sorted(done), "the first requests are answered, the last ones are left"
        assert teacher.cost()["spent"] <= 0.5
        again = server.teacher(tmp_path, price=price, max_cost=0.5)
        assert [reply.finish for reply in again.answer(asks)] == done, "what was paid before counts"
        assert again.cost()["spent"] == pytest.approx(teacher.cost()["spent"])
        rest = server.teacher(tmp_path, price=price, max_cost=50.0).answer(asks)
        assert all(reply.finish == "stop" for reply in rest) and len(server.bodies) == 30


def test_the_token_cap_counts_what_the_server_counts(tmp_path: Path) -> None:
    with serving(echo) as server:
        teacher = server.teacher(tmp_path, max_tokens=700, num_parallel=4)
        replies = teacher.answer([ask(f"{n}") for n in range(40)])
        assert any(reply.finish == "undone" for reply in replies)
        assert 0 < teacher.cost()["tokens"] <= 700


def test_a_cap_in_money_needs_prices(tmp_path: Path) -> None:
    section = TeacherSection(url="http://127.0.0.1:1/v1", model="m", max_cost=1.0)
    with pytest.raises(EngineError) as caught:
        open_teacher(section, ModelSection(), tmp_path, seed=0, progress=Silent())
    assert caught.value.key == "engine.cap_without_price"
    with pytest.raises(EngineError) as caught:
        open_teacher(TeacherSection(url="http://127.0.0.1:1/v1"), ModelSection(), tmp_path, seed=0, progress=Silent())
    assert caught.value.key == "synthesis.no_teacher_model"


def test_ctrl_c_keeps_what_is_under_way(tmp_path: Path) -> None:
    may_answer = threading.Event()

    def slow(body: dict) -> str:
        if body["messages"][-1]["content"] != "0":  # all others are under way while the first reply is interrupted
            may_answer.wait()
        return echo(body)

    def interrupt(num: int) -> None:
        if num:
            threading.Timer(0.5, may_answer.set).start()
            raise KeyboardInterrupt

    with serving(slow) as server:
        with pytest.raises(KeyboardInterrupt):
            server.teacher(tmp_path, num_parallel=4).answer([ask(str(n)) for n in range(40)], watch=interrupt)
        num_asked = len(server.bodies)
        assert 1 < num_asked <= 5
        again = server.teacher(tmp_path, num_parallel=4)
        again.answer([ask(str(n)) for n in range(40)])
    assert again.cost()["from_cache"] == num_asked and len(server.bodies) == 40


def test_thinking_is_not_part_of_the_answer(tmp_path: Path) -> None:
    assert without_thinking("<think>hm\n{}</think>\n\n{}") == "{}"
    assert without_thinking("let me see </think> yes") == "yes", "templates swallow the opening mark"
    assert without_thinking("<think>never ends") == ""
    assert without_thinking("if a </b> then <think>") == "if a </b> then <think>"
    with serving(lambda body: "<think>长考</think>\n答") as server:
        assert server.teacher(tmp_path).answer([ask("q")])[0].text == "答"


@pytest.mark.parametrize(
    "clearance, key",
    [
        (Clearance("internal", False, "a.md:1"), "synthesis.not_masked"),
        (Clearance(None, True, "a.md:1"), "synthesis.not_masked"),
        (Clearance("confidential", True, "a.md:1"), "synthesis.level_withheld"),
        (Clearance("restricted", True, "a.md:1"), "synthesis.level_withheld"),
    ],
)
def test_nothing_leaves_unmasked_or_above_its_level(tmp_path: Path, clearance: Clearance, key: str) -> None:
    """Requests before the guarded one are not sent either."""
    with serving(echo) as server:
        teacher = server.teacher(tmp_path)
        teacher.is_external = True  # a loopback server played as one far away
        with pytest.raises(DataError) as caught:
            teacher.answer([ask("open"), ask("secret", clearance)])
        assert caught.value.key == key and "a.md:1" in str(caught.value) and not server.bodies
        named = server.teacher(tmp_path, levels=frozenset({"public", "confidential", "restricted"}))
        named.is_external = True
        if key == "synthesis.level_withheld":
            assert named.answer([ask("secret", clearance)])[0].finish == "stop"


@pytest.mark.parametrize(
    "host, is_here",
    [("localhost", True), ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("10.0.0.5", False), ("192.168.1.2", False),
     ("localhost.example.com", False), ("api.example.com", False), ("0.0.0.0", False), ("127.0.0.1.nip.io", False)],
)  # fmt: skip
def test_only_this_machine_is_inside(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


def test_a_model_of_this_machine_teaches_offline(tmp_path: Path) -> None:
    teacher = open_teacher(TeacherSection(), ModelSection(base="ember"), tmp_path, seed=0, progress=Silent())
    assert isinstance(teacher, LocalTeacher) and not teacher.is_external
    secret = Clearance("restricted", False)
    replies = teacher.answer([ask("你好", secret), ask("你好", secret), ask("Hello", secret)])
    assert replies[0] == replies[1] and all(reply.finish in ("stop", "length") for reply in replies)
    assert teacher.cost()["requests"] == 2
    again = LocalTeacher(ModelSection(base="ember"), AnswerCache(tmp_path), seed=0, progress=Silent())
    assert again.answer([ask("Hello", secret)])[0] == replies[2]
    assert again.cost()["requests"] == 0, "found again without loading the model"


def test_a_model_merged_anew_is_another_teacher(tmp_path: Path) -> None:
    """Merging touches neither names nor sizes nor the ends of a file: replies of the model before were given out."""
    first, second = tmp_path / "a" / "merged", tmp_path / "b" / "merged"
    ember = open_base(ModelSection(base="ember")).folder
    for folder in (first, second):
        shutil.copytree(ember, folder)

    def teacher(folder: Path) -> LocalTeacher:
        return LocalTeacher(ModelSection(base=str(folder)), AnswerCache(tmp_path), seed=0, progress=Silent())

    before = teacher(first).identity
    assert teacher(second).identity == before == teacher(first).identity
    (weights,) = find_shards(second)
    with weights.open("r+b") as file:
        file.seek(weights.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    assert teacher(second).identity != before
    (first / "tokenizer_config.json").write_text("{}")
    assert teacher(first).identity not in (before, teacher(second).identity)
