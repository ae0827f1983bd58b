"""Mirrors: each figure at its step, nothing twice, and a tracker that breaks does no harm."""

from __future__ import annotations

import builtins
import shutil
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import RunError
from danlu.recipe import Recipe
from danlu.run.mirror import NAME, Mirror
from danlu.run.run import Run
from danlu.run.trackers import TRACKERS
from danlu.run.trackers.tracker import Point

SENT: dict[str, list[Point]] = {}


class Kept:
    """A tracker that keeps figures in memory, as another package could put one on the shelf."""

    def __init__(self, place: str, run: str, folder: Path, known: Mapping[str, Any]) -> None:
        self.place = place
        SENT.setdefault(place, [])

    def settings(self, values: Mapping[str, str]) -> None:
        assert values["training.epochs"] == "3.0"

    def points(self, points: Sequence[Point]) -> None:
        if self.place == "broken":
            raise ConnectionError("no route")
        SENT[self.place] += points

    def files(self, paths: Sequence[Path]) -> None: ...

    def state(self) -> dict[str, Any]:
        return {"place": self.place}

    def look(self) -> str:
        return ""

    def close(self, *, is_over: bool) -> None: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(TRACKERS.places, "kept", f"{__name__}:Kept")
    SENT.clear()
    return Run.create(Recipe.from_tree({"data": {"sources": ["a.jsonl"]}}), tmp_path / "runs")


def step(run: Run, number: int, **facts: Any) -> None:
    run.events.append("step", stage="1-sft", number=number, loss=1 / number, lr=0.1, **facts)


def test_figures_are_sent_once_each_at_their_step(run: Run) -> None:
    for number in (1, 2):
        step(run, number)
    mirror = Mirror(run, "kept", "a")
    assert mirror.catch_up() == 4
    step(run, 3, validation={"loss": 0.5})
    assert Mirror(run, "kept", "a").catch_up() == 3, "another process goes on where this one stopped"
    losses = [(point.step, point.value) for point in SENT["a"] if point.name == "1-sft/loss"]
    assert losses == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert [point.value for point in SENT["a"] if point.name == "1-sft/validation_loss"] == [0.5]
    assert Mirror(run, "kept", "a").catch_up() == 0


def test_another_place_is_told_from_the_beginning(run: Run) -> None:
    """Once only what was new went there: half a curve."""
    step(run, 1)
    assert Mirror(run, "kept", "a").catch_up() == 2
    assert Mirror(run, "kept", "b").catch_up() == 2


def test_a_server_that_is_not_there_is_said_at_once(run: Run) -> None:
    """MLflow tries again for minutes, and a training would wait for it."""
    pytest.importorskip("mlflow", reason="the extra track")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        began = time.monotonic()
        with pytest.raises(OSError):
            Mirror(run, "mlflow", f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert time.monotonic() - began < 60


def test_a_run_that_moved_without_its_database_is_told_anew(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra track")
    step(run, 1)
    assert Mirror(run, "mlflow").catch_up() == 2
    assert Mirror(run, "mlflow").catch_up() == 0
    elsewhere = tmp_path / "elsewhere" / run.name
    shutil.copytree(run.folder, elsewhere)
    assert Mirror(Run.open(elsewhere), "mlflow").catch_up() == 2


def test_acts_are_followed_and_a_broken_tracker_does_no_harm(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = run.recipe.resolved() | {"tracking": {"to": ["mlflow", "tensorboard"], "mlflow": "broken"}}
    monkeypatch.setitem(TRACKERS.places, "mlflow", f"{__name__}:Kept")
    monkeypatch.setitem(TRACKERS.places, "tensorboard", f"{__name__}:Kept")
    again = Run.create(Recipe.from_tree(tree), run.folder.parent)
    assert again.folder == run.folder, "who looks on is no part of what a run is"
    with again.acting("train"):
        step(again, 1)
        with again.acting("export"):
            pass
    assert [point.step for point in SENT[""]] == [1, 1]
    (failure,) = [event for event in again.events.read("tracker_failed") if event["tracker"] == "mlflow"][:1]
    assert failure["message"] == "no route"


def test_what_is_not_installed_is_said_before_anything_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] in ("mlflow", "wandb", "tensorboard"):
            raise ImportError(name)
        return plain(name, *rest, **more)

    for name in [name for name in sys.modules if name.partition(".")[0] in ("mlflow", "wandb", "tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    for kind in ("mlflow", "wandb", "tensorboard"):
        with pytest.raises(RunError) as caught:
            Mirror(run, kind)
        assert caught.value.key == "track.missing" and "danlu[track]" in caught.value.fix


def test_mlflow_keeps_it_beside_the_runs(run: Run) -> None:
    mlflow = pytest.importorskip("mlflow", reason="the extra track")
    step(run, 1)
    step(run, 2)
    for _ in range(2):
        mirror = Mirror(run, "mlflow")
        mirror.catch_up()
        mirror.close(is_over=True)
    client = mlflow.tracking.MlflowClient(tracking_uri=f"sqlite:///{run.folder.parent / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("danlu").experiment_id])
    assert [metric.value for metric in client.get_metric_history(found.info.run_id, "1-sft/loss")] == [1.0, 0.5]
    assert found.data.params["adapter.rank"] == "16" and found.info.status == "FINISHED"


def test_tensorboard_files_are_read_by_tensorboard(run: Run) -> None:
    pytest.importorskip("tensorboard", reason="the extra track")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    step(run, 1)
    step(run, 2)
    Mirror(run, "tensorboard").close(is_over=True)
    found = EventAccumulator(str(run.folder / "tensorboard"))
    found.Reload()
    assert [(one.step, one.value) for one in found.Scalars("1-sft/loss")] == [(1, 1.0), (2, 0.5)]


def test_wandb_stays_offline(run: Run) -> None:
    pytest.importorskip("wandb", reason="the extra track")
    step(run, 1)
    Mirror(run, "wandb").close(is_over=True)
    kept = list((run.folder / "wandb").rglob("offline-run-*/run-*.wandb"))
    assert kept and kept[0].stat().st_size > 0
    assert (run.folder / NAME).is_file()
