"""`danlu bundle`: one folder that a machine without a network installs and serves from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from danlu.cli.serving_words import ServingWords
from danlu.cli.voice import Voice
from danlu.core.errors import ExportError
from danlu.core.messages import listed, say
from danlu.pipeline.bundle import Bundle, Wanted, bundle, check
from danlu.pipeline.serve_targets import Wanted as Served
from danlu.run.registry import Registry

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
    models, section = ServingWords.of(words, config).read(runs)
    if urls := [model.url for model in models if model.url]:
        raise ExportError("bundle.urls", given=listed(urls))
    if not models and not (to_train or others):
        raise ExportError("bundle.nothing")
    targets = tuple((model.name, _folder(model, runs)) for model in models)
    wanted = Wanted(
        targets, section, tuple(others), wheels, has_wheels, to_train,
        python or f"{sys.version_info.major}.{sys.version_info.minor}", platform, models[0].name if models else "danlu",
    )  # fmt: skip
    _show(bundle(out, wanted, progress=voice.progress), voice, has_wheels=has_wheels)


def check_bundle(folder: Path, voice: Voice) -> None:
    num_files = check(folder)
    voice.say(say("bundle.whole", where=folder, files=num_files), "green")
    voice.result({"folder": str(folder), "num_files": num_files, "whole": True})


def _folder(model: Served, runs: Path) -> Path:
    """An artefact's folder, or the one that a name of the registry means today."""
    registry = Registry(runs)
    return model.folder or registry.open(registry.resolve(model.label))


def _show(made: Bundle, voice: Voice, *, has_wheels: bool) -> None:
    voice.say(say("bundle.made", where=made.folder, files=made.num_files, size=f"{made.num_bytes / MIB:,.0f}"), "green")
    columns = [say(f"bundle.col_{part}") for part in ("model", "kind", "base")]
    voice.table(columns, [(model["name"], model["kind"], model["base"] or "-") for model in made.models])
    if has_wheels:
        voice.say(say("bundle.wheels", wheels=len(made.wheels)))
    voice.say(say("bundle.next" if has_wheels else "bundle.next_files", where=made.folder))
    voice.result(made.to_json())
