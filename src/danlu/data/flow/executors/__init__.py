"""The shelf of executors: who runs shards, and where. The result is the same with each of them.

To add one: a class with the contract of `executor.py` in a file here and one line below, or in another package an
entry point of the group `danlu.executors`. The recipe names it: `data.engine: ray`.
"""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.data.flow.executors.executor import Executor

EXECUTORS: Shelf[type[Executor]] = Shelf(
    "executors",
    {
        "inline": "danlu.data.flow.executors.inline:Inline",
        "local": "danlu.data.flow.executors.local:Local",
        "ray": "danlu.data.flow.executors.ray:Ray",
    },
)

__all__ = ["EXECUTORS", "Executor"]
