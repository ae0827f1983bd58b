"""Incidents of others that a rollout must not repeat.

15: one adapter or request that an engine was not made for kills it, and all that came later fails with it.
16: an adapter reloaded under its old name goes on answering from what the engine had cached of the old one.
"""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lens_kit import habits, lens_of, make_adapter, make_base, mark_of, until
from server_kit import serving

from danlu.core.errors import DanluError
from danlu.serving.rollout import Offer


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base")


def _nan(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    tensors[sorted(tensors)[0]][0, 0] = np.nan
    return tensors


def test_incident_15_no_engine_ever_sees_an_adapter_that_would_kill_it(tmp_path: Path, base: Path) -> None:
    good = make_adapter(tmp_path / "good", base)
    bad = [
        make_adapter(tmp_path / "nan", base, seed=1, change=_nan),
        make_adapter(tmp_path / "rank", base, seed=2, rank=9),
    ]
    habits(base, dies_of=lens_of(bad[0]), refuses={lens_of(bad[1]): "*"})

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(good)), num_replicas=1) as place:
            for artifact in bad:
                with pytest.raises(DanluError) as refusal:
                    await place.server.rollout.switch("law", str(artifact))
                assert refusal.value.key in ("rollout.not_finite", "rollout.rank")
            await place.client.ask()
            assert not place.client.failures
            child = place.server.rollout.fleet.pools["tiny"].instances[0].child
            assert child is not None and child.facts.num_starts == 1

    asyncio.run(story())


def test_incident_15_an_adapter_that_kills_an_engine_is_not_rolled_out_and_not_loaded_again(
    tmp_path: Path, base: Path
) -> None:
    """What passes every check and kills all the same."""
    good, deadly = make_adapter(tmp_path / "good", base), make_adapter(tmp_path / "deadly", base, seed=1)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(good))) as place:
            rollout, client = place.server.rollout, place.client
            habits(base, dies_of=lens_of(deadly))
            ended = asyncio.Event()
            asking = [asyncio.create_task(client.keep_asking(ended)) for _ in range(4)]
            with pytest.raises(DanluError):
                await rollout.switch("law", str(deadly))
            first, second = rollout.fleet.pools["tiny"].instances
            assert first.child is not None and second.child is not None
            await until(lambda: first.child.facts.num_starts == 2 and first.state == "ready")
            ended.set()
            await asyncio.gather(*asking)
            assert second.child.facts.num_starts == 1, "it was tried on one"
            assert set(first.loaded) == set(second.loaded) == {lens_of(good)}, "it came back without"
            assert set(client.seen) == {lens_of(good)} and not client.failures
            assert rollout.models["law"].problem

    asyncio.run(story())


def test_incident_15_one_replica_dead_for_good_and_everything_is_answered(tmp_path: Path, base: Path) -> None:
    good = make_adapter(tmp_path / "good", base)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(good))) as place:
            client, instances = place.client, place.server.rollout.fleet.pools["tiny"].instances
            child = instances[0].child
            assert child is not None
            child.command = type(child.command)(["/bin/false"], {}, child.command.address, child.command.secret)
            await child.kill()
            ended = asyncio.Event()
            asking = [asyncio.create_task(client.keep_asking(ended)) for _ in range(4)]
            await until(lambda: child.facts.num_starts >= 3)
            ended.set()
            await asyncio.gather(*asking)
            assert not client.failures and sum(client.seen.values()) > 10
            assert instances[0].state == "down"

    asyncio.run(story())


def test_incident_16_a_name_never_means_two_contents(tmp_path: Path, base: Path) -> None:
    """The same folder, the same name, other weights: another lens, and the old one says to its end what it said."""
    place_on_disk = make_adapter(tmp_path / "law", base)
    first_lens, first_mark = lens_of(place_on_disk), mark_of(place_on_disk)
    habits(base, word_s=0.05, num_words=20)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(place_on_disk)), num_replicas=1) as place:
            rollout, client = place.server.rollout, place.client
            running = asyncio.create_task(client.ask(is_stream=True))
            await until(lambda: place.server.line.outstanding(first_lens) == 1)
            shutil.rmtree(place_on_disk)
            make_adapter(place_on_disk, base, seed=5)
            second_lens, second_mark = lens_of(place_on_disk), mark_of(place_on_disk)
            await rollout.switch("law", str(place_on_disk))
            text = await client.ask()
            assert text.split()[0] == second_mark != first_mark and first_lens != second_lens
            assert set((await running).split()) == {first_mark}, "begun before, whole afterwards"
            loaded: dict[str, Any] = rollout.fleet.pools["tiny"].instances[0].loaded
            assert loaded == {first_lens: first_lens, second_lens: second_lens}, "engines know contents, not aliases"
            await rollout.rollback("law")
            assert (await client.ask()).split()[0] == first_mark
            assert not client.failures and not client.mixed
            instance = rollout.fleet.pools["tiny"].instances[0]
            assert instance.child is not None
            await instance.child.kill()
            await until(lambda: instance.state == "down")
            await until(lambda: instance.state == "ready")
            assert set(instance.loaded) == {second_lens} and instance.problem, (
                "the files of the first are others by now"
            )

    asyncio.run(story())


def test_incident_16_a_lens_that_left_the_engines_is_read_again_and_held_to_its_name(
    tmp_path: Path, base: Path
) -> None:
    first, second = make_adapter(tmp_path / "a", base), make_adapter(tmp_path / "b", base, seed=1)

    async def story() -> None:
        async with serving(tmp_path, base, Offer("law", str(first)), num_replicas=1) as place:
            rollout, name = place.server.rollout, lens_of(first)
            await rollout.switch("law", str(second))
            await rollout.remove(name)
            shutil.rmtree(first)
            make_adapter(first, base, seed=7)  # somebody put another one into its folder
            with pytest.raises(DanluError) as refusal:
                await rollout.rollback("law")
            assert refusal.value.key == "rollout.changed" and mark_of(first) in str(refusal.value)
            assert (await place.client.ask()).split()[0] == mark_of(second)

    asyncio.run(story())
