"""The server process with real gateway workers in front of stub engines: switches under load, deaths of engines and of
workers, reload, the control socket, and an orderly end."""

import asyncio
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from lens_kit import habits, lens_of, make_adapter, make_base, make_merged, mark_of, register, until
from server_kit import serving

from danlu.core.errors import DanluError
from danlu.run.registry import Registry
from danlu.serving import control, instances
from danlu.serving.rollout import Offer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def test_flips_under_load_fail_nothing_and_mix_nothing(tmp_path: Path, base: Path) -> None:
    artifacts = [make_adapter(tmp_path / str(n), base, seed=n) for n in range(4)]
    habits(base, word_s=0.005, num_words=8)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifacts[0])), num_workers=2) as place:
            ended, client = asyncio.Event(), place.client
            asking = [asyncio.create_task(client.keep_asking(ended, is_stream=bool(n % 2))) for n in range(6)]
            for n in range(12):
                await place.server.rollout.switch("law", str(artifacts[(n + 1) % 4]))
            ended.set()
            await asyncio.gather(*asking)
            assert not client.failures and not client.mixed
            assert len(client.seen) == 4 and sum(client.seen.values()) > 30

    asyncio.run(story())


def test_a_killed_engine_fails_its_running_streams_only(tmp_path: Path, base: Path) -> None:
    artifact = make_adapter(tmp_path / "a", base)
    habits(base, word_s=0.05, num_words=20)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact))) as place:
            client, instances = place.client, place.server.rollout.fleet.pools["tiny"].instances
            running = [asyncio.create_task(client.ask(is_stream=True)) for _ in range(8)]
            posts = place.server.line.posts
            await until(lambda: sum(posts["w0"].on_replica.values()) == 8)
            assert posts["w0"].on_replica == {"tiny-0": 4, "tiny-1": 4}
            await asyncio.sleep(0.3)  # all of them have had their first byte
            assert instances[0].child is not None
            os.kill(instances[0].child.pid, signal.SIGKILL)
            later = [asyncio.create_task(client.ask(is_stream=bool(n % 2))) for n in range(10)]
            await asyncio.gather(*running, *later)
            assert len(client.failures) == 4, client.failures
            assert client.seen == {lens_of(artifact): 14} and not client.mixed
            await until(lambda: instances[0].state == "ready")
            assert instances[0].child.facts.num_starts == 2 and "SIGKILL" in instances[0].child.facts.last_end
            client.failures.clear()
            await asyncio.gather(*(client.ask() for _ in range(10)))
            assert not client.failures

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_files_that_changed_are_not_served_by_an_engine_that_came_back(
    tmp_path: Path, base: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole model whose weights were overwritten went on under its proven name after the engine's next start; a
    model that was left out then stayed away for ever, and nobody was told why."""
    monkeypatch.setattr(instances, "MEND_S", 0.2)
    artifact = (make_merged if kind == "merged" else make_adapter)(tmp_path / "a", base)
    weights = next(artifact.glob("*.safetensors"))
    proven = weights.read_bytes()

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact)), num_replicas=1) as place:
            client, (pool,) = place.client, place.server.rollout.fleet.pools.values()
            (instance,) = pool.instances
            assert await client.ask() and instance.child is not None
            weights.write_bytes(proven[:-4] + bytes(4))
            os.kill(instance.child.pid, signal.SIGKILL)
            await until(lambda: bool(instance.problem))
            assert "not the one that was proven" in instance.problem and not instance.loaded
            assert not await client.ask() and "model_not_loaded" in client.failures[-1]
            weights.write_bytes(proven)
            await until(lambda: bool(instance.loaded) and not instance.problem)
            client.failures.clear()
            await asyncio.sleep(0.2)
            assert await client.ask() and not client.failures

    asyncio.run(story())


def test_a_base_that_was_swapped_is_not_served_by_an_engine_that_came_back(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adapters' own files were hashed again at each start, their base's were not: its weights could be overwritten, and
    an engine that died went on with the new ones under the old name."""
    monkeypatch.setattr(instances, "MEND_S", 0.2)
    artifact, weights = make_adapter(tmp_path / "a", base), base / "model.safetensors"
    proven = weights.read_bytes()

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact))) as place:
            client, (pool,) = place.client, place.server.rollout.fleet.pools.values()
            first, second = pool.instances
            assert first.child is not None and second.child is not None
            weights.write_bytes(proven[:-4] + bytes(4))
            os.kill(first.child.pid, signal.SIGKILL)
            await until(lambda: bool(first.problem))
            assert "The base's files are not the ones" in first.problem and not first.loaded and first.state == "down"
            told = [facts for name, facts in place.events if name == "engine" and facts.get("problem")]
            assert told and told[-1]["replica"] == first.name, "it is said aloud"
            await asyncio.gather(*(client.ask() for _ in range(6)))
            assert not client.failures and client.seen == {lens_of(artifact): 6}, "the other goes on"
            weights.write_bytes(proven)
            await until(lambda: first.state == "ready" and bool(first.loaded))
            assert first.child.facts.num_starts == 3, "the process that had read the others has ended"
            assert second.child.facts.num_starts == 1

    asyncio.run(story())


def test_an_engine_that_came_back_and_answers_otherwise_is_not_asked(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files, and an engine's program that was replaced meanwhile: canaries are asked again at each start."""
    monkeypatch.setattr(instances, "MEND_S", 0.2)
    artifact = make_adapter(tmp_path / "a", base)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact))) as place:
            client, (pool,) = place.client, place.server.rollout.fleet.pools.values()
            first, _ = pool.instances
            habits(base, answers_wrong=True)
            assert first.child is not None
            os.kill(first.child.pid, signal.SIGKILL)
            await until(lambda: bool(first.problem))
            assert "canaries" in first.problem and not first.loaded and first.state == "down"
            await asyncio.gather(*(client.ask() for _ in range(4)))
            assert not client.failures
            habits(base)
            await until(lambda: first.state == "ready")

    asyncio.run(story())


def test_a_killed_worker_is_started_again_and_its_books_are_whole(tmp_path: Path, base: Path) -> None:
    artifact = make_adapter(tmp_path / "a", base)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact)), num_workers=2) as place:
            client, first = place.client, place.server.workers[0]
            ended, pid = asyncio.Event(), first.pid
            asking = [asyncio.create_task(client.keep_asking(ended)) for _ in range(4)]
            await until(lambda: sum(client.seen.values()) > 20)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: first.pid not in (0, pid) and first.state == "ready")
            ended.set()
            await asyncio.gather(*asking)
            assert len(client.failures) <= 4, "what it was answering, and nothing else"
            assert not client.mixed
            written = b"".join(path.read_bytes() for path in sorted((place.home / "journal").iterdir()))
            num_answered = sum(client.seen.values())
            assert written.count(b'"done"') >= num_answered, "each answered request stands in a journal"

    asyncio.run(story())


def test_a_reload_loses_no_request(tmp_path: Path, base: Path) -> None:
    artifact = make_adapter(tmp_path / "a", base)
    habits(base, word_s=0.02, num_words=10)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact))) as place:
            client, ended = place.client, asyncio.Event()
            asking = [asyncio.create_task(client.keep_asking(ended, is_stream=bool(n % 2))) for n in range(6)]
            await until(lambda: sum(client.seen.values()) > 6)
            old = place.server.workers
            told = await asyncio.to_thread(control.ask, place.home, control.Reload())
            assert told["workers"] == ["w1"] and told["draining"] == ["w0"]
            await until(lambda: old[0].state == "stopped")
            seen = sum(client.seen.values())
            await until(lambda: sum(client.seen.values()) > seen + 6)
            ended.set()
            await asyncio.gather(*asking)
            assert not client.failures and not client.mixed
            assert list(place.server.line.posts) == ["w1"]

    asyncio.run(story())


def test_the_control_socket(tmp_path: Path, base: Path) -> None:
    artifacts = [make_adapter(tmp_path / "runs" / str(n), base, seed=n) for n in range(2)]
    for artifact in artifacts:
        register(tmp_path, artifact)
    Registry(tmp_path).point("law", "prod", 1)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", "law@prod"), num_replicas=1) as place:

            async def ask(request: control.Request) -> dict[str, Any]:
                return await asyncio.to_thread(control.ask, place.home, request)

            client = place.client
            assert stat.S_IMODE(os.stat(place.home / control.NAME).st_mode) == 0o600
            told = await ask(control.Status())
            assert told["models"][0]["follows"] == "law@prod" and told["children"][0]["state"] == "ready"
            await ask(control.Switch(model="law", to="2", reason="try"))
            assert (await client.ask()).split()[0] == mark_of(artifacts[1])
            await ask(control.Rollback(model="law"))
            await ask(control.Split(model="law", shares={"1": 0.5, "2": 0.5}))
            await asyncio.gather(*(client.ask() for _ in range(6)))
            assert client.seen == {lens_of(artifacts[0]): 3, lens_of(artifacts[1]): 4}
            await ask(control.Add(model="second", to="law:2"))
            await client.ask("second")
            await ask(control.Remove(name="second"))
            with pytest.raises(DanluError) as refusal:
                await ask(control.Switch(model="nobody", to="2"))
            assert refusal.value.key == "rollout.unknown" and "law" in refusal.value.text
            Registry(tmp_path).point("law", "prod", 2)  # rolled out by itself
            await until(lambda: place.server.rollout.models["law"].lenses == ((lens_of(artifacts[1]), 1.0),))
            reader, writer = await asyncio.open_unix_connection(str(place.home / control.NAME))
            for rubbish in (
                b"{}\n",
                b'{"do":"switch"}\n',
                b'{"do":"sing"}\n',
                b'{"do":"status","x":1}\n',
                b"nonsense\n",
            ):
                writer.write(rubbish)
                assert b"rollout.request" in await reader.readline()
            writer.close()
            assert not client.failures and not client.mixed
        with pytest.raises(DanluError) as refusal:
            await asyncio.to_thread(control.ask, place.home, control.Status())
        assert refusal.value.key == "rollout.not_running"

    asyncio.run(story())


def test_a_second_server_on_one_home_is_refused_before_it_starts_engines(tmp_path: Path, base: Path) -> None:
    artifact = make_adapter(tmp_path / "a", base)

    async def story() -> None:
        offer = Offer("law", str(artifact))
        async with serving(tmp_path, base, offer, num_replicas=1) as first:
            with pytest.raises(DanluError) as refusal:
                async with serving(tmp_path, base, offer, num_replicas=1):
                    raise AssertionError("there is one already")
            assert refusal.value.key == "rollout.is_running"
            assert await first.client.ask()
            os.kill(first.server.workers[0].pid, signal.SIGKILL)  # its line's socket is still there to come back to
            await until(lambda: first.server.workers[0].facts.num_starts == 2)
            await until(lambda: first.server.workers[0].state == "ready")
            assert await first.client.ask()

    asyncio.run(story())


def test_reloads_that_overlap_leave_no_worker_behind(tmp_path: Path, base: Path) -> None:
    """SIGHUP twice within a start: workers that nobody knew any more went on serving the settings of before."""
    artifact = make_adapter(tmp_path / "a", base)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact)), num_replicas=1) as place:
            server, first = place.server, place.server.workers
            await asyncio.gather(*(server.reload() for _ in range(4)))
            assert first[0].state in ("stopping", "stopped")
            await until(lambda: list(server.line.posts) == [child.name for child in server.workers])
            assert server.workers[0].state == "ready" and await place.client.ask()

    asyncio.run(story())


def test_an_end_lets_answers_end(tmp_path: Path, base: Path) -> None:
    artifact = make_adapter(tmp_path / "a", base)
    habits(base, word_s=0.1, num_words=15)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(artifact)), num_replicas=1) as place:
            client = place.client
            running = [asyncio.create_task(client.ask(is_stream=bool(n % 2))) for n in range(4)]
            await asyncio.sleep(0.5)
            pids = [place.server.workers[0].pid, place.server.rollout.fleet.pools["tiny"].instances[0].child.pid]  # type: ignore[union-attr]
            await place.server.close()
            await asyncio.gather(*running)
            assert not client.failures and client.seen == {lens_of(artifact): 4}
            for pid in pids:
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)

    asyncio.run(story())
