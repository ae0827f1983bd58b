"""What `plan_check.py` runs: shapes, contexts, precisions and caps. No torch until a case is asked for its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from danlu.planning.cards import Card
from danlu.planning.memory import predict_memory
from danlu.planning.plan import Limits, Plan, choose
from danlu.planning.policy import Mix
from danlu.planning.time import predict_time
from danlu.planning.what_if import WAYS
from danlu.planning.work import Work

G = 2**30
HOST_BYTES = 90 * G
"""Pinned memory that a capped plan may ask for."""


@dataclass(frozen=True)
class Case:
    """`policy` for every layer, or `cap_gib` to be planned for. `adapter` is lora, or one of the planner's ways to
    train all weights; those clip, and so keep their gradients."""

    name: str
    shape: str
    tokens: int
    documents: int
    policy: str = ""
    cap_gib: float = 0.0
    share: float = 1.0
    precision: str = "16"
    adapter: str = "lora"

    @property
    def kind(self) -> tuple[str, str, str]:
        """Cases of one kind share a drawn model."""
        return self.shape, self.precision, self.adapter

    @property
    def work(self) -> Work:
        from shape_run import shapes_of

        way = WAYS["lora" if self.adapter == "lora" else self.adapter]
        usual: dict[str, Any] = {"rank": 16 if self.adapter == "lora" else 0}
        return Work(
            shapes=shapes_of(self.shape), context=self.documents, micro_tokens=self.tokens, batch_tokens=self.tokens,
            document_tokens=self.documents, supervised_ratio=self.share,
            **usual | way | {"precision": self.precision},
        )  # fmt: skip

    def plan(self, card: Card) -> Plan:
        if self.cap_gib:
            return choose(self.work, card, Limits(int(self.cap_gib * G), HOST_BYTES))
        mix = Mix.of(self.policy or "all", self.work.shapes.num_layers)  # type: ignore[arg-type]
        return Plan(self.work, card, mix, predict_memory(self.work, mix), predict_time(self.work, mix, card))


B05, B15, B3, B7, B14 = (f"qwen2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b"))
L8, Q4 = "llama-3.1-8b", "qwen3-4b"
CALIBRATED = [
    Case("7b-all", B7, 16_384, 2048),
    Case("7b-light", B7, 16_384, 2048, "light"),
    Case("7b-input", B7, 16_384, 2048, "input"),
    Case("7b-input-host", B7, 16_384, 2048, "input-host"),
    Case("7b-some-learnt", B7, 16_384, 2048, share=0.3),
    Case("7b-4k", B7, 4096, 2048),
    Case("7b-short", B7, 16_384, 512),
    Case("7b-long", B7, 16_384, 16_384),
    Case("7b-32k-light", B7, 32_768, 32_768, "light"),
    Case("7b-cap48", B7, 16_384, 2048, cap_gib=48),
    Case("7b-cap24", B7, 16_384, 2048, cap_gib=24),
    Case("7b-cap20", B7, 16_384, 2048, cap_gib=20),
    Case("0.5b-2k", B05, 2048, 2048),
    Case("0.5b-8k", B05, 8192, 2048),
    Case("0.5b-32k", B05, 32_768, 2048),
    Case("0.5b-cap8", B05, 32_768, 2048, cap_gib=8),
    Case("7b-fp8", B7, 16_384, 2048, precision="fp8"),
    Case("7b-nf4-input", B7, 16_384, 2048, "input", precision="nf4"),
    Case("7b-nf4-cap11", B7, 16_384, 2048, cap_gib=10.9, precision="nf4"),
]
"""Of the two shapes that the planner's constants were read off."""
UNSEEN = [
    Case("1.5b-512", B15, 16_384, 512),
    Case("1.5b-cap16", B15, 32_768, 2048, cap_gib=16),
    Case("1.5b-32k-cap40", B15, 32_768, 32_768, cap_gib=40),
    Case("3b-1k-some-learnt", B3, 16_384, 1024, share=0.3),
    Case("3b-cap16", B3, 16_384, 2048, cap_gib=16),
    Case("3b-8k-cap24", B3, 16_384, 8192, cap_gib=24),
    Case("8b-4k", L8, 8192, 4096),
    Case("8b-cap24", L8, 8192, 2048, cap_gib=24),
    Case("8b-cap40", L8, 16_384, 2048, cap_gib=40),
    Case("8b-16k-cap80", L8, 16_384, 16_384, cap_gib=80),
    Case("8b-32k-cap80", L8, 32_768, 32_768, cap_gib=80),
    Case("14b-nf4-cap16", B14, 4096, 2048, cap_gib=16, precision="nf4"),
    Case("14b-nf4-cap24", B14, 8192, 2048, cap_gib=24, precision="nf4"),
    Case("14b-nf4-8k-cap40", B14, 8192, 8192, cap_gib=40, precision="nf4"),
    Case("1.5b-full", B15, 4096, 2048, adapter="full"),
    Case("1.5b-full-lean-cap24", B15, 4096, 2048, cap_gib=24, adapter="full_lean"),
    Case("1.5b-full-away-cap16", B15, 2048, 2048, cap_gib=16, adapter="full_away"),
    Case("3b-full-lean-cap40", B3, 4096, 1024, cap_gib=40, adapter="full_lean"),
    Case("4b-1k-cap24", Q4, 8192, 1024, cap_gib=24),
    Case("8b-fp8-cap40", L8, 16_384, 2048, cap_gib=40, precision="fp8"),
    Case("8b-nf4-cap16", L8, 8192, 2048, cap_gib=16, precision="nf4"),
]
"""Of shapes that no constant was read off, in order of worth: what no longer fits the time is left out."""
CASES = [*CALIBRATED, *UNSEEN]
GROUPS = {"calibrated": CALIBRATED, "unseen": UNSEEN}


def named(names: list[str]) -> list[Case]:
    """Cases and groups by name; all where none are given."""
    if not names:
        return CASES
    found = [case for name in names for case in GROUPS.get(name, [case for case in CASES if case.name == name])]
    unknown = set(names) - GROUPS.keys() - {case.name for case in CASES}
    assert not unknown, f"no such cases: {', '.join(sorted(unknown))}"
    return list(dict.fromkeys(found))
