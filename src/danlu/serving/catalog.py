"""The catalog: every lens that was looked at in this server process, and where it lies. It reads, and loads nothing.

A target is an artefact's folder, a version of the registry (`law:3`, `law@prod`), or the immutable name of a lens that
was here before. What is not in the engines is read again, whatever it was before: a name is held to its content.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from danlu.core.errors import EngineError, RunError
from danlu.core.messages import say
from danlu.run.artifact import NAME as MANIFEST
from danlu.run.artifact import Manifest
from danlu.run.registry import Registry
from danlu.serving.lenses import OpenedLens, open_lens, open_url
from danlu.serving.pool_plan import PoolPlan


class Catalog:
    """`pool_for` says which pool an artefact belongs to."""

    def __init__(self, registry: Registry, pool_for: Callable[[Path, Manifest], PoolPlan]) -> None:
        self.registry, self.pool_for = registry, pool_for
        self.opened: dict[str, OpenedLens] = {}
        self.places: dict[str, str] = {}
        """Lens to where it was found: a label of the registry, or a folder."""

    def __getitem__(self, lens: str) -> OpenedLens:
        return self.opened[lens]

    def __contains__(self, lens: str) -> bool:
        return lens in self.opened

    def label(self, lens: str) -> str:
        return self.opened[lens].lens.label

    async def look(self, target: str) -> OpenedLens:
        """What a target means. EngineError where a lens is no longer what its name says."""
        opened = await asyncio.to_thread(self._look, self.places.get(target, target))
        name = opened.lens.name
        if target in self.places and name != target:
            raise EngineError("rollout.changed", where=self.places[target], given=name, expected=target)
        self.opened[name] = opened
        self.places[name] = opened.lens.label or str(opened.folder)
        return opened

    async def look_behind(self, model: str, url: PoolPlan, artifact: Path | None) -> OpenedLens:
        """Somebody else's engine."""
        opened = await asyncio.to_thread(open_url, model, url, artifact)
        self.opened[opened.lens.name] = opened
        return opened

    def check_usable(self, lens: str) -> None:
        """RunError where the registry has withdrawn it since it was looked at. Reads a file."""
        if self._is_withdrawn(label := self.label(lens)):
            raise RunError("registry.is_withdrawn", where=label, given=label)

    def why_last(self, lens: str) -> str:
        """Why it could not be rolled out again, though it answers now; "" where it could. Reads files."""
        folder, label = self.opened[lens].folder, self.label(lens)
        if self._is_withdrawn(label):
            return say("rollout.withdrawn", lens=lens, label=label)
        if folder is not None and not (folder / MANIFEST).is_file():
            return say("rollout.gone", lens=lens, place=str(folder))
        return ""

    def know(self, places: Mapping[str, str]) -> None:
        """Of an earlier process."""
        self.places |= places

    def _is_withdrawn(self, label: str) -> bool:
        """A registry that cannot be read says nothing, and stops no way back."""
        with contextlib.suppress(RunError):
            return bool(label) and self.registry.resolve(label).is_withdrawn
        return False

    def _look(self, target: str) -> OpenedLens:
        """Runs in a thread: every byte is read."""
        if (Path(target) / MANIFEST).is_file():
            return open_lens(Path(target).resolve(), self.pool_for)
        version = self.registry.resolve(target)
        return open_lens(self.registry.open(version).resolve(), self.pool_for, label=version.label)
