"""The plan: what a stage will need in memory and time, and which layers keep what so that it fits. A prediction.

`choose` walks from "every layer keeps everything" down a short list of moves, cheapest seconds per byte first, until
the peak is within the budget: layers are alike and costs add up, so the best mix takes each move as far as needed and
no further. Where the recipe leaves the tokens computed at once open, a GPU takes those that make the fastest step; a
CPU, which has memory to spare, takes the whole step, and fewer only where that cannot fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from danlu.planning import rates
from danlu.planning.cards import Card
from danlu.planning.memory import Memory, moved_bytes, predict_memory
from danlu.planning.policy import Mix, Policy
from danlu.planning.shapes import Shapes
from danlu.planning.time import StepTime, flops_per_step, predict_time
from danlu.planning.work import Work, leaves_micro_tokens, work_of
from danlu.recipe.recipe import Recipe

ROUND_TOKENS = 64
"""Parts of a step are whole multiples of this: kernels like it."""
MANY_DOCUMENTS = 4
"""More than so many documents to a part fill it well, whatever their lengths."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may fill: device memory, and pinned memory of the host (0: nothing is sent there)."""

    budget_bytes: int
    host_bytes: int
    has_seen_host: bool = False
    """The host is this one: what lies in its memory has to fit there too."""

    @classmethod
    def of(cls, card: Card, *, free_bytes: int | None = None, host_bytes: int | None = None) -> Limits:
        """All of a card but a small reserve, or of what a device with a living context still has free; of a host that
        nobody looked at as much as the card has."""
        has_seen_host = host_bytes is not None and card.kind != "cpu"
        if card.kind == "cpu":
            host_bytes = 0
        elif host_bytes is None:
            host_bytes = int(card.memory_bytes * rates.HOST_MEMORY_RATIO)
        spare = 1 - rates.SPARE_RATIO
        if free_bytes is not None:
            return cls(int(free_bytes * spare) + rates.CONTEXT_BYTES, host_bytes, has_seen_host)
        return cls(int(card.memory_bytes * spare), host_bytes, has_seen_host)


@dataclass(frozen=True, slots=True)
class Plan:
    """One stage on one card: policies chosen, peak and time that follow. Without a card nothing is chosen and no time
    is told: every layer keeps everything."""

    work: Work
    card: Card | None
    mix: Mix
    memory: Memory
    time: StepTime | None = None
    limits: Limits | None = None
    has_chosen_tokens: bool = False
    full_bytes: int = 0
    """The peak if every layer kept everything."""

    @property
    def total_bytes(self) -> int:
        return self.memory.total_bytes

    @property
    def fits(self) -> bool:
        return self.limits is None or (self.total_bytes <= self.limits.budget_bytes and not self.is_host_short)

    @property
    def is_host_short(self) -> bool:
        """Masters and moments do not fit into this machine's memory."""
        limits = self.limits
        return limits is not None and limits.has_seen_host and self.memory.host_states_bytes > limits.host_bytes

    @property
    def policies(self) -> tuple[Policy, ...]:
        """One per layer that the backward goes through, from the lowest on."""
        return self.mix.layers

    @property
    def num_params(self) -> int:
        return self.work.shapes.num_params

    @property
    def num_trainable(self) -> int:
        return self.work.num_trainable

    @property
    def trainable_ratio(self) -> float:
        return self.num_trainable / self.num_params

    @property
    def tokens_per_s(self) -> float | None:
        return self.work.tokens_per_step / self.time.total_s if self.time else None

    @property
    def total_s(self) -> float | None:
        """Of all the stage's steps, where their number is known."""
        return self.time.total_s * self.work.num_steps if self.time and self.work.num_steps else None

    @property
    def energy_kwh(self) -> float | None:
        watts = self.card.watts * rates.POWER_RATIO if self.card else 0.0
        return self.total_s * watts * self.work.num_ranks / 3.6e6 if self.total_s is not None else None

    @property
    def mfu_ratio(self) -> float | None:
        """Model FLOPs over what the datasheet promises in 16 bit."""
        if self.card is None or self.time is None:
            return None
        return flops_per_step(self.work) / self.time.total_s / self.card.datasheet_flops_16 / self.work.num_ranks

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, as `plan.json` and `--json` tell it. What does not fit has no speed."""
        work = self.work
        speed, mfu, total, energy = (
            (self.tokens_per_s, self.mfu_ratio, self.total_s, self.energy_kwh) if self.fits else (None,) * 4
        )
        return {
            "num_params": self.num_params,
            "num_trainable": self.num_trainable,
            "trainable_ratio": self.trainable_ratio,
            "precision": work.precision,
            "context": work.context,
            "tokens_at_once": work.micro_tokens,
            "has_chosen_tokens": self.has_chosen_tokens,
            "batch_tokens": work.tokens_per_step,
            "policies": self.mix.to_json(),
            "card": self.card.to_json() if self.card else None,
            "budget_bytes": self.limits.budget_bytes if self.limits else None,
            "fits": self.fits,
            "total_bytes": self.total_bytes,
            "full_bytes": self.full_bytes,
            "memory": self.memory.to_json(),
            "time": self.time.to_json() if self.time else None,
            "tokens_per_s": round(speed, 1) if speed else None,
            "mfu_ratio": round(mfu, 4) if mfu else None,
            "num_ranks": work.num_ranks,
            "num_steps": work.num_steps,
            "total_s": round(total, 1) if total is not None else None,
            "energy_kwh": round(energy, 3) if energy is not None else None,
        }


# ---- from a recipe


def plan(recipe: Recipe, shapes: Shapes, card: Card | None = None) -> list[Plan]:
    """One plan per stage of the recipe."""
    return [plan_stage(recipe, index, shapes, card) for index in range(len(recipe.plan_stages()))]


def plan_stage(
    recipe: Recipe, index: int, shapes: Shapes, card: Card | None, *, supervised_ratio: float | None = None,
    document_tokens: int = 0, num_steps: int | None = None, limits: Limits | None = None,
) -> Plan:  # fmt: skip
    """The plan of one stage. What a prepared dataset and a living device know better than a guess is handed in."""
    work = work_of(
        recipe, recipe.plan_stages()[index], shapes, supervised_ratio=supervised_ratio,
        document_tokens=document_tokens, num_steps=num_steps, has_16bit=card is None or card.flops_16 > card.flops_32,
    )  # fmt: skip
    if card is None:
        mix = Mix.of("all", work.depth)
        memory = predict_memory(work, mix)
        return Plan(work, None, mix, memory, full_bytes=memory.total_bytes)
    return choose(work, card, limits, may_choose_tokens=leaves_micro_tokens(recipe, index))


# ---- choosing


def choose(work: Work, card: Card, limits: Limits | None = None, *, may_choose_tokens: bool = False) -> Plan:
    """The fastest plan within the limits (the card's own where none are given); where there is none, the leanest one,
    which says that it does not fit. On a CPU the whole step is computed at once while that fits in any way: fewer
    tokens make other batches there, and no faster ones."""
    limits = limits or Limits.of(card)
    if card.kind == "cpu" or not card.has_bf16:  # gradients are applied after the backward there
        work = replace(work, frees_gradients=False, pad=rates.CPU_PAD if card.kind == "cpu" else work.pad)
    plans = []
    for size in _token_counts(work) if may_choose_tokens else [work.micro_tokens]:
        plans.append(_best_mix(replace(work, micro_tokens=size), card, limits))
        if plans[-1].fits and (card.kind == "cpu" or plans[-1].mix["all"] == work.depth):
            break  # nothing is given up: fewer tokens at once gain nothing
    fitting = [found for found in plans if found.fits]
    best = min(fitting, key=_seconds_per_token) if fitting else min(plans, key=lambda found: found.total_bytes)
    is_given = card.kind == "cpu" and best is plans[0] and best.fits
    return replace(best, has_chosen_tokens=may_choose_tokens and not is_given)


def leaner(found: Plan, mix: Mix) -> Plan | None:
    """The fastest plan that is predicted to take clearly less than this one with the mix it has come to, with which
    memory ended all the same; None where there is none."""
    assert found.card is not None and found.limits is not None, "a plan for a device"
    taken = predict_memory(found.work, mix, kind=found.card.kind).total_bytes
    limits = replace(found.limits, budget_bytes=int(taken * (1 - rates.STEP_DOWN_RATIO)))
    next_one = choose(found.work, found.card, limits)
    return next_one if next_one.fits else None


def _seconds_per_token(found: Plan) -> float:
    assert found.time is not None, "a chosen plan has a time"
    return found.time.total_s / found.work.tokens_per_step


def _token_counts(work: Work) -> Iterator[int]:
    """Whole parts of a card's share of a step, from all of it down to the longest item."""
    least, seen = work.min_micro_tokens, set[int]()
    share = -(-work.batch_tokens // work.num_ranks)
    if share <= least:
        yield least
        return
    for pieces in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128):
        if share // pieces < least:
            break
        size = share // pieces
        if pieces > 1:
            document = work.document
            # room that the next document would not fit into is no room
            size = size // document * document if document > size // MANY_DOCUMENTS else size
            size = max(least, size // ROUND_TOKENS * ROUND_TOKENS)
        if size not in seen:
            seen.add(size)
            yield size


def _best_mix(work: Work, card: Card, limits: Limits) -> Plan:
    """The fastest mix whose peak is within the budget; the leanest where none is."""
    full = predict_memory(work, Mix.of("all", work.depth), kind=card.kind).total_bytes

    def planned(mix: Mix) -> Plan:
        memory = predict_memory(work, mix, kind=card.kind)
        return Plan(work, card, mix, memory, predict_time(work, mix, card), limits, full_bytes=full)

    strategies = [()] if work.is_written_out else STRATEGIES
    ways = [_descend(work, card, limits, moves) for moves in strategies]
    plans = [planned(mix) for mix in dict.fromkeys(ways)]
    fitting = [found for found in plans if found.fits]
    return min(fitting, key=_seconds_per_token) if fitting else min(plans, key=lambda found: found.total_bytes)


Move = tuple[Policy, Policy]
"""From, to."""
_ALONE: tuple[Move, ...] = (("all", "light"), ("light", "input"), ("input", "input-host"))
"""What a layer gives up of itself."""
STRATEGIES: tuple[tuple[Move, ...], ...] = (
    _ALONE,
    (("all", "all-split"), ("all", "light"), ("all-split", "light-host"), *_ALONE, ("light-host", "input-host")),
    (("all", "all-host"), *_ALONE, ("all-host", "light-host"), ("light-host", "input-host")),
)
"""Orders of moves worth comparing: keep on the device and recompute; lend what the link takes while the next layer
runs, then recompute gate|up, which frees as much as on the device; lend everything, for slow cards."""


def _descend(work: Work, card: Card, limits: Limits, moves: Iterable[Move]) -> Mix:
    """Take each move as far as needed until the peak is within the budget, and as far as the host has room."""
    wanted_bytes = limits.budget_bytes

    def peak(mix: Mix) -> int:
        return predict_memory(work, mix, kind=card.kind).total_bytes

    mix = Mix.of("all", work.depth)
    for start, end in moves:
        if peak(mix) <= wanted_bytes:
            break
        most = mix[start]
        lent = work.micro_tokens * (moved_bytes(work, end) - moved_bytes(work, start))
        if lent > 0:
            host_left = limits.host_bytes - predict_memory(work, mix, kind=card.kind).host_bytes
            most = min(most, host_left // lent)
        num_layers = _least(most, lambda n, m=mix, a=start, b=end: peak(m.move(a, b, n)) <= wanted_bytes)  # type: ignore[misc]
        moved = mix.move(start, end, num_layers)
        if peak(moved) < peak(mix):
            mix = moved
    return mix


def _least(most: int, is_enough: Callable[[int], bool]) -> int:
    """The smallest number from 1 to `most` that is enough; `most` where none is."""
    low, high = min(1, most), most
    while low < high:
        middle = (low + high) // 2
        if is_enough(middle):
            high = middle
        else:
            low = middle + 1
    return high
