"""Mirrors a run's events into trackers, from where it stopped last time: `trackers.json` holds how far each has come.

Read from `events.jsonl` alone, so a mirror may be made later, or again, or by another machine that sees the folder. A
figure is sent at least once: what a kill cut off is sent again, at the same step and time.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from danlu.core.errors import RunError
from danlu.core.files import read_json, write_json
from danlu.recipe.recipe import Recipe
from danlu.run.events import Events
from danlu.run.trackers import TRACKERS
from danlu.run.trackers.tracker import Point, Tracker

NAME = "trackers.json"
EVERY_S = 10.0
_FOLLOWED: set[Path] = set()
"""Runs whose acts nest."""
_FIGURES = ("loss", "lr", "grad_norm", "tokens_per_s", "num_supervised_tokens", "replay_share")


class Followed(Protocol):
    """A run, as far as a mirror looks at it."""

    folder: Path
    recipe: Recipe
    events: Events

    @property
    def name(self) -> str: ...


class Mirror:
    """Follows one run into one tracker."""

    def __init__(self, run: Followed, kind: str, place: str = "") -> None:
        self.run, self.kind = run, kind
        known = _read(run.folder).get(kind, {})
        self._tracker: Tracker = TRACKERS.load(kind, where="tracking.to")(place, run.name, run.folder, known)
        found = self._tracker.state()
        if not found.items() <= known.items():
            known = {}  # another place, or what was told there is gone: told from the beginning
        self._known = known | found
        self._sent = int(known.get("events", 0))
        self._write(is_over=False)  # a kill from here on opens no second one
        if not known.get("has_settings"):
            self._tracker.settings(_flat(run.recipe.resolved()))
            self._known["has_settings"] = True

    @property
    def look(self) -> str:
        """The command that shows what was sent; "" where there is none."""
        return self._tracker.look()

    def catch_up(self) -> int:
        """Send what is new; how many figures that were."""
        points: list[Point] = []
        num_events = 0
        for num_events, event in enumerate(self.run.events.read(), start=1):
            if num_events > self._sent:
                points += _points(event)
        self._tracker.points(points)
        self._sent = max(self._sent, num_events)
        self._write(is_over=False)
        return len(points)

    def close(self, *, is_over: bool) -> None:
        """The last figures, those of the report and the page that people read, too."""
        self.catch_up()
        reported = str(self._known.get("report", ""))
        path = self.run.folder / "report.json"
        if path.is_file() and (stamp := str(path.stat().st_mtime_ns)) != reported:
            self._tracker.points(list(_report_points(read_json(path), path.stat().st_mtime)))
            page = self.run.folder / "report.html"
            self._tracker.files([page] if page.is_file() else [])
            self._known = {**self._known, "report": stamp}
        self._write(is_over=is_over)
        self._tracker.close(is_over=is_over)

    def _write(self, *, is_over: bool) -> None:
        kept = self._known | self._tracker.state() | {"events": self._sent, "is_over": is_over}
        self._known = kept
        write_json(self.run.folder / NAME, _read(self.run.folder) | {self.kind: kept})


@contextlib.contextmanager
def following(run: Followed) -> Iterator[None]:
    """The recipe's trackers see what is done here as it happens. RunError before anything is done where one that is
    asked for is not installed."""
    section = run.recipe.tracking
    if not section.to or run.folder in _FOLLOWED:
        yield
        return
    places = {"mlflow": section.mlflow, "wandb": section.wandb}
    _FOLLOWED.add(run.folder)
    try:
        follower = Follower(run, {kind: places.get(kind, "") for kind in section.to})
        try:
            yield
        finally:
            follower.end()
    finally:
        _FOLLOWED.discard(run.folder)


class Follower:
    """Mirrors while an act works. What goes wrong in a tracker is an event of the run, and ends that mirror alone."""

    def __init__(self, run: Followed, kinds: Mapping[str, str]) -> None:
        self.run = run
        self._mirrors: list[Mirror] = []
        self._over = threading.Event()
        for kind, place in kinds.items():
            self._guarded(kind, functools.partial(self._open, kind, place))
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        if self._mirrors:
            self._thread.start()

    def end(self) -> None:
        self._over.set()
        if self._mirrors:
            self._thread.join()
        for mirror in self._mirrors:
            self._guarded(mirror.kind, functools.partial(mirror.close, is_over=False))

    def _open(self, kind: str, place: str) -> None:
        self._mirrors.append(Mirror(self.run, kind, place))

    def _follow(self) -> None:
        while not self._over.wait(EVERY_S):
            for mirror in list(self._mirrors):
                if not self._guarded(mirror.kind, mirror.catch_up):
                    self._mirrors.remove(mirror)

    def _guarded(self, kind: str, act: Callable[[], object]) -> bool:
        try:
            act()
        except RunError:  # not installed: whoever asked for it is told before anything is done
            raise
        except Exception as error:  # a tracker is another program: whatever it raises must not end a training
            self.run.events.append("tracker_failed", tracker=kind, error=type(error).__name__, message=str(error)[:500])
            return False
        return True


def _points(event: Mapping[str, Any]) -> Iterator[Point]:
    if event.get("event") != "step":
        return
    step, stage, time_s = int(event["number"]), str(event.get("stage", "train")), float(event["time"])
    for name in _FIGURES:
        if isinstance(event.get(name), int | float):
            yield Point(f"{stage}/{name}", float(event[name]), step, time_s)
    for name, value in {**(event.get("metrics") or {}), **_validation(event)}.items():
        if isinstance(value, int | float):
            yield Point(f"{stage}/{name}", float(value), step, time_s)


def _validation(event: Mapping[str, Any]) -> dict[str, Any]:
    return {f"validation_{name}": value for name, value in (event.get("validation") or {}).items()}


def _report_points(report: Mapping[str, Any], time_s: float) -> Iterator[Point]:
    difference = report.get("difference") or {}
    values = {
        "accuracy": (report.get("tuned") or {}).get("accuracy"),
        "base_accuracy": (report.get("base") or {}).get("accuracy"),
        "gain": difference.get("value"),
        "ship": float((report.get("gate") or {}).get("decision") == "ship"),
    }
    for name, value in values.items():
        if isinstance(value, int | float):
            yield Point(f"report/{name}", float(value), 0, time_s)


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, dict):
        return {
            k: v for name, part in tree.items() for k, v in _flat(part, f"{prefix}.{name}" if prefix else name).items()
        }
    if isinstance(tree, list) and any(isinstance(part, dict | list) for part in tree):
        return {k: v for at, part in enumerate(tree) for k, v in _flat(part, f"{prefix}.{at}").items()}
    return {prefix: str(tree)}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / NAME
    try:
        found: dict[str, Any] = read_json(path) if path.is_file() else {}
    except ValueError:  # damaged: mirrored anew
        return {}
    return found
