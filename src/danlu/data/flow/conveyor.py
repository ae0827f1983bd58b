"""Plan, pass, collect: from sources to the pieces that whole-data steps work on.

Little data stays in memory and in this process, needs no pyarrow and leaves nothing behind. More goes through shards in
a store, so that a second run, or one after a kill, does only what is missing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.flow.executors import EXECUTORS, Executor
from danlu.data.flow.marks import Passed, add_up
from danlu.data.flow.passing import Passing, ShardFacts, pass_shard
from danlu.data.flow.piece import AnyPiece, Piece, digest_of, num_rows
from danlu.data.flow.plan import Plan
from danlu.data.flow.store import Store, StoredShard, passing_digest, shard_key
from danlu.data.flow.work import Task, Work
from danlu.data.kinds import ROW_SUFFIXES
from danlu.data.ledger import Entry, Ledger
from danlu.data.twins.compiled import has_numba

Engine = Literal["auto", "inline", "local", "ray"]
LIGHT_BYTES = 16 << 20
"""Up to here all rows fit into memory many times over and are read in the time that worker processes need to start."""
LIGHT_DOCUMENTS = 2 << 20
"""The same for documents, whose parsing is slow and worth keeping."""
ALONE_BYTES = 4 << 20
"""What is missing is done in this process where it is no more than this."""


@dataclass(slots=True)
class Conveyed:
    """What came of a plan. `shards`: JSON for the manifest, one per shard in order."""

    pieces: list[AnyPiece]
    funnel: list[Passed]
    shards: list[dict[str, Any]]
    num_read: int = 0
    num_redone: int = 0
    """Shards that were passed now; the others lay in the store."""
    remarks: list[Entry] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        return [shard["key"] for shard in self.shards]

    def ledger(self) -> Ledger:
        """The ledger of the reading alone, before the fates of single rows are folded in (account.py)."""
        ledger = Ledger(num_read=self.num_read, num_used=num_rows(self.pieces), remarks=list(self.remarks))
        ledger.counts.update(self.counts)
        return ledger


def choose_engine(engine: Engine, plan: Plan) -> Engine:
    """What `auto` means for this plan."""
    if engine != "auto":
        return engine
    documents = sum(file.num_bytes for file in plan.files if not file.name.lower().endswith(tuple(ROW_SUFFIXES)))
    if plan.num_bytes <= LIGHT_BYTES and documents <= LIGHT_DOCUMENTS:
        return "inline"
    return "local" if importlib.util.find_spec("pyarrow") else "inline"


def convey(
    plan: Plan,
    passing: Passing,
    store: Store,
    *,
    engine: Engine = "auto",
    num_workers: int | None = None,
    ready: Executor | None = None,
    progress: Progress | None = None,
) -> Conveyed:
    """All shards, passed. `ready`: workers that were started for this plan (crew.py), of the engine `local`. DataError
    for a missing package or a lost worker; damage in files never raises."""
    progress = progress or Silent()
    engine = choose_engine(engine, plan)
    if engine == "inline":
        return _in_memory(plan, passing, progress)
    return _through_store(plan, passing, store, engine, num_workers, ready, progress)


def _in_memory(plan: Plan, passing: Passing, progress: Progress) -> Conveyed:
    found = Conveyed([], [], [], remarks=list(plan.left_out))
    digest = passing_digest(passing)
    funnels: list[list[Passed]] = []
    progress.start(say("flow.passing"), len(plan.shards))
    for shard in plan.shards:
        facts = ShardFacts()
        pieces: list[Piece] = list(pass_shard(shard, passing, facts))
        found.pieces += pieces
        funnels.append(facts.funnel)
        _tell(found, facts)
        found.shards.append(_named(Task(shard_key(shard, digest), shard), facts, digest_of(pieces)))
        found.num_redone += 1
        progress.advance(1, file=shard.found.name)
    progress.finish()
    found.funnel = add_up(funnels)
    return found


def _through_store(
    plan: Plan,
    passing: Passing,
    store: Store,
    engine: Engine,
    num_workers: int | None,
    ready: Executor | None,
    progress: Progress,
) -> Conveyed:
    digest = passing_digest(passing)
    tasks = [Task(shard_key(shard, digest), shard) for shard in plan.shards]
    there = store.find_all(task.key for task in tasks)
    missing = list({task.key: task for task in tasks if task.key not in there}.values())
    if num_found := len({task.key for task in tasks}) - len(missing):
        progress.note(say("flow.reused", reused=num_found, total=len(tasks)))
    if damaged := [task.shard.found.name for task in missing if store.is_damaged(task.key)]:
        progress.note(say("flow.damaged", damaged=len(damaged), total=len(tasks), first=damaged[0]))
    is_little = len(missing) == 1 or sum(task.shard.num_bytes for task in missing) <= ALONE_BYTES
    doer: Engine = "inline" if engine == "local" and is_little else engine
    if missing:
        executor = ready if ready is not None and doer == "local" else _executor(doer, num_workers)
        _do(missing, Work(passing, store), executor, progress, is_alone=doer == "inline")
    shards = [_found(store, task) for task in tasks]
    found = Conveyed([], [], [], num_redone=len(missing), remarks=list(plan.left_out))
    for task, shard in zip(tasks, shards, strict=True):
        facts = shard.facts
        found.pieces += shard.pieces
        _tell(found, facts)
        found.shards.append(_named(task, facts, shard.digest))
    found.funnel = add_up([shard.facts.funnel for shard in shards])
    return found


def _executor(engine: Engine, num_workers: int | None) -> Executor:
    return EXECUTORS.load(engine, where="data.engine")(num_workers)


def _do(missing: Sequence[Task], work: Work, executor: Executor, progress: Progress, *, is_alone: bool) -> None:
    progress.start(say("flow.passing"), len(missing))
    for number, task in enumerate(executor.run(work, missing)):
        if number == 0 and not is_alone:
            has_numba()  # half a second, while this process waits anyway: what compares all rows will want it
        progress.advance(1, file=task.shard.found.name)
    progress.finish()


def _found(store: Store, task: Task) -> StoredShard:
    shard = store.find(task.key)
    assert shard is not None, "every task leaves its shard"
    return shard


def _tell(found: Conveyed, facts: ShardFacts) -> None:
    found.num_read += facts.num_read
    found.remarks += [entry for entry in facts.remarks if entry not in found.remarks]
    for name, num in facts.counts.items():
        found.counts[name] = found.counts.get(name, 0) + num


def _named(task: Task, facts: ShardFacts, rows: str) -> dict[str, Any]:
    """A shard as a manifest names it; `rows` is the digest of its rows' ids."""
    return {
        "file": task.shard.found.name, "digest": task.shard.digest, "key": task.key,
        "read": facts.num_read, "rows": rows,
    }  # fmt: skip


def keys_of(plan: Plan, passing: Passing, engine: Engine) -> list[str]:
    """Keys of the shards that this plan will leave in the store, or look for there."""
    if choose_engine(engine, plan) == "inline":
        return []
    digest = passing_digest(passing)
    return [shard_key(shard, digest) for shard in plan.shards]
