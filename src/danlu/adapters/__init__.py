"""Which weights train and how they fold back. A shelf; `adapter.py` is its contract, PEFT's format lies on disk.

To add one: a class with `kind` and `attach` (see `adapter.py`) in a file of its own, and one line here.
"""

from __future__ import annotations

from danlu.adapters.adapter import Adapter, Attached
from danlu.core.shelf import Shelf

ADAPTERS: Shelf[type[Adapter]] = Shelf(
    "adapters",
    {
        "lora": "danlu.adapters.lora:LoRA",
        "full": "danlu.adapters.full:Full",
        "prefix": "danlu.adapters.prefix:PrefixTuning",
    },
)

__all__ = ["ADAPTERS", "Adapter", "Attached"]
