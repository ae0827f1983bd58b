"""One shard's work, as it is sent to whoever does it: picklable, and without a result but the shard in the store."""

from __future__ import annotations

from dataclasses import dataclass, field

from danlu.core.messages import Language, current_language, set_language
from danlu.data.flow.passing import Passing, ShardFacts, pass_shard
from danlu.data.flow.plan import Shard
from danlu.data.flow.store import Stamps, Store


@dataclass(frozen=True, slots=True)
class Task:
    """A shard and the name it gets in the store."""

    key: str
    shard: Shard


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with every task; the same in each process."""

    passing: Passing
    store: Store
    language: Language = field(default_factory=current_language)
    """Of whoever asked for it: another process would go by its locale."""

    def __call__(self, task: Task) -> Stamps | None:
        """Leave the finished shard in the store and say how its files look; a shard that stands there already is left
        as it is."""
        if self.language != current_language():
            set_language(self.language)
        if self.store.find(task.key) is not None:
            return None
        facts = ShardFacts()
        return self.store.write(task.key, pass_shard(task.shard, self.passing, facts), facts)
