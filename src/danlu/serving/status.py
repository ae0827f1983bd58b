"""How everything stands, as JSON for `danlu serving status`: models, lenses with their use (the working set), replicas,
workers. It only reads."""

from __future__ import annotations

from typing import Any

from danlu.serving.instances import Instance
from danlu.serving.pools import Pool
from danlu.serving.rollout import Rollout
from danlu.serving.served import Served


def status_of(rollout: Rollout) -> dict[str, Any]:
    rollout.fleet.note_use()
    return {
        "board": rollout.board.number,
        "models": [_model(rollout, served) for served in rollout.models.values()],
        "pools": [_pool(rollout, pool) for pool in rollout.fleet.pools.values()],
        "spares": [
            {"pid": spare.pid, "memory_bytes": spare.memory_bytes}
            for spare in rollout.fleet.spares.all.values()
            if spare.pid
        ],
        "workers": [
            {
                "name": post.name, "has_line": post.writer is not None, "board": post.board,
                "outstanding": sum(post.on_lens.values()),
            }
            for post in rollout.line.posts.values()
        ],
    }  # fmt: skip


def _model(rollout: Rollout, served: Served) -> dict[str, Any]:
    lenses = [{"name": name, "share": share, "label": rollout.catalog.label(name)} for name, share in served.lenses]
    return {
        "name": served.name, "target": served.target, "follows": served.follows, "lenses": lenses,
        "before": [dict(way) for way in reversed(served.before)], "problem": served.problem,
        "warnings": [rollout.warnings[name] for name, _ in served.lenses if name in rollout.warnings],
    }  # fmt: skip


def _pool(rollout: Rollout, pool: Pool) -> dict[str, Any]:
    pointed = {name for served in rollout.models.values() for name, _ in served.lenses}
    lenses = []
    for name, opened in pool.lenses.items():
        use = rollout.fleet.uses[name]
        lenses.append(
            {
                "name": name, "label": opened.lens.label, "is_base": opened.lens.is_base,
                "is_pointed_at": name in pointed,
                "grade": pool.grades.get(name, ""), "num_replicas": sum(name in one.loaded for one in pool.instances),
                "outstanding": rollout.line.outstanding(name), "num_leased": use.num_leased, "last_used": use.last,
            }
        )  # fmt: skip
    return {
        "name": pool.plan.name, "driver": pool.plan.driver, "num_loaded": len(pool.adapters),
        "most_loaded": pool.plan.spec.max_adapters, "lenses": lenses,
        "replicas": [_replica(rollout, instance) for instance in pool.instances],
    }  # fmt: skip


def _replica(rollout: Rollout, instance: Instance) -> dict[str, Any]:
    told = {
        "name": instance.name, "state": instance.shown, "since": instance.since, "problem": instance.problem,
        "outstanding": sum(post.on_replica.get(instance.name, 0) for post in rollout.line.posts.values()),
    }  # fmt: skip
    if instance.child is not None:
        facts = instance.child.facts
        told |= {"pid": facts.pid, "num_starts": facts.num_starts, "last_end": facts.last_end}
    return told
