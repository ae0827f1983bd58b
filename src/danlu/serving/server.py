"""The server process: engines, gateway workers, and the doors between them. No torch, and no request passes through it.

    plan = Plan(home=…, runs=…, offers=(Offer("law", "law@prod"),), pool_for=…, worker=…, listener=socket)
    await Server(plan).run()        # until SIGTERM or SIGINT; SIGHUP renews the workers

What dies comes back: an engine with its lenses, a worker with the newest board. When this process dies, all of them end
with it. Workers share one listening socket that is opened before they are, so none of their ends and beginnings loses a
connection: a reload starts new ones, and ends the old ones when they have answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from socket import socket
from typing import Any

from danlu.core.errors import DanluError, EngineError
from danlu.core.messages import Language, spoken_in
from danlu.run.registry import NAME as REGISTRY
from danlu.serving import control
from danlu.serving.control import Control
from danlu.serving.engine_check import check_engine
from danlu.serving.instances import Instance, Question
from danlu.serving.line import MAX_PATH_BYTES, Line
from danlu.serving.plan import Plan, Renewal
from danlu.serving.processes import Child, Patience
from danlu.serving.reoffering import reoffer
from danlu.serving.rollout import Rollout
from danlu.serving.status import status_of

LINE = "line.sock"
SILENT_S = 5.0
"""A worker that tells nothing for so long is not well."""
RETURN_CANARIES = 2
"""Asked of an engine that answered all of them before and was started again on the same files: clients wait for it."""
WARN_EVERY = 10
"""Looks, until files of what answers are looked for again."""
LOOK_S = 0.5
"""How often the registry's file is looked at, and use is noted."""


class Server:
    """One a home. `counters` are the workers', by name, as they last told them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.line = Line(_line_path(plan.home))
        self.rollout = Rollout(
            plan.home, plan.runs, self.line, pool_for=plan.pool_for, check=self._check, drain_s=plan.drain_s,
            answer_s=plan.answer_s, patience=plan.patience, on_instance=self._engine_changed,
            on_event=plan.on_event,
        )  # fmt: skip
        self.control = Control(plan.home, self.answer)
        self.workers: list[Child] = []
        self.ended = asyncio.Event()
        self._running: dict[str, Child] = {}
        """Workers by name, the draining ones too: files are named by them, and a name that is free is taken again."""
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def counters(self) -> dict[str, dict[str, Any]]:
        return {name: post.counters for name, post in self.line.posts.items()}

    async def run(self) -> None:
        """Until `ended` is set (signals do)."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ended.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._later(self._reload_aloud()))
        try:
            await self._open_unless_ended()
            await self.ended.wait()
        finally:
            await self.close()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _open_unless_ended(self) -> None:
        """Engines take minutes to start; who thinks better of it does not wait for them."""
        opening, ending = asyncio.create_task(self.open()), asyncio.create_task(self.ended.wait())
        await asyncio.wait({opening, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not opening.done():
            opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening

    async def open(self) -> None:
        """Doors first, so that a second server on one home is refused before it starts engines."""
        self.plan.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self.control.open()
        await self.line.open()
        await self.rollout.open(self.plan.offers)
        self.workers = await self._start_workers(self.plan.num_workers)
        self._later(self._look_around())
        self.plan.on_event("opened", {"models": sorted(self.rollout.models)})

    async def close(self) -> None:
        """Workers finish their answers, then the engines end."""
        await self.control.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in self._running.values()))
        await self.rollout.close()
        await self.line.close()

    async def reload(self, language: Language | None = None) -> dict[str, Any]:
        """What the settings say now: models, replicas, address, and all that workers go by. New workers on the same
        socket, or on the new one; the old ones stop accepting, finish, and end. Where anything of it fails, everything
        stays as it was. Engines that died too often get a new try. One at a time: two at once would forget each other's
        workers, which would serve on with settings of before."""
        async with self._turn:
            before = self.plan
            with spoken_in(language):
                renewal = await asyncio.to_thread(before.renew) if before.renew else Renewal(before, 0)
            with contextlib.ExitStack() as undo:
                if renewal.plan.listener is not before.listener:
                    undo.callback(renewal.plan.listener.close)
                undo.callback(setattr, self, "plan", before)
                facts = await self._renewed(renewal)
                undo.pop_all()
            if kept := renewal.kept:
                facts["kept"] = [asdict(each) for each in kept]
            self._later(self.rollout.revive())
            self.plan.on_event("reloaded", facts)
            return facts

    async def _renewed(self, renewal: Renewal) -> dict[str, Any]:
        """Models first, for they take the longest and may be refused; a worker that does not start undoes them."""
        before, plan, old = self.plan, renewal.plan, self.workers
        self.plan = plan
        async with contextlib.AsyncExitStack() as undo:
            undo.callback(self.rollout.go_by, before.pool_for, drain_s=before.drain_s, answer_s=before.answer_s)
            self.rollout.go_by(plan.pool_for, drain_s=plan.drain_s, answer_s=plan.answer_s)
            facts = await reoffer(self.rollout, before.offers, plan.offers)
            undo.push_async_callback(reoffer, self.rollout, plan.offers, before.offers)
            if renewal.num_replicas:
                await self.rollout.resize(renewal.num_replicas)
            self.workers = await self._start_workers(plan.num_workers)
            undo.pop_all()
        self._later(self._retire(old, before.listener if before.listener is not plan.listener else None))
        return {"workers": [child.name for child in self.workers], "draining": [child.name for child in old]} | facts

    async def _retire(self, workers: list[Child], listener: socket | None) -> None:
        """Their names are free once they are gone; so is an address that nobody listens on any more."""
        await asyncio.gather(*(self._ended(child) for child in workers))
        if listener is not None:
            listener.close()

    async def _ended(self, child: Child) -> None:
        await child.stop()
        await self.line.forget(child.name)
        self._running.pop(child.name, None)

    async def answer(self, request: control.Request) -> dict[str, Any]:
        """What came through the control socket."""
        rollout = self.rollout
        match request:
            case control.Status():
                return status_of(rollout) | {"children": [_facts(child) for child in self.workers]}
            case control.Reload(language=language):
                return await self.reload(language)
            case control.Add(model=model, to=to, reason=reason):
                return await rollout.add(model, to, reason=reason)
            case control.Switch(model=model, to=to, reason=reason):
                return await rollout.switch(model, to, reason=reason)
            case control.Split(model=model, shares=shares, reason=reason):
                return await rollout.split(model, shares, reason=reason)
            case control.Rollback(model=model, reason=reason):
                return await rollout.rollback(model, reason=reason)
            case control.Remove(name=name, reason=reason):
                return await rollout.remove(name, reason=reason)

    # ---- workers

    async def _start_workers(self, num: int) -> list[Child]:
        fresh = [self._worker() for _ in range(num)]
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(self._retire, fresh, None)
            await asyncio.gather(*(child.start() for child in fresh))
            undo.pop_all()
        return fresh

    def _worker(self) -> Child:
        name = next(name for number in itertools.count() if (name := f"w{number}") not in self._running)
        descriptor = self.plan.listener.fileno()

        async def is_ready() -> bool:
            """It goes by a board that it was shown, and tells so."""
            post = self.line.posts.get(name)
            return post is not None and post.board > 0 and time.monotonic() - post.heard < SILENT_S

        self._running[name] = child = Child(
            name, self.plan.worker(name, descriptor, self.line.path), log=self.plan.home / "logs" / f"{name}.log",
            is_ready=is_ready, pass_fds=(descriptor,), death_signal=signal.SIGTERM, on_change=self._worker_changed,
            patience=Patience(ready_s=60.0, ask_every_s=0.5, drain_s=self.plan.drain_s, term_s=self.plan.drain_s + 5.0),
        )  # fmt: skip
        return child

    def _worker_changed(self, child: Child) -> None:
        """A change of lenses waits for workers that live: the dead hold nothing back."""
        if child.state == "ready":
            self._later(self.line.expect(child.name))
        elif child.state in ("waiting", "stopped", "failed"):
            self._later(self.line.forget(child.name))
        self.plan.on_event("worker", {"name": child.name, "state": child.state, "last_end": child.facts.last_end})

    def _engine_changed(self, instance: Instance) -> None:
        last = instance.child.facts.last_end if instance.child is not None else ""
        facts = {"replica": instance.name, "state": instance.shown, "last_end": last}
        self.plan.on_event("engine", facts | ({"problem": instance.problem} if instance.problem else {}))

    async def _reload_aloud(self) -> None:
        try:
            await self.reload()
        except DanluError as error:
            self.plan.on_event("refused", {"deed": "reload", "why": error.text})

    # ---- around the clock

    async def _look_around(self) -> None:
        path = self.plan.runs / REGISTRY
        seen: tuple[int, ...] = ()
        for number in itertools.count():
            self.rollout.fleet.note_use()
            state = _state(path)
            try:
                if state != seen:
                    seen = state
                    await self.rollout.follow()
                    await self.rollout.warn()
                elif not number % WARN_EVERY:
                    await self.rollout.warn()
            except (DanluError, OSError) as error:  # an unreadable registry, a full disk: looked at again
                self.plan.on_event("refused", {"deed": "follow", "why": str(error)})
            await asyncio.sleep(LOOK_S)

    async def _check(self, asked: Question) -> str:
        """The door between engine and clients: nothing is shown on a board before it has been through it."""
        opened, instance = asked.loadable, asked.instance
        if opened.manifest is None or opened.folder is None:
            if not self.plan.allow_unverified:
                raise EngineError("rollout.unverified", where=instance.address, lens=opened.lens.name)
            return "unverified"
        grade = await check_engine(
            asked.driver, instance.address, instance.secret, opened.manifest, asked.engine_name, opened.folder,
            allow_unverified=self.plan.allow_unverified, most_canaries=RETURN_CANARIES if asked.is_return else None,
        )  # fmt: skip
        return grade.level

    def _later(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _facts(child: Child) -> dict[str, Any]:
    facts = child.facts
    return {"name": facts.name, "state": facts.state, "pid": facts.pid, "num_starts": facts.num_starts,
            "since": facts.since, "last_end": facts.last_end}  # fmt: skip


def _line_path(home: Path) -> Path:
    """In `home`; where its path is too long for a socket's name, in a private folder of its own."""
    path = home.resolve() / LINE
    if len(str(path).encode()) > MAX_PATH_BYTES:
        path = Path(tempfile.mkdtemp(prefix="danlu-")) / LINE
    return path


def _state(path: Path) -> tuple[int, ...]:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns
    return ()
