"""The shelf of methods: pretrain, sft, dpo, grpo, and classify for encoders.

To add one: a class with `accepts` and `loss` (see `method.py`) and one line here.
"""

from __future__ import annotations

from danlu.core.shelf import Shelf
from danlu.training.methods.method import Method

METHODS: Shelf[type[Method]] = Shelf(
    "methods",
    {
        "pretrain": "danlu.training.methods.pretrain:Pretrain",
        "sft": "danlu.training.methods.sft:SFT",
        "dpo": "danlu.training.methods.dpo:DPO",
        "grpo": "danlu.training.methods.grpo:GRPO",
        "classify": "danlu.training.methods.classify:Classify",
    },
)
