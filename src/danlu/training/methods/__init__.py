"""The shelf of methods: pretrain, sft, dpo.

To add one: a class with `accepts` and `loss` (see `method.py`) and one line here.
"""

from __future__ import annotations

from danlu.core.registry import Registry
from danlu.training.methods.method import Method

METHODS: Registry[type[Method]] = Registry(
    "methods",
    {
        "pretrain": "danlu.training.methods.pretrain:Pretrain",
        "sft": "danlu.training.methods.sft:SFT",
        "dpo": "danlu.training.methods.dpo:DPO",
    },
)
