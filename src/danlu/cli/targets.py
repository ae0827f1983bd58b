"""What a person may name on the command line: a recipe file, a run (folder or name), an artefact folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.core.errors import RunError
from danlu.recipe import Recipe
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.run import Run, list_runs

RECIPE_SUFFIXES = (".yaml", ".yml", ".json")


def open_target(target: str, overrides: Sequence[str], runs: Path) -> Run:
    """The run that `target` means: a recipe's own run, a run folder, a run's name, or the newest run of that name.

    Raises RunError where there is none, or where overrides are given beside anything but a recipe file."""
    path = Path(target)
    if path.suffix in RECIPE_SUFFIXES and not path.is_dir():
        return Run.create(Recipe.load(path, overrides), runs)
    refuse_overrides(target, overrides)
    if (path / "run.json").is_file():
        return Run.open(path)
    if (path / ARTIFACT_FILE).is_file():
        return Run.open(path.resolve().parents[1])
    for folder in list_runs(runs):
        if target in (folder.name, folder.name.rpartition("-")[0]):
            return Run.open(folder)
    raise RunError("cli.no_target", given=target)


def refuse_overrides(target: str, overrides: Sequence[str]) -> None:
    """Overrides change a recipe; what was made of one keeps it, so they are refused rather than ignored."""
    if overrides:
        raise RunError("cli.overrides_on_run", where=target, given=" ".join(overrides))


def is_artifact(target: str) -> bool:
    return (Path(target) / ARTIFACT_FILE).is_file()
