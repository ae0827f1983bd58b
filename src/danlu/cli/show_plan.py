"""What `danlu plan` prints: memory and time part by part, what was chosen and why, and the same elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from danlu.cli.voice import Voice
from danlu.core.messages import say
from danlu.pipeline.plan import Planned, plan_recipe
from danlu.planning.memory import PARTS
from danlu.planning.plan import Plan
from danlu.planning.what_if import Cell, smallest_card
from danlu.planning.why import reasons, way_out
from danlu.recipe import Recipe


def show_plan(
    path: Path, overrides: Sequence[str], voice: Voice, *, card: str | None, memory_gib: float | None,
    price_per_h: float | None,
) -> bool:  # fmt: skip
    """Plan a recipe file and print it; True when every stage fits."""
    recipe = Recipe.load(path, overrides)
    planned = plan_recipe(recipe, card=card, memory_gib=memory_gib, price_per_h=price_per_h)
    _head(planned, voice)
    _say_cards(planned, recipe, voice)
    for name, plan in zip(planned.names, planned.plans, strict=True):
        _stage(planned, name, plan, voice)
    _elsewhere(planned.cells, voice)
    voice.say(say("planning.limits"), "dim")
    voice.result(planned.to_json())
    return all(plan.fits for plan in planned.plans)


def _head(planned: Planned, voice: Voice) -> None:
    first = planned.plans[0]
    voice.say(
        say("planning.title", base=Path(planned.base).name, params=f"{first.num_params:,}",
            trainable=f"{first.num_trainable:,}", ratio=f"{first.trainable_ratio:.2%}"),
        "bold",
    )  # fmt: skip
    if not planned.is_here:
        voice.say(say("planning.known_shape", base=planned.base), "dim")
    if planned.place in ("cpu", "smallest", "none"):
        voice.say(say(f"planning.on_{planned.place}", card=planned.card.name), "yellow")


def _say_cards(planned: Planned, recipe: Recipe, voice: Voice) -> None:
    """How many cards the figures are of; memory is that of each."""
    num_cards = planned.plans[0].work.num_ranks
    if num_cards > 1:
        voice.say(say("planning.cards", num=num_cards, card=planned.card.name))
    elif recipe.training.devices == "all" and planned.card.kind != "cpu":
        voice.say(say("planning.cards_unknown"), "yellow")


def _stage(planned: Planned, name: str, plan: Plan, voice: Voice) -> None:
    assert plan.time is not None, "a plan on a card has a time"
    voice.say()
    voice.say(
        say("planning.stage", stage=name, card=planned.card.name,
            precision=say(f"planning.precision_{plan.work.precision}"),
            context=f"{plan.work.context:,}", tokens=f"{plan.work.micro_tokens:,}"),
        "bold",
    )  # fmt: skip
    _why(plan, voice)
    memory = say("planning.col_memory_cpu" if planned.card.kind == "cpu" else "planning.col_memory")
    total = plan.memory.total_bytes
    sizes = [(part, getattr(plan.memory, part)) for part in PARTS]
    voice.table(
        [memory, say("planning.col_bytes"), say("planning.col_share")],
        [(say(f"planning.{part}"), f"{size / 2**30:.2f}", f"{size / total:.0%}") for part, size in sizes if size]
        + [(say("planning.total"), f"{total / 2**30:.2f}", "")],
    )
    if not plan.fits:
        return  # what cannot run has no speed
    whole = plan.time.total_s
    voice.table(
        [say("planning.col_time"), say("planning.col_seconds"), say("planning.col_share")],
        [
            (say(f"planning.{part}"), f"{value * 1e3:,.1f}", f"{value / whole:.0%}")
            for part, value in asdict(plan.time).items()
            if value > 1e-5
        ]
        + [(say("planning.total"), f"{whole * 1e3:,.1f}", "")],
    )
    voice.say(say("planning.speed", speed=f"{plan.tokens_per_s:,.0f}", mfu=f"{plan.mfu_ratio or 0:.0%}"), "cyan")
    voice.say(_whole(planned, plan))


def _why(plan: Plan, voice: Voice) -> None:
    first, *others = reasons(plan)
    voice.say(first, "green" if plan.fits else "bold red")
    if not plan.fits:
        card = smallest_card(plan.work, may_choose_tokens=True)
        voice.say(f"  → {way_out(plan, card.name if card else None)}", "yellow")
    for reason in others:
        voice.say(reason)


def _whole(planned: Planned, plan: Plan) -> str:
    if plan.total_s is None:
        return say("planning.no_steps")
    cost = planned.cost(plan)
    words = say("planning.energy", kwh=f"{plan.energy_kwh:,.2f}")
    if cost is not None:
        words += say("planning.price", cost=f"{cost:,.2f}", price=f"{planned.price_per_h:g}", num=plan.work.num_ranks)
    key = "planning.whole_guess" if planned.is_guess else "planning.whole"
    return say(key, steps=f"{plan.work.num_steps:,}", time=duration(plan.total_s), cost=words)


def duration(seconds: float) -> str:
    """3 h 20 min, 12 min, 45 s."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return say("planning.hours", hours=f"{minutes // 60:,}", minutes=minutes % 60)
    return say("planning.minutes", minutes=minutes) if minutes >= 2 else say("planning.seconds", seconds=round(seconds))


def _elsewhere(cells: Sequence[Cell], voice: Voice) -> None:
    """Rows that fit nowhere are left out, so that the table stays short; a card that holds nothing says so."""
    contexts = list(dict.fromkeys(cell.context for cell in cells))
    table = {(cell.card.name, cell.way, cell.context): cell for cell in cells}
    rows: list[tuple[str, ...]] = []
    for card in dict.fromkeys(cell.card.name for cell in cells):
        found = [
            (card, say(f"planning.way_{way}"), *(_cell(table[card, way, context]) for context in contexts))
            for way in dict.fromkeys(cell.way for cell in cells)
            if any(table[card, way, context].fits for context in contexts)
        ]
        rows += found or [(card, say("planning.nothing_fits"), *("–" for _ in contexts))]
    voice.say()
    voice.table(
        [
            say("planning.col_card"),
            say("planning.col_way"),
            *(f"{context // 1024}k" if context >= 1024 else str(context) for context in contexts),
        ],
        rows,
        title=say("planning.what_if"),
    )


def _cell(cell: Cell) -> str:
    if cell.plan is None or not cell.fits:
        return "–"
    layers, mix = cell.plan.work.depth, cell.plan.mix
    mark = "●" if mix["all"] == layers else "○" if mix.is_leanest else "◐"
    speed = cell.plan.tokens_per_s or 0
    return f"{mark} {speed / 1000:,.1f}k" if speed >= 1000 else f"{mark} {speed:,.0f}"
