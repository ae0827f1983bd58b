"""Which version answers: models, the lenses they point at, and every change of that, one at a time. Server process.

A change is: the artefact is looked at (`lenses.py`), loaded and checked on every replica (`fleet.py`), then a new board
is shown, and it is done when every worker goes by it. Until then, and whenever something fails, everything is as it
was.

What was changed by hand outlives the server process (`rollout.json`), unless the registry or the command line says
something else by then. Each change, and each that failed, stands in the audit log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.run.artifact import Manifest
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.run.audit import AuditLog
from danlu.run.registry import Registry
from danlu.serving.board import EMPTY, Board, Model
from danlu.serving.catalog import Catalog
from danlu.serving.fleet import Fleet
from danlu.serving.instances import Check, Instance, told
from danlu.serving.lenses import OpenedLens
from danlu.serving.line import Line
from danlu.serving.pool_plan import PoolPlan
from danlu.serving.processes import Patience
from danlu.serving.served import Served, Use, check_shares, keep, read_kept

AGREE_S = 10.0
"""So long workers have to take a board; one that hangs does not keep the others from going on."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the command line or the recipe wants served: `target` is an artefact's folder, `law:3`, or `law@prod`, which
    is followed; or `url` a pool of somebody else's engine, and `artifact` what it is said to run, to be compared."""

    model: str
    target: str
    url: PoolPlan | None = None
    artifact: Path | None = None


class Rollout:
    """`pool_for` says which pool an artefact belongs to; `check` whether an engine answers as it was proven to."""

    def __init__(
        self,
        home: Path,
        runs: Path,
        line: Line,
        *,
        pool_for: Callable[[Path, Manifest], PoolPlan],
        check: Check,
        drain_s: float = 30.0,
        answer_s: float = 600.0,
        patience: Patience | None = None,
        on_instance: Callable[[Instance], None] = lambda instance: None,
        on_event: Callable[[str, Mapping[str, Any]], None] = lambda name, facts: None,
    ) -> None:
        """`drain_s` and `answer_s` are the fleet's."""
        self.home, self.catalog, self.line = home, Catalog(Registry(runs), pool_for), line
        self.models: dict[str, Served] = {}
        self.fleet = Fleet(
            home, line, check=check, publish=self._republish, in_use=self._in_use, drain_s=drain_s, answer_s=answer_s,
            patience=patience, on_instance=on_instance,
        )  # fmt: skip
        self._on_event = on_event
        self._audit = AuditLog(runs / AUDIT_LOG)
        self._turn = asyncio.Lock()
        self.board = EMPTY
        self._is_open = False
        self.warnings: dict[str, str] = {}
        """By lens, of those in use."""

    # ---- what can be asked of it

    async def open(self, offers: Sequence[Offer]) -> None:
        """The first board. A DanluError of any offer ends it: a server that starts serves all it was told to."""
        kept = read_kept(self.home)
        async with self._turn:
            for offer in offers:
                await self._open(offer, kept.get(offer.model))
            try:
                await self.fleet.start(self._wanted())
            except DanluError as error:
                if not self._forget_changes(error):
                    raise
                await self.fleet.start(self._wanted())
            self._is_open = True
            self._publish()
        self._keep()
        shown = {name: dict(served.lenses) for name, served in self.models.items()}
        await self._write("serving.opened", {"models": shown}, "")

    async def close(self) -> None:
        await self.fleet.close()

    async def add(self, model: str, target: str, *, reason: str = "") -> dict[str, Any]:
        """A new model while everything runs; of one that is there, `switch`."""
        return await self.take(Offer(model, target), reason=reason)

    async def take(self, offer: Offer, *, reason: str = "") -> dict[str, Any]:
        """A new model: an artefact, or somebody else's engine."""
        if offer.model in self.models:
            raise EngineError("rollout.model_there", where=offer.model, given=offer.model)
        async with self._change("add", offer.model, {"target": offer.target}, reason) as facts:
            opened = await self._found(offer)
            await self.fleet.load(opened)
            self.models[offer.model] = self._serve(offer.model, offer.target, opened)
            facts["to"] = opened.lens.name
            await self._agree(facts)
        return facts

    async def retarget(self, offer: Offer, *, reason: str) -> None:
        """A model that is offered as something else from now on: switched to it, and to follow it."""
        served = self.models[offer.model]
        opened = await self._found(offer)
        async with self._change("switch", offer.model, {"target": offer.target}, reason) as facts:
            await self.fleet.load(opened)
            facts |= {"from": dict(served.lenses), "to": {opened.lens.name: 1.0}}
            served.turn_to(((opened.lens.name, 1.0),))
            await self._settle(facts)
        fresh = self._serve(offer.model, offer.target, opened)
        served.target, served.origin, served.offered = fresh.target, fresh.origin, fresh.offered
        self._keep()

    async def resize(self, num_replicas: int) -> None:
        async with self._turn:
            await self.fleet.resize(num_replicas)

    def go_by(self, pool_for: Callable[[Path, Manifest], PoolPlan], *, drain_s: float, answer_s: float) -> None:
        """Of what is looked at from now on."""
        self.catalog.pool_for = pool_for
        self.fleet.drain_s, self.fleet.answer_s = drain_s, answer_s

    async def switch(self, model: str, target: str, *, reason: str = "") -> dict[str, Any]:
        """Let the model be answered by this version from now on."""
        return await self.split(model, {target: 1.0}, reason=reason, deed="switch")

    async def split(
        self, model: str, shares: Mapping[str, float], *, reason: str = "", deed: str = "split"
    ) -> dict[str, Any]:
        """Let several versions answer, each its share. Shares are of one: 0.9 and 0.1."""
        served = self._served(model)
        check_shares(model, shares)
        async with self._change(deed, model, {"target": dict(shares)}, reason) as facts:
            found = [(await self._ready(self._whole(served, target)), share) for target, share in shares.items()]
            lenses: dict[str, float] = {}
            for opened, share in found:  # two words for one version
                lenses[opened.lens.name] = lenses.get(opened.lens.name, 0.0) + share
            facts |= {"from": dict(served.lenses), "to": lenses}
            served.turn_to(tuple(lenses.items()))
            await self._settle(facts)
        return facts

    async def rollback(self, model: str, *, reason: str = "") -> dict[str, Any]:
        """To what answered before the last change."""
        served = self._served(model)
        if not served.before:
            raise EngineError("rollout.nothing_before", where=model, given=model)
        async with self._change("rollback", model, {}, reason) as facts:
            lenses = served.before[-1]
            for name, _ in lenses:
                await self._ready(name)
            facts |= {"from": dict(served.lenses), "to": dict(lenses)}
            served.lenses, served.before = lenses, served.before[:-1]
            await self._settle(facts)
        return facts

    async def remove(self, name: str, *, reason: str = "") -> dict[str, Any]:
        """A model is no longer served; or a lens that no model points at leaves the engines."""
        async with self._change("remove", name, {}, reason) as facts:
            if name in self.models:
                del self.models[name]
                await self._agree(facts)
            elif name in self.catalog and (pool := self.fleet.pool_with(name)) is not None:
                if used := [served.name for served in self.models.values() if name in dict(served.lenses)]:
                    raise EngineError("rollout.in_use", where=name, given=name, models=", ".join(used))
                await self.fleet.let_go(pool, name)
            else:
                known = ", ".join(sorted({*self.models, *self.fleet.loaded()})) or "-"
                raise EngineError("rollout.unknown", where=name, given=name, known=known)
            facts["removed"] = name
            self.fleet.close_unused()
        return facts

    async def follow(self) -> None:
        """Look at the registry: a name that was pointed elsewhere there is rolled out here. What fails stays as it was
        and is tried again when the registry says something else, or by hand."""
        for served in [served for served in self.models.values() if served.follows]:
            try:
                version = await asyncio.to_thread(self.catalog.registry.resolve, served.follows)
                if version.digest == served.origin:
                    continue
                served.origin = version.digest
                await self.switch(served.name, version.label, reason=f"registry: {served.follows} = {version.label}")
            except DanluError as error:
                served.problem = told(error)
            self._keep()

    async def warn(self) -> None:
        """Of what answers and could not be rolled out again: withdrawn from the registry, or its files are away. It
        goes on answering, for clients rely on it; whoever runs the server is told, once each."""
        found = {lens: await asyncio.to_thread(self.catalog.why_last, lens) for lens in sorted(self._in_use())}
        before, self.warnings = self.warnings, {lens: why for lens, why in found.items() if why}
        for lens, why in self.warnings.items():
            if before.get(lens) != why:
                self._on_event("warning", {"lens": lens, "why": why})

    async def revive(self) -> None:
        """Engines that died too often are tried once more."""
        async with self._turn:
            await self.fleet.revive()

    # ---- one change

    @contextlib.asynccontextmanager
    async def _change(self, deed: str, model: str, asked: dict[str, Any], reason: str) -> AsyncIterator[dict[str, Any]]:
        """Alone, in the audit log, and undone where it fails."""
        facts = {"model": model} | asked
        async with self._turn:
            models = dict(self.models)
            past = {name: (served.lenses, served.before) for name, served in models.items()}
            try:
                yield facts
            except BaseException as fault:
                self.models = models
                for name, (lenses, before) in past.items():
                    models[name].lenses, models[name].before = lenses, before
                self._republish()
                if isinstance(fault, DanluError):
                    if model in models:
                        models[model].problem = told(fault)
                    await self._write(f"serving.{deed}_failed", facts | {"refused": told(fault)}, reason)
                    self._on_event("refused", {"deed": deed, "model": model, "why": told(fault)})
                raise
            if model in self.models:
                self.models[model].problem = ""
            self._keep()
            await self._write(f"serving.{deed}", facts, reason)
            self._on_event("changed", {"deed": deed} | facts)

    async def _settle(self, facts: dict[str, Any]) -> None:
        """The switch itself, and what nobody needs any more."""
        await self._agree(facts)
        self.fleet.close_unused()

    async def _agree(self, facts: dict[str, Any]) -> None:
        """Done when every worker goes by it. A worker that hangs is told of; it does not keep the others back."""
        number = self._publish()
        if not await self.line.agreed(number, within_s=AGREE_S):
            facts["late"] = [post.name for post in self.line.posts.values() if post.board < number]

    async def _open(self, offer: Offer, kept: Mapping[str, Any] | None) -> None:
        """As it was left by hand, if what it was offered as still means the same; else as offered. Loads nothing."""
        opened = await self._found(offer)
        served = self._serve(offer.model, offer.target, opened)
        self.models[offer.model] = served
        if kept is None or (kept["target"], kept["origin"]) != (served.target, served.origin):
            return
        self.catalog.know(kept["places"])
        try:
            for name, _ in kept["lenses"]:
                if name not in self.catalog:
                    await self._looked(name)
        except DanluError as error:  # it has been removed since
            served.problem = told(error)
        else:
            served.restore(kept)

    def _wanted(self) -> list[OpenedLens]:
        names = dict.fromkeys(name for served in self.models.values() for name, _ in served.lenses)
        return [self.catalog[name] for name in names]

    def _in_use(self) -> set[str]:
        return {name for served in self.models.values() for name, _ in served.lenses}

    def _forget_changes(self, error: DanluError) -> bool:
        """What was changed by hand does not start: as offered, then. False where nothing was changed."""
        changed = [served for served in self.models.values() if served.lenses != ((served.offered, 1.0),)]
        for served in changed:
            served.lenses, served.before, served.problem = ((served.offered, 1.0),), [], told(error)
        return bool(changed)

    def _serve(self, model: str, target: str, opened: OpenedLens) -> Served:
        origin = opened.manifest.digest if opened.manifest is not None else opened.lens.name
        return Served(model, target, origin, opened.lens.name, ((opened.lens.name, 1.0),), int(time.time()))

    async def _ready(self, target: str) -> OpenedLens:
        """What `target` context: looked at, loaded and checked on every replica."""
        opened = await self._looked(target)
        await self.fleet.load(opened)
        return opened

    async def _found(self, offer: Offer) -> OpenedLens:
        """What an offer means; loads nothing."""
        if offer.url is None:
            return await self._looked(offer.target)
        opened = await self.catalog.look_behind(offer.model, offer.url, offer.artifact)
        self.fleet.uses.setdefault(opened.lens.name, Use())
        return opened

    async def _looked(self, target: str) -> OpenedLens:
        """A lens that is loaded needs no second look at its files; what was withdrawn meanwhile is not turned to."""
        if target in self.fleet.loaded():
            await asyncio.to_thread(self.catalog.check_usable, target)
            opened = self.catalog[target]
        else:
            opened = await self.catalog.look(target)
        self.fleet.uses.setdefault(opened.lens.name, Use())
        return opened

    def _whole(self, served: Served, target: str) -> str:
        """`3` of a model that comes from the registry is `law:3`; anything else is what it says."""
        if not target.isdecimal():
            return target
        labels = [self.catalog.label(name) for name, _ in served.lenses]
        name = next((label.partition(":")[0] for label in labels if label), served.target.partition("@")[0])
        return f"{name}:{target}"

    # ---- boards

    def _republish(self) -> int:
        """Nothing is shown before the first board is whole."""
        return self._publish() if self._is_open else self.board.number

    def _publish(self) -> int:
        """Show what stands now, if it is not what was shown last."""
        pools = list(self.fleet.pools.values())
        fresh = Board(
            number=self.board.number,
            models=tuple(Model(s.name, s.lenses, s.created) for s in self.models.values()),
            lenses=tuple(self.catalog[name].lens for pool in pools for name in pool.lenses),
            replicas=tuple(replica for pool in pools for replica in pool.replicas()),
        )
        if fresh != self.board or not fresh.number:
            self.board = Board(fresh.number + 1, fresh.models, fresh.lenses, fresh.replicas)
            self.line.show(self.board)
        return self.board.number

    # ---- small things

    def _served(self, model: str) -> Served:
        if model not in self.models:
            raise EngineError("rollout.unknown", where=model, given=model, known=", ".join(sorted(self.models)) or "-")
        return self.models[model]

    async def _write(self, action: str, facts: Mapping[str, Any], reason: str) -> None:
        await asyncio.to_thread(self._audit.append, action, dict(facts), reason=reason)

    def _keep(self) -> None:
        keep(self.home, self.models.values(), self.catalog.places)
