"""Which engine answers: shares, fewest outstanding, affinity, circuits, and boards that change under leases."""

import time
from collections import Counter
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.serving.ask import Ask
from danlu.serving.board import Board, Lens, Model, Replica, State
from danlu.serving.chat_format import ChatFormat
from danlu.serving.keys import Key
from danlu.serving.router import FIRST_PAUSE_S, NUM_FAILURES, NoReplicaError, Router, UnknownModelError

ASK = Ask("chatcmpl-1", "chat", "law", {"messages": [{"role": "user", "content": "hi"}]}, False, False, 5, 16)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def board(
    number: int = 1,
    shares: tuple[tuple[str, float], ...] = (("law@1", 1.0),),
    num_replicas: int = 2,
    down: tuple[str, ...] = (),
    chat_format: ChatFormat = ChatFormat(),  # noqa: B008
) -> Board:
    names = [name for name, _ in shares]
    lenses = tuple(Lens(name, "p", chat_format=chat_format) for name in names)
    replicas = tuple(
        Replica(f"r{n}", "p", "native", f"unix:/r{n}", f"s{n}", "down" if f"r{n}" in down else "ready",
                tuple((name, name) for name in names))
        for n in range(num_replicas)
    )  # fmt: skip
    return Board(number, (Model("law", shares, 7),), lenses, replicas)


def test_a_lease_is_ready_to_send() -> None:
    router = Router(board(chat_format=ChatFormat(system="Be brief.")))
    lease = router.lease("law", ASK)
    body = orjson.loads(lease.body)
    assert body["model"] == "law@1" and body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (lease.address, lease.secret) in (("unix:/r0", "s0"), ("unix:/r1", "s1"))
    assert ASK.body == {"messages": [{"role": "user", "content": "hi"}]}, "what was asked is left as it is"


def test_the_fewest_outstanding_gets_the_next() -> None:
    router = Router(board(num_replicas=3))
    leases = [router.lease("law", ASK) for _ in range(9)]
    assert Counter(lease.replica.name for lease in leases) == {"r0": 3, "r1": 3, "r2": 3}
    gone = [lease for lease in leases if lease.replica.name == "r1"]
    for lease in gone:
        lease.release("done")
    assert [router.lease("law", ASK).replica.name for _ in range(3)] == ["r1"] * 3


def test_what_other_workers_have_leased_counts() -> None:
    """Four workers that each counted for themselves sent the first four requests to one engine of four."""
    router = Router(board(num_replicas=3))
    first = router.lease("law", ASK).replica.name
    router.others = {name: 2 for name in ("r0", "r1", "r2") if name != first}
    assert router.lease("law", ASK).replica.name == first
    router.others = {first: 9}
    assert first not in {router.lease("law", ASK).replica.name for _ in range(4)}


def test_an_idle_lens_stays_where_it_is_warm() -> None:
    shares = tuple((f"law@{n}", 1.0 / 32) for n in range(32))
    router = Router(board(shares=shares, num_replicas=4))
    places = {}
    for _ in range(3):
        for name, _ in shares:
            lease = router.lease(name, ASK)
            assert places.setdefault(name, lease.replica.name) == lease.replica.name
            lease.release("done")
    assert len(set(places.values())) == 4, "different lenses prefer different replicas"
    router.take(board(2, shares, 3))
    moved = 0
    for name, _ in shares:
        lease = router.lease(name, ASK)
        moved += lease.replica.name != places[name] and places[name] != "r3"
        lease.release("done")
    assert moved == 0, "one replica less moves only its own"


@settings(max_examples=60)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 400))
def test_shares_are_exact_to_within_one_over_time(weights: list[int], num: int) -> None:
    shares = tuple((f"law@{n}", weight / sum(weights)) for n, weight in enumerate(weights))
    router, seen = Router(board(shares=shares)), Counter[str]()
    for asked in range(1, num + 1):
        lease = router.lease("law", ASK)
        seen[lease.lens.name] += 1
        lease.release("done")
        for name, share in shares:
            assert abs(seen[name] - share * asked) < len(shares), (seen, asked)
    if len(shares) == 2:
        assert all(abs(seen[name] - share * num) <= 1.0 + 1e-9 for name, share in shares)


def test_a_tenth_is_a_tenth() -> None:
    router = Router(board(shares=(("law@3", 0.9), ("law@4", 0.1))))
    seen = Counter(router.lease("law", ASK).lens.name for _ in range(1000))
    assert seen == {"law@3": 900, "law@4": 100}


def test_shares_go_on_where_they_were_when_a_board_changes_something_else() -> None:
    shares = (("law@3", 0.9), ("law@4", 0.1))
    router, seen = Router(board(shares=shares)), Counter[str]()
    for n in range(100):
        router.take(board(n + 2, shares, num_replicas=1 + n % 3))
        seen[router.lease("law", ASK).lens.name] += 1
    assert seen == {"law@3": 90, "law@4": 10}


def test_a_second_try_is_answered_by_the_same_version_elsewhere() -> None:
    router = Router(board(shares=(("law@3", 0.5), ("law@4", 0.5))))
    for _ in range(10):
        first = router.lease("law", ASK)
        second = router.lease("law", ASK, exclude=(first.replica.name,), lens=first.lens.name)
        assert second.lens == first.lens and second.replica != first.replica
        first.release("failed")
        second.release("done")
    assert not router.on_lens and not router.on_replica


def test_a_replica_that_fails_is_left_alone_and_tried_with_one_request() -> None:
    clock = Clock()
    router = Router(board(), clock=clock)
    bad, other = "r0", "r1"

    def asked(num: int) -> Counter[str]:
        """All at once: the fewest outstanding would share them."""
        leases = [router.lease("law", ASK) for _ in range(num)]
        for lease in leases:
            lease.release("failed" if lease.replica.name == bad else "done")
        return Counter(lease.replica.name for lease in leases)

    for _ in range(NUM_FAILURES):
        router.lease("law", ASK, exclude=(other,)).release("failed")
    assert asked(6) == {other: 6}
    clock.now += FIRST_PAUSE_S
    assert asked(6) == {other: 5, bad: 1}, "one request tries"
    clock.now += 1.5 * FIRST_PAUSE_S
    assert asked(6) == {other: 6}, "twice the pause by now"
    clock.now += FIRST_PAUSE_S
    held = [router.lease("law", ASK) for _ in range(3)]
    trial = next(lease for lease in held if lease.replica.name == bad)
    trial.release("aborted")  # tells nothing: the next one tries
    again = router.lease("law", ASK)
    assert again.replica.name == bad
    again.release("done")
    for lease in held:
        lease.release("done")
    leases = [router.lease("law", ASK).replica.name for _ in range(6)]
    assert Counter(leases) == {other: 3, bad: 3}, "closed again"


def test_one_bad_client_does_not_shut_the_door_for_everybody() -> None:
    """The only replica answers 500 to some request, over and over: others are still let to it."""
    router = Router(board(num_replicas=1), clock=Clock())
    for _ in range(50):
        router.lease("law", ASK).release("failed")
    assert router.lease("law", ASK)


def test_what_was_started_again_begins_anew() -> None:
    clock = Clock()
    router = Router(board(), clock=clock)
    for _ in range(9):
        router.lease("law", ASK, exclude=("r1",)).release("failed")
    router.take(board(2, down=("r0",)))
    router.take(board(3))
    assert Counter(router.lease("law", ASK).replica.name for _ in range(4)) == {"r0": 2, "r1": 2}


def test_a_share_that_nothing_answers_for_goes_to_the_others() -> None:
    there = board(shares=(("law@3", 0.5), ("law@4", 0.5)))
    replicas = tuple(Replica(r.name, "p", "native", r.address, r.secret, "ready", r.lenses[:1]) for r in there.replicas)
    router = Router(Board(1, there.models, there.lenses, replicas))
    assert {router.lease("law", ASK).lens.name for _ in range(8)} == {"law@3"}
    with pytest.raises(NoReplicaError):
        router.lease("law", ASK, lens="law@4")


def test_clients_that_hang_up_open_no_circuit() -> None:
    router = Router(board(num_replicas=1))
    for _ in range(20):
        router.lease("law", ASK).release("aborted")
    assert router.lease("law", ASK)


def test_nothing_up_and_nothing_known() -> None:
    router = Router()
    with pytest.raises(UnknownModelError):
        router.lease("law", ASK)
    router.take(board(down=("r0", "r1")))
    with pytest.raises(NoReplicaError) as refusal:
        router.lease("law", ASK)
    assert not refusal.value.is_broken, "it comes back"
    assert refusal.value.retry_s > 0 and router.can("law") is None and router.knows("law")
    router.take(board(2))
    assert (can := router.can("law")) is not None and can.loads_adapters


@pytest.mark.parametrize(
    ("states", "is_broken"),
    [
        (("failed", "failed"), True),
        (("failed", "down"), False),
        (("ready", "failed"), True),
        (("ready", "down"), False),
    ],
)
def test_whether_an_engine_comes_back_is_known(states: tuple[State, State], is_broken: bool) -> None:
    """Those that are ready have not loaded it."""
    there = board()
    replicas = tuple(replace(r, state=state, lenses=()) for r, state in zip(there.replicas, states, strict=True))
    with pytest.raises(NoReplicaError) as refusal:
        Router(replace(there, replicas=replicas)).lease("law", ASK)
    assert refusal.value.is_broken is is_broken


def test_a_lease_outlives_its_board() -> None:
    router = Router(board())
    lease = router.lease("law", ASK)
    router.take(board(2, (("law@2", 1.0),), num_replicas=1))
    assert router.on_lens == {"law@1": 1}, "still told, so that nobody drops it"
    assert router.lease("law", ASK).lens.name == "law@2"
    lease.release("failed")
    lease.release("done")  # a second time does nothing
    assert router.on_lens == {"law@2": 1}


def test_a_key_sees_what_it_may_ask() -> None:
    router = Router(board())
    assert [model.name for model in router.models(Key("k", "n", ("*",)))] == ["law"]
    assert [model.name for model in router.models(Key("k", "n", ("law@1",)))] == ["law@1"]
    assert router.models(Key("k", "n", ("other",))) == []


def test_a_board_comes_back_as_it_went() -> None:
    there = board(
        shares=(("法律@3", 0.9), ("law@4", 0.1)), chat_format=ChatFormat(system="简短。", marks=("<|im_end|>",))
    )
    assert Board.from_json(orjson.loads(there.to_bytes())) == there


def test_a_lease_takes_microseconds() -> None:
    router = Router(board(num_replicas=4))
    began = time.process_time()
    for _ in range(2000):
        router.lease("law", ASK).release("done")
    assert (time.process_time() - began) / 2000 < 100e-6
