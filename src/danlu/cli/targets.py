"""What a person may name on the command line: a recipe file, a run (folder or name), an artefact folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import listed, say
from danlu.recipe import Recipe
from danlu.recipe.later import counted
from danlu.recipe.recipe import OUTSIDE
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.kept import read_kept
from danlu.run.run import Run, list_runs

MOST_KEYS = 8
MOST_RECIPE_BYTES = 1_000_000
SMOKE = ("training.max_steps=30", "evaluation.max_items=20")
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
    raise RunError("cli.data_as_target" if path.exists() else "cli.no_target", given=target)


def data_and_overrides(target: str, words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files and folders of data among these words, and the `a.b=c` of them; no data where `target` is a recipe, a
    run or an artefact. RunError where both are named."""
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    others = [word for word in words if word not in overrides]
    if not _is_data(target):
        if others:
            raise RunError("begin.one_target", given=" ".join([target, *others]))
        return [], overrides
    return [Path(word) for word in (target, *others)], overrides


def _is_data(target: str) -> bool:
    """Whether it is there and nothing that danlu has made or a person has written for it."""
    path = Path(target)
    if path.is_dir():
        return not any((path / name).is_file() for name in ("run.json", ARTIFACT_FILE, "card.json"))
    if path.suffix == ".json" and path.is_file():
        return not _is_recipe(path)
    return path.exists() and path.suffix not in RECIPE_SUFFIXES


def _is_recipe(path: Path) -> bool:
    """Whether a JSON file has chapters; rows are a list, or objects without any."""
    if path.stat().st_size > MOST_RECIPE_BYTES:
        return False
    try:
        tree = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return False
    return isinstance(tree, dict) and bool(tree.keys() & (Recipe.model_fields.keys() - {"name", "data"}))


def smoke_overrides(target: str, overrides: Sequence[str]) -> list[str]:
    """What makes a recipe's run a short one through every act; a run of its own, for these count. What a person says
    besides wins. Raises RunError for anything but a recipe file."""
    path = Path(target)
    if path.suffix not in RECIPE_SUFFIXES or path.is_dir():
        raise RunError("cli.smoke_needs_recipe", where="--smoke", given=target)
    recipe = Recipe.load(path, overrides)
    kind = "merged" if recipe.adapter.kind == "full" else "adapter"
    long = [index for index, stage in enumerate(recipe.stages) if "max_steps" in stage.training.model_fields_set]
    return [*SMOKE, *(f"stages.{index}.{SMOKE[0]}" for index in long), f"exports=[{kind}]", *overrides]


def tell_if_new(run: Run, voice: Voice) -> None:
    """A recipe that changed, or whose defaults changed with danlu, starts anew: said once, with what differs."""
    if any((run.folder / "acts").glob("*.json")):
        return
    for folder in list_runs(run.folder.parent):
        if folder.name.rpartition("-")[0] == run.folder.name.rpartition("-")[0] and any(
            (folder / "acts").glob("*.json")
        ):
            before, now = (_flat(counted(read_kept(place / "recipe.json"))) for place in (folder, run.folder))
            keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            shown = listed(keys[:MOST_KEYS]) + (" …" if len(keys) > MOST_KEYS else "")
            voice.progress.note(say("cli.new_run", run=run.folder.name, other=folder, keys=shown))
            return


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """`{"training.lr": 1e-4, …}`; of what decides what comes out."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if not above and name in (*OUTSIDE, "stages"):  # stages repeat what stands in the other chapters
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value
    return flat


def refuse_overrides(target: str, overrides: Sequence[str]) -> None:
    """Overrides change a recipe; what was made of one keeps it, so they are refused rather than ignored."""
    if overrides:
        raise RunError("cli.overrides_on_run", where=target, given=" ".join(overrides))


def is_artifact(target: str) -> bool:
    return (Path(target) / ARTIFACT_FILE).is_file()
