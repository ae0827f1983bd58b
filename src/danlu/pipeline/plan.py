"""plan: what a recipe will need in memory and time, here or on a card that somebody thinks of. No GPU, no torch.

Shapes come from the base's config.json where it lies on this machine, else from the table of known bases: one can plan
before downloading anything. This machine's card is asked of the driver's own tool.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from danlu.core.errors import HubError, RecipeError
from danlu.core.files import read_json
from danlu.core.memory import total_bytes
from danlu.core.messages import listed
from danlu.core.progress import Silent
from danlu.model.hub import find_base
from danlu.planning import rates
from danlu.planning.bases import BASES, known_base, near_bases
from danlu.planning.cards import CARDS, Card, cpu_card, find_card, seen_card
from danlu.planning.plan import Limits, Plan, plan_stage
from danlu.planning.shapes import Shapes
from danlu.planning.what_if import COMMON_CARDS, Cell, smallest_card, what_if
from danlu.planning.why import reasons
from danlu.planning.work import leaves_micro_tokens, work_of
from danlu.recipe import Recipe

TEXT_FILES = frozenset({".jsonl", ".json", ".csv", ".tsv", ".txt", ".md", ".html", ".xml"})
WORTHWHILE_TOKENS_PER_S = 50.0
"""Slower than this nobody trains on a CPU: the plan is shown for a card."""

Place = Literal["named", "this", "cpu", "smallest", "none"]
"""Why this card: named by the user; this machine's; its CPU; the smallest that holds it; none holds it."""


@dataclass(frozen=True, slots=True)
class Planned:
    """All that `danlu plan` tells."""

    base: str
    is_here: bool
    """The base lies on this machine; else its shape is known by name."""
    shapes: Shapes
    card: Card
    place: Place
    names: tuple[str, ...]
    plans: tuple[Plan, ...]
    is_guess: bool
    """The number of steps was judged by the size of files."""
    cells: tuple[Cell, ...]
    price_per_h: float | None

    def cost(self, plan: Plan) -> float | None:
        """In the price's currency, of all cards; None for what does not fit."""
        if not plan.fits or plan.total_s is None or self.price_per_h is None:
            return None
        return plan.total_s / 3600 * self.price_per_h * plan.work.num_ranks

    def to_json(self) -> dict[str, Any]:
        return {
            "base": self.base,
            "is_here": self.is_here,
            "card": self.card.to_json(),
            "place": self.place,
            "is_estimate": True,
            "is_guess": self.is_guess,
            "stages": [
                {"method": name} | plan.to_json() | {"cost": self.cost(plan), "reasons": reasons(plan)}
                for name, plan in zip(self.names, self.plans, strict=True)
            ],
            "what_if": [cell.to_json() for cell in self.cells],
        }


def plan_recipe(
    recipe: Recipe, *, card: str | None = None, memory_gib: float | None = None, price_per_h: float | None = None
) -> Planned:
    """Plan every stage of a recipe on the card named (or this machine's, or the smallest that holds it), and answer
    what if. `memory_gib` changes the card's memory."""
    shapes, is_here = find_shapes(recipe)
    recipe = with_cards_counted(recipe) if card is None else recipe
    chosen, place = _choose_card(recipe, shapes, card, memory_gib)
    limits = Limits.of(chosen, host_bytes=pinned_bytes() if place == "this" else None)
    steps = [_guess_steps(recipe, index) for index in range(len(recipe.plan_stages()))]
    plans = tuple(
        plan_stage(recipe, index, shapes, chosen, num_steps=count, limits=limits) for index, count in enumerate(steps)
    )
    elsewhere = [chosen] if card else [CARDS[name] for name in COMMON_CARDS]
    return Planned(
        base=recipe.model.base,
        is_here=is_here,
        shapes=shapes,
        card=chosen,
        place=place,
        names=tuple(stage.method.kind for stage in recipe.plan_stages()),
        plans=plans,
        is_guess=any(count is not None for count in steps),
        cells=tuple(what_if(plans[0].work, elsewhere)),
        price_per_h=price_per_h,
    )


def find_shapes(recipe: Recipe) -> tuple[Shapes, bool]:
    """The base's shapes, and whether it lies on this machine. RecipeError where neither disk nor table knows them."""
    section = recipe.model
    try:
        folder = find_base(
            section.base, revision=section.revision, hub=section.hub, mirror=section.mirror, needs_weights=False,
            progress=Silent(), is_offline=True,
        )  # fmt: skip
        config = read_json(folder / "config.json")
    except (HubError, FileNotFoundError, orjson.JSONDecodeError) as error:
        known = known_base(section.base)
        if known is None:
            near = listed(near_bases(section.base) or list(BASES)[:6])
            raise RecipeError("planning.unknown_base", where="model.base", given=section.base, near=near) from error
        return known, False
    shapes = Shapes.read(config)
    if shapes is None:
        raise RecipeError("planning.no_decoder", where="model.base", given=section.base)
    return shapes, True


# ---- the card


def _choose_card(recipe: Recipe, shapes: Shapes, name: str | None, memory_gib: float | None) -> tuple[Card, Place]:
    if name is not None:
        card = this_cpu() if name.lower() == "cpu" else find_card(name)
        if card is None:
            raise RecipeError("planning.unknown_card", where="--card", given=name, known=listed(CARDS))
        place: Place = "named"
    elif (found := card_here(recipe, shapes)) is not None:
        card, place = found, "cpu" if found.kind == "cpu" else "this"
    else:
        card, place = _smallest(recipe, shapes)
    if memory_gib is not None:
        card = replace(card, memory_bytes=int(memory_gib * 2**30))
    return card, place


def card_here(recipe: Recipe, shapes: Shapes) -> Card | None:
    """What this machine would train this recipe on: its card, or its CPU where that is worthwhile; else None."""
    if (card := this_card()) is not None:
        return card
    cpu = this_cpu()
    here = plan_stage(recipe, 0, shapes, cpu)
    return cpu if here.fits and (here.tokens_per_s or 0) >= WORTHWHILE_TOKENS_PER_S else None


def _smallest(recipe: Recipe, shapes: Shapes) -> tuple[Card, Place]:
    works = [work_of(recipe, stage, shapes) for stage in recipe.plan_stages()]
    hardest = max(works, key=lambda work: work.min_micro_tokens)
    smallest = smallest_card(hardest, may_choose_tokens=leaves_micro_tokens(recipe, works.index(hardest)))
    if smallest is not None:
        return smallest, "smallest"
    return max(CARDS.values(), key=lambda card: card.memory_bytes), "none"


def with_cards_counted(recipe: Recipe) -> Recipe:
    """`devices: all` as the number of this machine's cards; as it is where there are none to count."""
    if recipe.training.devices != "all" or not (cards := cards_here()):
        return recipe
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"devices": len(cards)})})


def this_card() -> Card | None:
    """The first NVIDIA card of this machine; None where there is none."""
    return next(iter(cards_here()), None)


def cards_here() -> list[Card]:
    """The NVIDIA cards of this machine as their driver's tool reports them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    question = [tool, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(question, capture_output=True, text=True, timeout=20, check=True).stdout  # noqa: S603
        return [_card_of(line) for line in said.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError, ValueError):  # a driver that answers nothing has no card
        return []


def _card_of(line: str) -> Card:
    name, mebibytes, capability = (part.strip() for part in line.split(","))
    major, minor = capability.split(".")
    return seen_card(name, int(mebibytes) * 2**20, (int(major), int(minor)))


def this_cpu() -> Card:
    """This machine's processor and memory. bf16 counts where the processor has instructions for it."""
    has_bf16 = False
    if (told := Path("/proc/cpuinfo")).is_file():
        flags = told.read_text(encoding="utf-8", errors="replace")
        has_bf16 = "avx512_bf16" in flags or "amx_bf16" in flags
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpu_card(num_cores=cores, memory_bytes=total_bytes(), has_bf16=has_bf16)


def pinned_bytes() -> int:
    """Of this machine's memory what a plan may pin."""
    return int(total_bytes() * rates.HOST_PINNED_RATIO)


# ---- how many steps


def _guess_steps(recipe: Recipe, index: int) -> int | None:
    """Steps of a stage judged by the size of text files that are there; None where the recipe says it or nobody can.
    Drawn answers are taken to be as long as those that are there."""
    stage = recipe.plan_stages()[index]
    training, num_copies = stage.training, max(1, stage.method.num_answers)
    if training.max_steps is not None:
        return None
    num_bytes = sum(path.stat().st_size for source in recipe.data.sources for path in _text_files(Path(source.path)))
    held_out = recipe.data.split.test + (0.0 if recipe.data.validation else recipe.data.split.validation)
    tokens = num_bytes / rates.BYTES_PER_TOKEN * (1 - held_out)
    return math.ceil(training.epochs * num_copies * tokens / training.batch_tokens) if tokens else None


def _text_files(path: Path) -> Iterator[Path]:
    if any(mark in str(path) for mark in "*?["):
        found = path.parent.glob(path.name) if path.parent.is_dir() else iter(())
    elif path.is_dir():
        found = path.rglob("*")
    else:
        found = iter([path])
    yield from (file for file in found if file.suffix.lower() in TEXT_FILES and file.is_file())
