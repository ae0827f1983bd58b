"""Why a plan is as it is, in sentences for people."""

from __future__ import annotations

from danlu.core.messages import say
from danlu.planning.answers import num_answers
from danlu.planning.plan import Plan

WAITING_RATIO = 0.1
"""Share of a step spent waiting for launches from which on it is worth a word."""


def reasons(plan: Plan) -> list[str]:
    """What was chosen and why, most important first; empty for a plan without a card."""
    if plan.card is None or plan.limits is None or plan.time is None:
        return []
    told = [_policies(plan), *_prices(plan)]
    if below := plan.work.shapes.num_layers - plan.work.depth:
        told.append(say("planning.why_layers", below=below, layers=plan.work.shapes.num_layers, lowest=below))
    if plan.has_chosen_tokens and plan.fits:
        key = "planning.why_whole_step" if plan.work.num_pieces == 1 else "planning.why_tokens"
        told.append(say(key, tokens=f"{plan.work.micro_tokens:,}", pieces=plan.work.num_pieces))
    if not plan.card.has_bf16:
        told.append(say("planning.why_fp16", card=plan.card.name))
    if plan.fits and plan.time.waiting_s > WAITING_RATIO * plan.time.total_s:
        told.append(say("planning.why_waiting", share=f"{plan.time.waiting_s / plan.time.total_s:.0%}"))
    if not plan.card.is_measured:
        told.append(say("planning.why_estimated", card=plan.card.name))
    return told


def _policies(plan: Plan) -> str:
    assert plan.limits is not None, "asked of plans with a card"
    facts = {"full": gib(plan.full_bytes), "budget": gib(plan.limits.budget_bytes), "needed": gib(plan.total_bytes)}
    if plan.is_host_short:
        return say("planning.short_host", **_host_facts(plan))
    if not plan.fits:
        return say("planning.short", **facts)
    if plan.mix["all"] == plan.work.depth:
        return say("planning.why_all", **facts)
    return say("planning.why_mix", what=policy_text(plan), layers=plan.work.depth, **facts)


def _host_facts(plan: Plan) -> dict[str, str]:
    assert plan.limits is not None, "asked of plans with a card"
    return {"states": gib(plan.memory.host_states_bytes), "host": gib(plan.limits.host_bytes)}


def _prices(plan: Plan) -> list[str]:
    """What giving up costs."""
    if not plan.fits or plan.time is None:
        return []
    told, whole = [], plan.time.total_s
    if plan.work.group:
        answers, tokens = f"{num_answers(plan.work):,}", f"{plan.work.answer_tokens:,}"
        share = _share(plan.time.answers_s / whole)
        told.append(say("planning.why_answers", answers=answers, tokens=tokens, group=plan.work.group, share=share))
    if plan.time.recompute_s:
        told.append(say("planning.why_again", share=_share(plan.time.recompute_s / whole)))
    states = plan.memory.host_states_bytes
    key, pinned = ("why_states", states) if states else ("why_host", plan.memory.host_bytes)
    if pinned:
        told.append(say(f"planning.{key}", host=gib(pinned), share=_share(plan.time.host_s / whole)))
    if plan.work.updates_in_backward:
        told.append(say("planning.why_in_backward"))
    return told


def _share(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.01 else "<1%"


def summary(name: str, plan: Plan, smallest: str | None) -> str:
    """One line about a stage; `smallest` is the card that would hold it, for a plan without a card."""
    if plan.card is None or plan.limits is None:
        key = "planning.check_any" if smallest else "planning.check_none"
        return say(key, stage=name, card=smallest)
    facts = {"needed": gib(plan.total_bytes), "budget": gib(plan.limits.budget_bytes), "card": plan.card.name}
    if plan.is_host_short:
        return say("planning.check_short_host", stage=name, **_host_facts(plan))
    if not plan.fits:
        return say("planning.check_short", stage=name, **facts)
    return say("planning.check_fits", stage=name, speed=f"{plan.tokens_per_s or 0:,.0f}", **facts)


def policy_text(plan: Plan) -> str:
    """`20 × everything kept on the card; 8 × gate and up kept on the card, the rest in the machine's memory`."""
    separator, place = say("planning.separator"), "_cpu" if plan.card and plan.card.kind == "cpu" else ""
    groups = reversed(plan.mix.groups)
    return separator.join(
        f"{count} × {say('planning.policy_' + name.replace('-', '_') + place)}" for name, count in groups
    )


def way_out(plan: Plan, smallest: str | None) -> str:
    """What helps where a plan does not fit: knobs that this recipe may still turn, or the smallest card that holds
    it."""
    work, knob = plan.work, ""
    if plan.is_host_short:
        return say("planning.short_host_fix")
    if work.is_full:
        is_lean = work.has_8bit_states and not work.has_masters
        knob = say("planning.leaner_lora" if is_lean else "planning.leaner_full")
        if work.has_masters and work.offload == "none" and work.width == 2:
            knob += say("planning.leaner_offload")
    elif work.precision != "nf4" and not work.shapes.is_foreign:
        knob = say("planning.leaner_nf4")
    if smallest is None:
        return say("planning.short_fix_none", leaner=knob)
    return say("planning.short_fix", leaner=knob, card=smallest)


def gib(num_bytes: float) -> str:
    """12.3 GiB; small sizes in MiB."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 0.1 * 2**30 else f"{num_bytes / 2**20:.0f} MiB"
