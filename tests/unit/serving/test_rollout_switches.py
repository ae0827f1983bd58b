"""Changing which version answers, over two stub engines: all or nothing, back in one step, shares, room, the registry,
and what outlives a restart."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from lens_kit import (
    QUICK,
    ask,
    fixed,
    habits,
    lens_of,
    make_adapter,
    make_base,
    make_merged,
    mark_of,
    plan_for,
    register,
    stub_python,
    until,
)  # fmt: skip

from danlu.core.errors import DanluError
from danlu.run.audit import AuditLog
from danlu.run.registry import Registry
from danlu.serving.ask import Ask
from danlu.serving.control import action_now
from danlu.serving.drivers import DRIVERS
from danlu.serving.engine_check import check_engine
from danlu.serving.instances import Question
from danlu.serving.line import Line, WorkerLine
from danlu.serving.rollout import Offer, Rollout
from danlu.serving.router import Router
from danlu.serving.status import status_of

QUESTION = Ask("c", "chat", "law", {"messages": [{"role": "user", "content": "hello?"}]}, False, False, 1, 1)


class House:
    """A rollout with engines and one worker's router, as the server puts them together."""

    def __init__(
        self, runs: Path, base: Path, num_replicas: int, max_adapters: int, drain_s: float, is_fixed: bool
    ) -> None:
        self.base, self.home = base, runs / "serving"
        self.line = Line(self.home / "line.sock")
        self.router = Router()
        plan = plan_for(base, stub_python(base), num_replicas=num_replicas, max_adapters=max_adapters)
        plan = fixed(plan) if is_fixed else plan

        async def check(asked: Question) -> str:
            instance, opened = asked.instance, asked.loadable
            assert opened.manifest is not None and opened.folder is not None, "artefacts have both"
            found = await check_engine(
                asked.driver, instance.address, instance.secret, opened.manifest, asked.engine_name, opened.folder
            )
            return found.level

        self.events: list[tuple[str, Any]] = []
        self.rollout = Rollout(
            self.home, runs, self.line, pool_for=plan, check=check, drain_s=drain_s, answer_s=20.0, patience=QUICK,
            on_event=lambda name, facts: self.events.append((name, facts)),
        )  # fmt: skip

    async def said(self, model: str = "law") -> tuple[str, str]:
        """(the lens that was leased, the mark in the answer)."""
        lease = self.router.lease(model, QUESTION)
        text = await ask(lease.address, lease.body, lease.secret)
        lease.release("done")
        return lease.lens.name, text.split()[0]


Story = Callable[[House], Awaitable[None]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


@pytest.fixture
def run(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Tell a story in a house that serves `offers`."""
    monkeypatch.setitem(DRIVERS.places, "fixed", "lens_kit:FixedDriver")

    @asynccontextmanager
    async def house(offers: tuple[Offer, ...], *about: Any) -> Any:
        built = House(tmp_path, base, *about)
        await built.line.open()
        worker = asyncio.create_task(WorkerLine(built.line.path, built.router, "w0").run())
        await built.line.expect("w0")
        try:
            await built.rollout.open(offers)
            await until(lambda: built.router.board.number > 0)
            yield built
        finally:
            worker.cancel()
            await built.rollout.close()
            await built.line.close()

    def tell(
        story: Story,
        *offers: Offer,
        num_replicas: int = 2,
        max_adapters: int = 3,
        drain_s: float = 2.0,
        is_fixed: bool = False,
    ) -> None:
        async def whole() -> None:
            async with asyncio.timeout(60), house(offers, num_replicas, max_adapters, drain_s, is_fixed) as built:
                await story(built)

        asyncio.run(whole())

    return tell


def deeds(runs: Path) -> list[str]:
    return [entry.action for entry in AuditLog(runs / "audit.jsonl").entries()]


def test_a_switch_and_the_way_back(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    first, second = make_adapter(tmp_path / "a", base), make_adapter(tmp_path / "b", base, seed=1)

    async def story(house: House) -> None:
        rollout = house.rollout
        assert await house.said() == (lens_of(first), mark_of(first))
        done = await rollout.switch("law", str(second), reason="better")
        assert done["to"] == {lens_of(second): 1.0} and "late" not in done
        assert await house.said() == (lens_of(second), mark_of(second))
        assert house.router.board.number == rollout.board.number, "done context: every worker goes by it"
        await rollout.rollback("law")
        assert await house.said() == (lens_of(first), mark_of(first))
        with pytest.raises(DanluError) as refusal:
            await rollout.rollback("law")
        assert refusal.value.key == "rollout.nothing_before"
        instances = rollout.fleet.pools["tiny"].instances
        assert len(instances) == 2 and all(
            set(instance.loaded) == {lens_of(first), lens_of(second)} for instance in instances
        )
        assert rollout.fleet.pools["tiny"].grades[lens_of(second)] == "ids"

    log = AuditLog(tmp_path / "audit.jsonl")
    of_before = ["serving.flip", "serving.flip_failed", "serving.back", "serving.drop", "serving.split"]
    for action in of_before:
        log.append(action, {"model": "law"})
    run(story, Offer("law", str(first)))
    assert deeds(tmp_path) == [*of_before, "serving.opened", "serving.switch", "serving.rollback"]
    assert log.verify().is_whole, "the chain goes on from lines with older words"
    now = [action_now(action) for action in deeds(tmp_path)]
    assert now[:5] == ["serving.switch", "serving.switch_failed", "serving.rollback", "serving.remove", "serving.split"]
    assert now[5:] == deeds(tmp_path)[5:] and action_now("registry.back") == "registry.back"


@pytest.mark.parametrize("fault", ["refuses", "answers_wrong", "misrenders", "nan", "gone"])
def test_a_failure_on_any_replica_is_no_switch(
    tmp_path: Path, base: Path, run: Callable[..., None], fault: str
) -> None:
    def spoil(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[next(iter(tensors))][0, 0] = float("nan")
        return tensors

    first = make_adapter(tmp_path / "a", base)
    second = make_adapter(tmp_path / "b", base, seed=1, change=spoil if fault == "nan" else None)

    async def story(house: House) -> None:
        rollout = house.rollout
        before = rollout.board
        values = {"refuses": {lens_of(second): "tiny-1"}} if fault == "refuses" else {fault: True}
        habits(base, **(values if fault not in ("nan", "gone") else {}))
        with pytest.raises(DanluError) as refusal:
            await rollout.switch("law", str(tmp_path / "nothing") if fault == "gone" else str(second))
        assert rollout.board.models == before.models and await house.said() == (lens_of(first), mark_of(first))
        assert all(set(instance.loaded) == {lens_of(first)} for instance in rollout.fleet.pools["tiny"].instances)
        assert rollout.models["law"].problem and refusal.value.text
        assert status_of(rollout)["models"][0]["problem"]
        if fault not in ("nan", "gone"):  # and when the engines have thought better of it
            habits(base)
            await rollout.switch("law", str(second))
            assert await house.said() == (lens_of(second), mark_of(second)) and not rollout.models["law"].problem

    run(story, Offer("law", str(first)))
    assert "serving.switch_failed" in deeds(tmp_path)
    failed = next(e for e in AuditLog(tmp_path / "audit.jsonl").entries() if e.action == "serving.switch_failed")
    assert failed.object["refused"]


def test_shares(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    artifacts = [make_adapter(tmp_path / "runs" / str(n), base, seed=n) for n in range(2)]
    for artifact in artifacts:
        register(tmp_path, artifact)

    async def story(house: House) -> None:
        await house.rollout.split("law", {"1": 0.75, "law:2": 0.25})
        said = [await house.said() for _ in range(8)]
        assert sorted(said) == sorted([(lens_of(artifacts[0]), mark_of(artifacts[0]))] * 6
                                      + [(lens_of(artifacts[1]), mark_of(artifacts[1]))] * 2)  # fmt: skip
        for shares in ({"1": 0.5}, {"1": 1.5, "2": -0.5}, {}, {"1": float("nan"), "2": 0.5}):
            with pytest.raises(DanluError) as refusal:
                await house.rollout.split("law", shares)
            assert refusal.value.key == "rollout.shares"
        await house.rollout.rollback("law")
        assert {(await house.said())[0] for _ in range(6)} == {lens_of(artifacts[0])}

    run(story, Offer("law", "law:1"))


def test_the_registry_is_followed(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    registry = Registry(tmp_path)
    artifacts = [make_adapter(tmp_path / "runs" / str(n), base, seed=n) for n in range(3)]
    for artifact in artifacts:
        register(tmp_path, artifact)
    registry.point("law", "prod", 1)

    async def story(house: House) -> None:
        rollout = house.rollout
        registry.point("law", "prod", 2)
        await rollout.follow()
        assert (await house.said())[1] == mark_of(artifacts[1])
        registry.roll_back("law", "prod")
        await rollout.follow()
        assert (await house.said())[1] == mark_of(artifacts[0])
        await rollout.switch("law", "3")  # by hand: the registry still says 1, and is not asked again
        await rollout.follow()
        assert (await house.said())[1] == mark_of(artifacts[2])
        habits(base, refuses={lens_of(artifacts[1]): "*"})
        await rollout.remove(lens_of(artifacts[1]))
        registry.point("law", "prod", 2)
        await rollout.follow()
        assert (await house.said())[1] == mark_of(artifacts[2]) and "no room" in rollout.models["law"].problem
        num = len(deeds(tmp_path))
        await rollout.follow()
        assert len(deeds(tmp_path)) == num, "it does not try over and over"

    run(story, Offer("law", "law@prod"))


def test_what_was_changed_by_hand_outlives_the_server(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    registry = Registry(tmp_path)
    artifacts = [make_adapter(tmp_path / "runs" / str(n), base, seed=n) for n in range(3)]
    for artifact in artifacts:
        register(tmp_path, artifact)
    registry.point("law", "prod", 1)

    async def change(house: House) -> None:
        await house.rollout.switch("law", "2")
        await house.rollout.split("law", {"2": 0.5, "3": 0.5})

    async def as_left(house: House) -> None:
        assert {(await house.said())[1] for _ in range(4)} == {mark_of(artifacts[1]), mark_of(artifacts[2])}
        await house.rollout.rollback("law")
        assert (await house.said())[1] == mark_of(artifacts[1])
        await house.rollout.rollback("law")
        assert (await house.said())[1] == mark_of(artifacts[0])

    async def as_pointed(house: House) -> None:
        assert (await house.said())[1] == mark_of(artifacts[1])
        assert not house.rollout.models["law"].before

    run(change, Offer("law", "law@prod"))
    run(as_left, Offer("law", "law@prod"))
    run(change, Offer("law", "law@prod"))
    registry.point("law", "prod", 2)  # while nothing ran
    run(as_pointed, Offer("law", "law@prod"))


def test_the_one_that_was_used_longest_ago_makes_room(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    artifacts = [make_adapter(tmp_path / str(n), base, seed=n) for n in range(4)]

    async def story(house: House) -> None:
        rollout = house.rollout
        pool = rollout.fleet.pools["tiny"]
        for artifact in artifacts[1:3]:
            await rollout.switch("law", str(artifact))
        assert pool.adapters == [lens_of(a) for a in artifacts[:3]]
        await house.said(lens_of(artifacts[0]))  # its immutable name is a model too
        await until(lambda: (rollout.fleet.note_use(), rollout.fleet.uses[lens_of(artifacts[0])].last)[1] > 0)
        await rollout.switch("law", str(artifacts[3]))
        assert set(pool.adapters) == {lens_of(artifacts[n]) for n in (0, 2, 3)}
        assert all(set(instance.loaded) == set(pool.adapters) for instance in pool.instances)
        await rollout.switch("law", str(artifacts[1]))  # dropped, and it comes back
        assert (await house.said())[1] == mark_of(artifacts[1])

    run(story, Offer("law", str(artifacts[0])))


def test_no_room_where_all_are_used_and_none_is_taken_from_under_an_answer(
    tmp_path: Path, base: Path, run: Callable[..., None]
) -> None:
    artifacts = [make_adapter(tmp_path / str(n), base, name=f"m{n}", seed=n) for n in range(4)]

    async def story(house: House) -> None:
        rollout = house.rollout
        with pytest.raises(DanluError) as refusal:
            await rollout.add("third", str(artifacts[2]))
        assert refusal.value.key == "rollout.full" and "third" not in rollout.models
        lease = house.router.lease("m0", QUESTION)
        await rollout.remove("m0")
        assert not house.router.knows("m0")
        with pytest.raises(DanluError) as refusal:
            await rollout.add("third", str(artifacts[2]))
        assert refusal.value.key == "rollout.busy"
        assert await ask(lease.address, lease.body, lease.secret), "it is answered to its end"
        lease.release("done")
        await rollout.add("third", str(artifacts[2]))
        assert (await house.said("third"))[1] == mark_of(artifacts[2])
        with pytest.raises(DanluError) as refusal:
            await rollout.remove(lens_of(artifacts[2]))
        assert refusal.value.key == "rollout.in_use"

    run(story, Offer("m0", str(artifacts[0])), Offer("m1", str(artifacts[1])), max_adapters=2, drain_s=0.3)


def test_whole_models_change_with_their_engines(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    first, second = make_merged(tmp_path / "a", base), make_merged(tmp_path / "b", base, seed=1)

    async def story(house: House) -> None:
        rollout = house.rollout
        lease = house.router.lease("law", QUESTION)
        await rollout.switch("law", str(second))
        assert await house.said() == (lens_of(second), mark_of(second))
        assert await ask(lease.address, lease.body, lease.secret), "the old engine is there for its last answer"
        lease.release("done")
        await until(lambda: not rollout.fleet.ends)
        await rollout.rollback("law")
        assert await house.said() == (lens_of(first), mark_of(first))

    run(story, Offer("law", str(first)), num_replicas=1)


def test_an_engine_that_was_killed_comes_back_with_its_lenses(
    tmp_path: Path, base: Path, run: Callable[..., None]
) -> None:
    first, second = make_adapter(tmp_path / "a", base), make_adapter(tmp_path / "b", base, seed=1)

    async def story(house: House) -> None:
        rollout = house.rollout
        instance = rollout.fleet.pools["tiny"].instances[0]
        assert instance.child is not None
        await instance.child.kill()
        await until(lambda: instance.state == "down")
        await until(lambda: sum(r.state == "ready" for r in house.router.board.replicas) == 1)
        await rollout.switch("law", str(second))  # while one of two is away
        assert (await house.said())[1] == mark_of(second)
        await until(lambda: sum(r.state == "ready" for r in house.router.board.replicas) == 2)
        for _ in range(2):
            lease = house.router.lease("law", QUESTION)  # both are asked: one stays leased
            assert (await ask(lease.address, lease.body, lease.secret)).split()[0] == mark_of(second)

    run(story, Offer("law", str(first)))


@pytest.mark.parametrize("is_bad", [False, True])
def test_engines_that_load_nothing_are_replaced_one_by_one(
    tmp_path: Path, base: Path, run: Callable[..., None], is_bad: bool
) -> None:
    first, second = make_adapter(tmp_path / "a", base), make_adapter(tmp_path / "b", base, seed=1)

    async def story(house: House) -> None:
        rollout = house.rollout
        pool = rollout.fleet.pools["tiny"]
        leases = [house.router.lease("law", QUESTION) for _ in range(2)]
        old = {instance.name for instance in pool.instances}
        habits(base, answers_wrong=is_bad)
        if is_bad:
            with pytest.raises(DanluError):
                await rollout.switch("law", str(second))
            assert {instance.name for instance in pool.instances} == old and lens_of(second) not in pool.lenses
            assert (await house.said())[1] == mark_of(first)
            return
        await rollout.switch("law", str(second))
        assert (await house.said())[1] == mark_of(second)
        for lease in leases:
            assert (await ask(lease.address, lease.body, lease.secret)).split()[0] == mark_of(first), "there to its end"
            lease.release("done")
        await until(lambda: old.isdisjoint(instance.name for instance in pool.instances))
        assert len(pool.instances) == 2 and {instance.state for instance in pool.instances} == {"ready"}
        await rollout.rollback("law")  # the fresh ones have both
        assert (await house.said())[1] == mark_of(first) and len(pool.instances) == 2
        child = pool.instances[0].child
        assert child is not None
        await child.kill()
        await until(lambda: pool.instances[0].state == "down")
        await until(lambda: pool.instances[0].state == "ready")  # with its first lens
        await until(lambda: set(pool.instances[0].loaded) == {lens_of(first), lens_of(second)})

    run(story, Offer("law", str(first)), is_fixed=True)


def test_a_damaged_offer_is_no_start(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    first = make_adapter(tmp_path / "a", base)
    (first / "adapter_config.json").write_text("{}")

    async def story(house: House) -> None:
        raise AssertionError("nothing is served")

    with pytest.raises(DanluError) as refusal:
        run(story, Offer("law", str(first)))
    assert refusal.value.key == "run.tampered"


def test_what_is_withdrawn_while_it_answers_goes_on_and_is_not_turned_to_again(
    tmp_path: Path, base: Path, run: Callable[..., None]
) -> None:
    """Nobody said what becomes of it: it went on silently, and `rollback` returned to it."""
    registry = Registry(tmp_path)
    artifacts = [make_adapter(tmp_path / "runs" / str(n), base, seed=n) for n in range(2)]
    for artifact in artifacts:
        register(tmp_path, artifact)
    first, second = map(lens_of, artifacts)

    async def story(house: House) -> None:
        rollout = house.rollout
        await rollout.warn()
        assert not rollout.warnings
        registry.withdraw("law", 1, reason="names of people in it")
        await rollout.warn()
        await rollout.warn()
        assert [facts["lens"] for name, facts in house.events if name == "warning"] == [first], "once"
        assert "law:1" in status_of(rollout)["models"][0]["warnings"][0]
        assert (await house.said())[0] == first, "clients go on"
        instance = rollout.fleet.pools["tiny"].instances[0]
        assert instance.child is not None
        await instance.child.kill()
        await until(lambda: instance.state == "down")
        await until(lambda: instance.state == "ready")
        assert set(instance.loaded) == {first}, "and an engine that died has it again"
        await rollout.switch("law", "2")
        for asked in (rollout.rollback("law"), rollout.switch("law", "1"), rollout.switch("law", first)):
            with pytest.raises(DanluError) as refusal:
                await asked
            assert refusal.value.key == "registry.is_withdrawn"
        assert (await house.said())[0] == second
        await rollout.warn()
        assert not rollout.warnings

    run(story, Offer("law", "law:1"))
    with pytest.raises(DanluError) as refusal:
        run(story, Offer("law", "law:1"))
    assert refusal.value.key == "registry.is_withdrawn", "a server that starts serves nothing that was withdrawn"


def test_files_that_are_taken_away_while_they_answer_are_told_of(
    tmp_path: Path, base: Path, run: Callable[..., None]
) -> None:
    artifact = make_adapter(tmp_path / "a", base)

    async def story(house: House) -> None:
        shutil.rmtree(artifact)
        await house.rollout.warn()
        assert str(artifact) in house.rollout.warnings[lens_of_first]
        assert (await house.said())[0] == lens_of_first
        instance = house.rollout.fleet.pools["tiny"].instances[0]
        assert instance.child is not None
        await instance.child.kill()
        await until(lambda: instance.child.facts.num_failures > 1)  # its tokenizer was there too
        assert instance.state == "down" and (await house.said())[0] == lens_of_first, "by the other"

    lens_of_first = lens_of(artifact)
    run(story, Offer("law", str(artifact)))


def test_status_is_plain_json(tmp_path: Path, base: Path, run: Callable[..., None]) -> None:
    first = make_adapter(tmp_path / "a", base)

    async def story(house: House) -> None:
        await house.said()
        await until(lambda: status_of(house.rollout)["pools"][0]["lenses"][0]["num_leased"] == 1)
        told = orjson.loads(orjson.dumps(status_of(house.rollout)))
        assert told["pools"][0]["num_loaded"] == 1 and len(told["pools"][0]["replicas"]) == 2
        await until(lambda: status_of(house.rollout)["spares"])
        assert status_of(house.rollout)["spares"][0]["memory_bytes"] >= 0, "what a spare takes is told"
        secrets = [instance.secret for instance in house.rollout.fleet.pools["tiny"].instances]
        assert not any(secret in orjson.dumps(told).decode() for secret in secrets), "it tells no secret"

    run(story, Offer("law", str(first)))
