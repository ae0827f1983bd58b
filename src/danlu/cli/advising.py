"""`danlu advise`: what to start from and why, for people; or what is wrong with a script, line by line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.cli.voice import FAULT, Voice
from danlu.core.errors import RunError
from danlu.core.messages import say
from danlu.pipeline.advise import Advice, advise, review
from danlu.pipeline.write_recipe import write_recipe
from danlu.planning.advice.bases import Candidate, about

SHOWN = 4
SLOW = 200
"""Tokens a second below which a few hundred pages take days: worth a word before somebody starts."""


def show_advice(
    voice: Voice, *, task: str, language: str, purpose: str, data: Sequence[Path], card: str | None,
    memory_gib: float | None, base: str | None, recipe: Path | None,
) -> bool:  # fmt: skip
    """Whether there is a base that can be taken."""
    if recipe is not None and recipe.exists():
        raise RunError("cli.file_exists", given=str(recipe))
    advice = advise(
        task=task, language=language, purpose=purpose, data=data, card=card, memory_gib=memory_gib, base=base,
        progress=voice.progress,
    )  # fmt: skip
    voice.say(say("advice.card", card=advice.card.name, memory=f"{advice.card.memory_bytes / 2**30:.3g}"))
    _show_bases(advice, voice)
    voice.say(say("advice.stages", stages=" → ".join(advice.stages)), "bold")
    for reason in advice.reasons:
        voice.say(f"  {reason.text()}" + (f"\n    → {fix}" if (fix := reason.fix()) else ""))
    for number in advice.numbers:
        bounds = f" ({number.bounds})" if number.bounds else ""
        voice.say(f"{number.key}: {_value(number.value)}{bounds}", "bold cyan")
        voice.say(f"  {number.reason.text()}")
        others = say("advice.list").join(
            say("advice.other", value=one.value, who=one.who, note=one.note) for one in number.opinions
        )
        voice.say("  " + say("advice.others", others=others), "dim")
    told = advice.to_json()
    if recipe is not None and advice.chosen is not None:
        write_recipe(advice, recipe.stem, data, recipe)
        told["recipe"] = str(recipe)
        voice.say(say("cli.wrote", path=recipe))
        voice.say(say("cli.next", command=f"danlu check {recipe}"))
    voice.say(about(), "dim")
    voice.result(told)
    return advice.chosen is not None and not advice.chosen.against


def _show_bases(advice: Advice, voice: Voice) -> None:
    chosen = advice.chosen
    if chosen is None:
        voice.say(say("advice.none", card=advice.card.name), FAULT)
    others = [one for one in advice.candidates if chosen is None or one.base.name != chosen.base.name]
    best, out = [one for one in others if not one.against], [one for one in others if one.against]
    rows = ([chosen] if chosen else []) + best[: SHOWN - 1]
    columns = [say(f"advice.col_{name}") for name in ("base", "weights", "memory", "speed", "licence")]
    if rows:
        voice.table(columns, [_row(one, is_chosen=one is chosen) for one in rows])
    if chosen is not None:
        why = say("advice.list").join(reason.text() for reason in (*chosen.against, *chosen.reasons))
        voice.say(say("advice.why", base=chosen.base.name, why=why), FAULT if chosen.against else "")
    if chosen is not None and chosen.plan.fits and 0 < (chosen.plan.tokens_per_s or 0) < SLOW:
        voice.say("  " + say("advice.slow", speed=f"{chosen.plan.tokens_per_s:.0f}", card=advice.card.name), "yellow")
    for one in [one for one in out if any(reason.code == "licence_forbids" for reason in one.against)][:2]:
        voice.say(f"  {one.base.name}: " + say("advice.list").join(reason.text() for reason in one.against), "dim")


def _row(one: Candidate, *, is_chosen: bool) -> tuple[str, ...]:
    plan = one.plan
    speed = f"{plan.tokens_per_s:,.0f}" if plan.fits and plan.tokens_per_s else "-"
    name = ("▶ " if is_chosen else "  ") + one.base.ids["huggingface"]
    rounding = "bf16" if one.quantize == "none" else one.quantize
    return name, rounding, f"{plan.total_bytes / 2**30:.1f} GiB", speed, one.base.licence.name


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def show_review(path: Path, voice: Voice) -> bool:
    """Whether nothing in the script is a fault."""
    findings = review(path)
    faults = [finding for finding in findings if finding.is_fault]
    for finding in findings:
        voice.say(f"{path.name}:{finding.line}  {finding.reason.text()}", FAULT if finding.is_fault else "")
        if fix := finding.reason.fix():
            voice.say(f"    → {fix}")
    key = "advice.script_refused" if faults else "advice.script_passed"
    voice.say(say(key, faults=len(faults), notes=len(findings) - len(faults)), "bold")
    voice.result({"script": str(path), "ok": not faults, "findings": [finding.to_json() for finding in findings]})
    return not faults
