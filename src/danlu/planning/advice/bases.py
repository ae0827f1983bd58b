"""Bases worth starting from, ranked for a wish: what they are good at, what their licence allows, whether they fit.

The table is data (`assets/advice/bases.json`: names, licences with their source, strengths as makers state them);
shapes are `planning/bases.py`'s, memory and speed the planner's. Ranking adds up named points, so that an order can be
read and disputed.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal

from danlu.core.messages import current_language
from danlu.planning.advice.words import Reason
from danlu.planning.bases import bare_name, known_base
from danlu.planning.cards import Card
from danlu.planning.plan import Limits, Plan, plan_stage
from danlu.planning.shapes import Shapes
from danlu.recipe.recipe import Recipe

Task = Literal["classify", "extract", "answer", "chat", "write", "reason"]
Language = Literal["zh", "en", "multi"]
Purpose = Literal["commercial", "research"]
Way = Literal["none", "fp8", "nf4"]
TASKS: tuple[Task, ...] = ("classify", "extract", "answer", "chat", "write", "reason")
WANTED_PARAMS: dict[Task, tuple[float, float]] = {
    "classify": (0.5e9, 2e9), "extract": (1e9, 5e9), "answer": (3e9, 10e9), "chat": (3e9, 10e9),
    "write": (7e9, 16e9), "reason": (7e9, 16e9),
}  # fmt: skip
"""Smaller ones lack ability for it, larger ones cost time and memory that the task seldom pays back."""
RECENT = "2025"
"""Bases from then on learnt from more text, and more of it Chinese, than those of their size before."""
ROOMY_RATIO = 0.9
"""Of a card's memory; a plan above it leaves nothing for longer rows."""


@dataclass(frozen=True, slots=True)
class Licence:
    name: str
    commercial: Literal["yes", "conditions", "no"]
    note: dict[str, str]
    source: str

    def told(self) -> str:
        """The condition in the reader's language; "" where there is none."""
        return self.note.get(current_language(), "")

    def allows(self, purpose: Purpose) -> bool:
        return purpose == "research" or self.commercial != "no"


@dataclass(frozen=True, slots=True)
class Base:
    """`shapes` is None for those that are known by their licence alone."""

    name: str
    ids: dict[str, str]
    licence: Licence
    strong: tuple[str, ...] = ()
    good: tuple[str, ...] = ()
    context: int = 0
    released: str = ""
    """Year and month."""
    shapes: Shapes | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    task: Task
    language: Language
    purpose: Purpose
    context: int = 2048
    num_tokens: int = 0
    """Of the data, an epoch; 0 where none was shown."""


@dataclass(frozen=True, slots=True)
class Candidate:
    base: Base
    plan: Plan
    quantize: Way
    points: int
    reasons: tuple[Reason, ...]
    against: tuple[Reason, ...]
    """Why it is out; empty for those that can be taken."""

    def to_json(self) -> dict[str, Any]:
        base, plan, licence = self.base, self.plan, self.base.licence
        return {
            "base": base.name, "ids": base.ids, "params": plan.num_params, "quantize": self.quantize,
            "fits": plan.fits, "peak_bytes": plan.total_bytes,
            "tokens_per_s": round(plan.tokens_per_s) if plan.fits and plan.tokens_per_s else None,
            "licence": {
                "name": licence.name, "commercial": licence.commercial, "note": licence.told(),
                "source": licence.source,
            },
            "points": self.points, "reasons": [reason.to_json() for reason in self.reasons],
            "against": [reason.to_json() for reason in self.against],
        }  # fmt: skip


@functools.cache
def table() -> tuple[Base, ...]:
    """All bases of the table that have shapes, in the order in which ties are settled."""
    told = _told()
    return tuple(
        Base(
            row["name"], row["ids"], licence_of(row["licence"]), tuple(row["strong"]), tuple(row["good"]),
            row["context"], row["released"], known_base(row["name"]),
        )
        for row in told["bases"]
    )  # fmt: skip


def about() -> str:
    return f"{_told()['about'][current_language()]} ({_told()['written']})"


def find(name: str) -> Base | None:
    """The base of this name or hub id; None where the table has none."""
    plain = bare_name(name)
    others = [Base(row["name"], row["ids"], licence_of(row["licence"])) for row in _told()["known_by_licence_only"]]
    for base in (*table(), *others):
        if plain in (base.name, *map(bare_name, base.ids.values())):
            return base
    shapes = known_base(name)  # the same shape under another name: Qwen2 and Qwen2.5
    return next((base for base in table() if base.shapes is shapes), None)


def rank(wish: Wish, card: Card, limits: Limits) -> list[Candidate]:
    """Every base of the table, the best first, those that are out last; of equals the one that knows more."""
    found = [judge(base, wish, card, limits) for base in table()]
    order = {base.name: at for at, base in enumerate(table())}
    return sorted(found, key=lambda one: (bool(one.against), -one.points, -one.plan.num_params, order[one.base.name]))


def judge(base: Base, wish: Wish, card: Card, limits: Limits) -> Candidate:
    """One base for one wish, in the lightest rounding of its weights that the card needs."""
    assert base.shapes is not None, "of the table"
    quantize, plan = fit(base, base.shapes, wish, card, limits)
    points, reasons, against = 0, [], []
    for has, worth, code in (
        (_speaks(base, wish.language), 3, f"language_{wish.language}"),
        (wish.task in base.good, 3, "task"),
        (base.released >= RECENT, 1, "recent"),
        (base.licence.commercial == "yes", 1, "licence_free"),
        (plan.fits and quantize == "none", 1, "fits_whole"),
    ):
        if has:
            points += worth
            reasons.append(Reason(code, {"licence": base.licence.name, "card": card.name, "released": base.released}))
    least, most = WANTED_PARAMS[wish.task]
    params = {"size": _billions(plan.num_params), "task": wish.task}
    if plan.num_params < least:
        points -= 3
        reasons.append(Reason("small", params))
    elif plan.num_params > most:
        points -= 2
        reasons.append(Reason("large", params))
    else:
        points += 2
        reasons.append(Reason("size", params))
    if quantize != "none" and plan.fits:
        reasons.append(Reason(f"as_{quantize}", {"card": card.name}))
    if base.licence.commercial == "conditions" and wish.purpose == "commercial":
        reasons.append(Reason("licence_conditions", {"licence": base.licence.name, "note": base.licence.told()}))
    if not base.licence.allows(wish.purpose):
        against.append(Reason("licence_forbids", {"licence": base.licence.name, "note": base.licence.told()}))
    if not plan.fits:
        needs = f"{plan.total_bytes / 2**30:.1f}"
        against.append(
            Reason("too_big", {"card": card.name, "needs": needs, "has": f"{card.memory_bytes / 2**30:.1f}"})
        )
    if wish.context > base.context:
        against.append(Reason("context_short", {"has": base.context, "wanted": wish.context}))
    return Candidate(base, plan, quantize, points, tuple(reasons), tuple(against))


def _speaks(base: Base, language: Language) -> bool:
    return language in base.strong


def fit(base: Base, shapes: Shapes, wish: Wish, card: Card, limits: Limits) -> tuple[Way, Plan]:
    """The first of bf16 and NF4 that fits with room to spare; NF4 where none does."""
    ways: Sequence[Way] = ("none", "nf4") if card.kind == "cuda" else ("none",)
    roomy = replace(limits, budget_bytes=int(limits.budget_bytes * ROOMY_RATIO))
    for way in ways:
        plan = plan_stage(_recipe(base, wish, way), 0, shapes, card, limits=roomy)
        if plan.fits:
            break
    return way, plan


def _recipe(base: Base, wish: Wish, quantize: Way) -> Recipe:
    model = {"base": base.ids["huggingface"], "quantize": quantize}
    training = {"context": wish.context, "batch_tokens": max(16_384, wish.context)}
    return Recipe.from_tree({"model": model, "training": training, "data": {"sources": ["data"]}})


def _billions(num_params: int) -> str:
    return f"{num_params / 1e9:.1f}B"


def licence_of(key: str) -> Licence:
    row = _told()["licences"][key]
    return Licence(row["name"], row["commercial"], row.get("note", {}), row["source"])


@functools.cache
def _told() -> dict[str, Any]:
    path = resources.files("danlu.assets") / "advice" / "bases.json"
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return told
