"""The shelf of engines, which answer: generate, stream, score. `engine.py` is the contract.

To add one: a class with the three methods of `engine.Engine` in a file here and one line below (or an entry point
`danlu.engines`).
"""

from __future__ import annotations

from danlu.core.registry import Registry
from danlu.engines.engine import Engine

ENGINES: Registry[type[Engine]] = Registry(
    "engines",
    {
        "native": "danlu.engines.native:NativeEngine",
        "remote": "danlu.engines.remote:RemoteEngine",
    },
)
