"""Files on disk, held to what was proven, each time that an engine reads them anew.

A name is a content: whatever an engine is started on, or loads, is hashed when it is first read, and again where size,
time or place on disk of any file is another since. What is unchanged is not read again, for models are large. An engine
that was started on other files is found out by this before it is asked anything, and by its canaries after.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from danlu.core.errors import EngineError
from danlu.model.shards import digest_folder
from danlu.serving.pool_plan import Loadable, PoolPlan

State = tuple[tuple[str, int, int, int], ...]
"""(name, size, time, inode) of each file."""


class ProvenFiles:
    """One a pool. `take` remembers how the base stands, which is right by now."""

    def __init__(self, plan: PoolPlan) -> None:
        self._base, self._base_digest = plan.spec.folder, plan.base_digest
        self._states: dict[str, State] = {}

    async def take(self) -> None:
        if self._base is not None and self._base_digest:
            self._states[""] = await asyncio.to_thread(_state_of, self._base)

    async def check_base(self) -> None:
        """EngineError where the base of adapters is another than the one they were trained on. A GGUF file has no
        digest that it was proven by: there, any change is refused."""
        if self._base is None or not self._base_digest:
            return
        state = await asyncio.to_thread(_state_of, self._base)
        if self._states.get("") == state:
            return
        given = (await asyncio.to_thread(digest_folder, self._base)) if self._base.is_dir() else "-"
        if given != self._base_digest:
            raise EngineError(
                "rollout.base_changed", where=str(self._base), given=given[:12], expected=self._base_digest[:12]
            )
        self._states[""] = state

    async def check(self, loadable: Loadable) -> None:
        """ExportError where the lens' own files are not those of its manifest."""
        if loadable.folder is None or loadable.manifest is None:
            return
        state = await asyncio.to_thread(_state_of, loadable.folder)
        if self._states.get(loadable.lens.name) != state:
            await asyncio.to_thread(loadable.manifest.check_files, loadable.folder)
            self._states[loadable.lens.name] = state


def _state_of(place: Path) -> State:
    paths = sorted(place.rglob("*")) if place.is_dir() else [place]
    told = ((path, path.stat()) for path in paths)
    return tuple((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in told)
