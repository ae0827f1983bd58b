"""The shelf of engines, which answer: generate, stream, score. `engine.py` is the contract.

To add one: a class with the three methods of `engine.Engine` in a file here and one line below (or an entry point
`danlu.engines`).
"""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.engines.engine import Engine

ENGINES: Shelf[type[Engine]] = Shelf(
    "engines",
    {
        "native": "danlu.engines.native:NativeEngine",
        "remote": "danlu.engines.remote:RemoteEngine",
    },
)
