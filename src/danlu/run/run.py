"""Run: a directory that holds a recipe and all that came of it. Any act restarts alone; a finished act is reused.

Layout (format 1, documented in docs/reference.md):
  run.json         format version, name, created, danlu version
  recipe.json      the resolved recipe          contract.json   the template contract
  ledger.json      every input row's fate         rejects.jsonl   the refused rows
  acts/*.json      what finished, keyed by the digest of its inputs
  dataset/         packed tokens                checkpoints/    one folder per stage
  plan.json        per stage: memory, time, tokens at once, what each layer keeps
  events.jsonl     what happened when           report.json, report.html, answers/
  artifacts/       what may be shipped
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.core.files import dump_json, read_json, write_json
from danlu.recipe.recipe import Recipe
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.run.audit import AuditLog, facts_of
from danlu.run.events import Events
from danlu.run.kept import read_kept
from danlu.run.lock import locked
from danlu.run.migrate import FORMAT, migrate
from danlu.run.mirror import following
from danlu.version import VERSION


class Run:
    """An open run directory. Create one with `Run.create(recipe, runs)`, reopen it with `Run.open(folder)`."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self.events = Events(folder / "events.jsonl")

    @classmethod
    def create(cls, recipe: Recipe, runs: Path = Path("runs")) -> Run:
        """The run of this recipe under `runs`: the same recipe finds its run again, a changed one gets a new folder."""
        folder = runs / f"{recipe.name}-{recipe.digest[:8]}"
        if (folder / "run.json").exists():
            known = cls.open(folder)
            if _beside(known.recipe) != _beside(recipe):  # who looks on, and how many cards, makes no other run
                write_json(folder / "recipe.json", recipe.resolved())
                known = cls.open(folder)
            return known
        (folder / "acts").mkdir(parents=True, exist_ok=True)
        write_json(folder / "recipe.json", recipe.resolved())
        # run.json last: a folder without it was never a run
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(folder / "run.json", {"format": FORMAT, "name": recipe.name, "created": created, "danlu": VERSION})
        run = cls.open(folder)  # with the resolved recipe, as ever after: the same acts have the same inputs
        run.events.append("created", recipe=recipe.digest, danlu=VERSION)
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """Open an existing run; an older format is migrated, a newer one refused."""
        folder = Path(folder)
        if not (folder / "run.json").is_file():
            raise RunError("run.not_a_run", where=str(folder), given=str(folder))
        migrate(folder)
        return cls(folder, Recipe.from_tree(read_kept(folder / "recipe.json"), file=str(folder / "recipe.json")))

    @property
    def name(self) -> str:
        return self.folder.name

    def path(self, *parts: str) -> Path:
        return self.folder.joinpath(*parts)

    def finished(self, act: str, inputs: str) -> dict[str, Any] | None:
        """What an act left behind if it finished on these very inputs, else None."""
        record = self._record(act)
        return record["outcome"] if record and record["inputs"] == inputs else None

    def outcome(self, act: str) -> dict[str, Any] | None:
        """What an act left behind when it last finished, on whatever inputs; None when it never did."""
        record = self._record(act)
        return record["outcome"] if record else None

    def _record(self, act: str) -> dict[str, Any] | None:
        """A record that a crash of the disk left unreadable is no record: the act is done again."""
        try:
            record = read_json(self.folder / "acts" / f"{act}.json")
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        is_whole = isinstance(record, dict) and {"inputs", "outcome"} <= record.keys()
        return record if is_whole and isinstance(record["outcome"], dict) else None

    def forget(self, act: str) -> None:
        """What an act left behind no longer counts."""
        (self.folder / "acts" / f"{act}.json").unlink(missing_ok=True)

    def read(self, *parts: str) -> Any:
        """A JSON file of the run; RunError when it is missing or damaged."""
        return read_kept(self.path(*parts))

    def finish(self, act: str, inputs: str, outcome: dict[str, Any]) -> dict[str, Any]:
        """Record that an act is done; from now on `finished` answers for these inputs."""
        record = self.folder / "acts" / f"{act}.json"
        told = orjson.loads(dump_json({"act": act, "inputs": inputs, "outcome": outcome}))  # as it will be read back
        # The log first: a record that it does not hold is nobody's, whenever a kill comes.
        AuditLog(self.folder.parent / AUDIT_LOG).append(act, facts_of(self.name, told))
        write_json(record, told)
        self.events.append("finished", act=act, inputs=inputs)
        return outcome

    @contextlib.contextmanager
    def acting(self, act: str) -> Iterator[None]:
        """Hold the run while an act works; tells the events of start and failure."""
        with locked(self.folder / ".lock"):
            self.events.append("started", act=act)
            try:
                with following(self):
                    yield
            except BaseException as error:  # whatever ended it, a Ctrl-C too, stands in the events
                self.events.append("stopped", act=act, error=type(error).__name__, message=str(error)[:2000])
                raise


def _beside(recipe: Recipe) -> tuple[object, ...]:
    """What of a recipe may change while its run stays the same, and counts from then on."""
    return recipe.tracking, recipe.training.devices


def list_runs(runs: Path) -> list[Path]:
    """Run folders under `runs`, newest first."""
    found = [path.parent for path in runs.glob("*/run.json")]
    return sorted(found, key=lambda folder: (folder / "run.json").stat().st_mtime, reverse=True)
