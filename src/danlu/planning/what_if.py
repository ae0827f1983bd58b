"""The same work elsewhere: other cards, other ways to train, other contexts. One cell each, said in a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from danlu.planning.cards import CARDS, Card
from danlu.planning.plan import Plan, choose
from danlu.planning.work import Work

CONTEXTS = (2048, 8192, 32_768)
COMMON_CARDS = (
    "RTX 4060", "RTX 3060 12GB", "T4", "RTX 4090", "RTX 5090", "L20", "A100 80GB", "H20", "H200",
)  # fmt: skip
"""One of each size, 8 to 141 GB."""
WAYS: dict[str, dict[str, Any]] = {
    "lora": {"is_full": False, "precision": "16"},
    "nf4": {"is_full": False, "precision": "nf4"},
    "fp8": {"is_full": False, "precision": "fp8"},
    "full": {"is_full": True, "precision": "16", "has_masters": True, "has_8bit_states": False},
    "full_lean": {"is_full": True, "precision": "16", "has_masters": False, "has_8bit_states": True},
    "full_away": {"is_full": True, "precision": "16", "has_masters": True, "has_8bit_states": False, "offload": "all"},
}
"""LoRA on 16-bit weights; QLoRA; LoRA on fp8 weights; every weight with fp32 masters; every weight in 16 bit with 8-bit
optimizer state; every weight with fp32 masters and moments in the machine's memory."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One answer. `plan` is None where the card cannot do it at all (fp8 before Ada, weights that train in bf16 before
    Ampere)."""

    card: Card
    way: str
    context: int
    plan: Plan | None

    @property
    def fits(self) -> bool:
        return self.plan is not None and self.plan.fits

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"card": self.card.name, "way": self.way, "context": self.context, "fits": self.fits}
        if self.plan is None:
            return told | {"policies": None, "tokens_at_once": None, "total_bytes": None, "tokens_per_s": None}
        speed = self.plan.tokens_per_s if self.fits else None
        return told | {
            "policies": self.plan.mix.to_json(),
            "tokens_at_once": self.plan.work.micro_tokens,
            "total_bytes": self.plan.total_bytes,
            "tokens_per_s": round(speed) if speed else None,
        }


def what_if(work: Work, cards: Iterable[Card], contexts: Iterable[int] = CONTEXTS) -> Iterator[Cell]:
    """Every card, way and context; as many tokens at once as are useful. An encoder reads only so far, and all of it
    trains."""
    is_encoder = work.shapes.is_encoder
    contexts = (work.shapes.reach,) if is_encoder else tuple(contexts)
    ways = {way: changes for way, changes in WAYS.items() if changes["is_full"] or not is_encoder}
    for card in cards:
        for way, changes in ways.items():
            for context in contexts:
                yield Cell(card, way, context, _planned(work, card, way, changes, context))


def _planned(work: Work, card: Card, way: str, changes: dict[str, Any], context: int) -> Plan | None:
    is_bf16 = way in ("full_lean", "full_away")  # fp16 weights do not train without masters at hand
    if (way == "fp8" and not card.has_fp8) or (is_bf16 and not card.has_bf16):
        return None
    rank = work.rank or 16
    other = replace(
        work, context=context, batch_tokens=max(work.batch_tokens, 2 * context if work.method == "dpo" else context),
        document_tokens=context, longest_tokens=0, rank=0 if changes["is_full"] else rank, num_steps=None,
        prefix_tokens=0, **{"offload": "none"} | changes,
    )  # fmt: skip
    return choose(other, card, may_choose_tokens=True)


def smallest_card(work: Work, *, may_choose_tokens: bool) -> Card | None:
    """The card with the least memory on which this work fits; None where none of the known ones is large enough."""
    for card in sorted(CARDS.values(), key=lambda known: (known.memory_bytes, known.flops_16)):
        if choose(work, card, may_choose_tokens=may_choose_tokens).fits:
            return card
    return None
