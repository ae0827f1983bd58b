"""`danlu bundle`: one folder that a machine without a network installs and serves from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from danlu.cli.voice import Voice
from danlu.core.errors import ExportError
from danlu.core.messages import say
from danlu.pipeline.bundle import Bundle, Wanted, bundle, check
from danlu.recipe.recipe import Recipe
from danlu.recipe.serving import ServingSection
from danlu.run.artifact import NAME as ARTIFACT_FILE
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry

SECTION = "serving."
MIB = 2**20


def make_bundle(
    words: Sequence[str],
    out: Path,
    runs: Path,
    voice: Voice,
    *,
    config: Path | None,
    others: Sequence[Path],
    to_train: bool,
    has_wheels: bool,
    wheels: Path | None,
    python: str | None,
    platform: str,
) -> None:
    section, named = _read(words, config)
    targets = tuple((name, _folder(target, runs)) for name, target in named)
    targets = tuple((name or Manifest.read(folder).name, folder) for name, folder in targets)
    if not targets and not (to_train or others):
        raise ExportError("bundle.nothing")
    names = [name for name, _ in targets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ExportError("bundle.twice", given=", ".join(twice))
    wanted = Wanted(
        targets, section, tuple(others), wheels, has_wheels, to_train,
        python or f"{sys.version_info.major}.{sys.version_info.minor}", platform, names[0] if names else "danlu",
    )  # fmt: skip
    _show(bundle(out, wanted, progress=voice.progress), voice, has_wheels=has_wheels)


def check_bundle(folder: Path, voice: Voice) -> None:
    num_files = check(folder)
    voice.say(say("bundle.whole", where=folder, files=num_files), "green")
    voice.result({"folder": str(folder), "num_files": num_files, "whole": True})


def _read(words: Sequence[str], config: Path | None) -> tuple[ServingSection, list[tuple[str, str]]]:
    """The chapter `serving` with its overrides, and (name, target) of each model; "" is the artefact's own name."""
    overrides = [word for word in words if word.startswith(SECTION) and "=" in word]
    section = (Recipe.load(config, overrides) if config else Recipe.from_tree({}, overrides)).serving
    named = [("", word) for word in words if word not in overrides]
    if named:
        return section, named
    urls = [served.target for served in section.models if served.is_url]
    if urls:
        raise ExportError("bundle.urls", given=", ".join(urls))
    return section, [(served.name or "", served.target) for served in section.models]


def _folder(target: str, runs: Path) -> Path:
    """An artefact's folder, or the one that a name of the registry means today."""
    folder = Path(target)
    if (folder / ARTIFACT_FILE).is_file():
        return folder
    registry = Registry(runs)
    return registry.open(registry.resolve(target))


def _show(made: Bundle, voice: Voice, *, has_wheels: bool) -> None:
    voice.say(say("bundle.made", where=made.folder, files=made.num_files, size=f"{made.num_bytes / MIB:,.0f}"), "green")
    columns = [say(f"bundle.col_{part}") for part in ("model", "kind", "base")]
    voice.table(columns, [(model["name"], model["kind"], model["base"] or "-") for model in made.models])
    if has_wheels:
        voice.say(say("bundle.wheels", wheels=len(made.wheels)))
    voice.say(say("bundle.next" if has_wheels else "bundle.next_files", where=made.folder))
    voice.result(made.to_json())
