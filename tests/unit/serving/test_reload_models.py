"""A reload that changes what is served: models, replicas, workers and the address, while clients ask; and one that is
refused and changes nothing."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lens_kit import QUICK, habits, lens_of, make_adapter, make_base, make_merged, mark_of, until
from server_kit import Place, serving

from danlu.core.errors import DanluError, EngineError
from danlu.run.audit import AuditLog
from danlu.serving.drivers.driver import Command
from danlu.serving.plan import Kept, Plan, Renewal
from danlu.serving.processes import Child
from danlu.serving.rollout import Offer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def reads(place: Place, change: Callable[[Plan], Plan], *, num_replicas: int = 1, kept: tuple[Kept, ...] = ()) -> None:
    """At the next reload the settings say this."""
    plan = place.server.plan
    place.server.plan = replace(plan, renew=lambda: Renewal(change(plan), num_replicas, kept))


def test_a_reload_takes_new_models_new_targets_and_what_was_taken_away(tmp_path: Path, base: Path) -> None:
    """Models were read at the start only: a reload said that it was done and changed none."""
    law, tax, med = (
        make_adapter(tmp_path / name, base, name=name, seed=n) for n, name in enumerate(("law", "tax", "med"))
    )
    better, whole = make_adapter(tmp_path / "better", base, name="law", seed=7), make_merged(tmp_path / "whole", base)

    async def story() -> None:
        offers = (Offer("law", str(law)), Offer("tax", str(tax)))
        async with serving(tmp_path, base, *offers, num_replicas=1, max_adapters=4) as place:
            client, rollout = place.client, place.server.rollout
            await rollout.add("byhand", str(med))
            now = (Offer("law", str(better)), Offer("whole", str(whole)))
            waits = Kept("serving.engine", "native", "vllm")
            reads(place, lambda plan: replace(plan, offers=now, num_workers=2), num_replicas=2, kept=(waits,))
            told = await place.server.reload()
            assert told["kept"] == [{"knob": "serving.engine", "was": "native", "now": "vllm"}]
            assert (told["added"], told["changed"], told["removed"]) == (["whole"], ["law"], ["tax"])
            assert sorted(told["workers"]) == ["w1", "w2"] and told["draining"] == ["w0"]
            assert ("reloaded", told) in place.events
            assert set(rollout.models) == {"law", "whole", "byhand"}
            assert {(await client.ask(model)).split()[0] for model in ("law", "whole", "byhand")} == {
                mark_of(better), mark_of(whole), mark_of(med),
            }  # fmt: skip
            assert all(
                len([s for s in pool.instances if s.state == "ready"]) == 2 for pool in rollout.fleet.pools.values()
            )
            assert not client.failures and not client.mixed
            assert rollout.models["law"].target == str(better)
            await rollout.rollback("law")
            assert (await client.ask("law")).split()[0] == mark_of(law), "the way back is there as after a switch"
            reads(place, lambda plan: plan, num_replicas=1)
            assert not {"added", "changed", "removed"} & set(await place.server.reload())
            pool = rollout.fleet.pools["tiny"]
            await until(lambda: len(pool.instances) == 1)
            assert (await client.ask("law")).split()[0] == mark_of(law), "what was done by hand stays"

    asyncio.run(story())
    reasons = {(entry.action, entry.reason) for entry in AuditLog(tmp_path / "audit.jsonl").entries()}
    assert {("serving.add", "reload"), ("serving.switch", "reload"), ("serving.remove", "reload")} <= reasons


def test_a_reload_that_fails_anywhere_changes_nothing(tmp_path: Path, base: Path) -> None:
    law, good, bad = (
        make_adapter(tmp_path / name, base, name=name, seed=n) for n, name in enumerate(("law", "good", "bad"))
    )
    better = make_adapter(tmp_path / "better", base, name="law", seed=7)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(law)), num_replicas=1, max_adapters=4) as place:
            server, rollout = place.server, place.server.rollout
            habits(base, refuses={lens_of(bad): "*"})
            before, workers = server.plan, list(server.workers)
            wrong = (Offer("law", str(better)), Offer("good", str(good)), Offer("bad", str(bad)))
            reads(place, lambda plan: replace(plan, offers=wrong))
            plan = server.plan
            with pytest.raises(DanluError):
                await server.reload()
            assert set(rollout.models) == {"law"} and rollout.models["law"].lenses == ((lens_of(law), 1.0),)
            assert server.plan is plan and server.workers == workers
            assert (await place.client.ask("law")).split()[0] == mark_of(law)

            def no_worker(name: str, descriptor: int, line: Path) -> Command:
                return Command(["/bin/false"], {}, "", "")

            right = (Offer("law", str(better)), Offer("good", str(good)))
            reads(place, lambda plan: replace(plan, offers=right, worker=no_worker))
            with pytest.raises(EngineError):
                await server.reload()
            assert set(rollout.models) == {"law"} and rollout.models["law"].lenses == ((lens_of(law), 1.0),)
            assert rollout.models["law"].target == str(law) and before.offers == server.plan.offers
            assert (await place.client.ask("law")).split()[0] == mark_of(law) and not place.client.failures

    asyncio.run(story())


def test_a_reload_moves_to_another_address_and_loses_no_answer(tmp_path: Path, base: Path) -> None:
    law = make_adapter(tmp_path / "law", base)
    habits(base, word_s=0.05, num_words=20)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(law)), num_replicas=1) as place:
            client, old = place.client, place.server.plan.listener
            running = asyncio.create_task(client.ask(is_stream=True))
            await until(lambda: place.server.line.outstanding(lens_of(law)) == 1)
            fresh = socket.create_server(("127.0.0.1", 0), backlog=64)
            reads(place, lambda plan: replace(plan, listener=fresh))
            await place.server.reload()
            assert set((await running).split()) == {mark_of(law)}, "begun at the old address, ended there"
            client.url = f"http://127.0.0.1:{fresh.getsockname()[1]}"
            assert await client.ask() and not client.failures
            await until(lambda: old.fileno() == -1)
            fresh.close()

    asyncio.run(story())


def test_workers_names_are_taken_again(tmp_path: Path, base: Path) -> None:
    """Each reload left another pair of log files behind, w0, w1, w2 and on."""
    law = make_adapter(tmp_path / "law", base)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(law)), num_replicas=1) as place:
            for _ in range(4):
                await place.server.reload()
                await until(lambda: len(place.server._running) == 1)
                assert await place.client.ask()
            written = sum(path.read_bytes().count(b'"done"') for path in (place.home / "journal").iterdir())
            assert written == 4 and not place.client.failures

    asyncio.run(story())
    assert {path.name for path in (tmp_path / "serving" / "logs").glob("requests-*")} <= {
        "requests-w0.jsonl", "requests-w1.jsonl",
    }  # fmt: skip
    assert {path.stem for path in (tmp_path / "serving" / "logs").glob("w*.log")} == {"w0", "w1"}


def test_who_thinks_better_of_a_start_leaves_no_error_that_nobody_heard(tmp_path: Path) -> None:
    """Ctrl-C while engines start printed `Future exception was never retrieved`."""
    heard: list[dict[str, Any]] = []

    async def story() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))

        async def never() -> bool:
            return False

        command = Command(["/bin/sleep", "60"], {}, "", "")
        child = Child("w0", command, log=tmp_path / "w0.log", is_ready=never, patience=QUICK)
        starting = asyncio.gather(child.start())
        await until(lambda: child.pid)
        pid = child.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await child.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(story())
    gc.collect()
    assert not heard
