"""`danlu run DATA`: one screen says what will happen, one question, then every act; at the end how to use the result.

In a terminal it asks. Without one, and with --json, nobody can answer, so nothing starts without --yes: a training may
take the machine for hours. A run that has been begun was agreed to, and goes on without asking.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

import danlu
from danlu.cli.checking import show_check
from danlu.cli.lines import described, terminal_cells
from danlu.cli.show import show_artifacts, show_report, summary_json
from danlu.cli.show_plan import duration
from danlu.cli.targets import open_target, smoke_overrides
from danlu.cli.voice import FAULT, FIX, Voice
from danlu.core.errors import RunError
from danlu.core.files import size_text
from danlu.core.messages import say
from danlu.pipeline.begin import ALLOWED_REJECTS, COMMON_CARD, Beginning, begin, place_of, told_kinds
from danlu.planning.advice.bases import Candidate
from danlu.recipe import Recipe
from danlu.recipe.adapter import AdapterSection, FullSection, LoRASection
from danlu.run.run import Run


def run_data(
    paths: Sequence[Path], overrides: Sequence[str], runs: Path, voice: Voice, *, is_smoke: bool, is_agreed: bool
) -> bool:
    """Everything from files to proven exports; True when the exports were proven."""
    place = place_of(paths, overrides)
    if place.is_there and (going := _begun(place.file, overrides, runs, is_smoke=is_smoke)) is not None:
        voice.progress.note(say("begin.goes_on", run=going.folder, file=place.file))
        return _act(going, place.file, voice)
    found = begin(paths, place, overrides=overrides, progress=voice.progress)
    wanted = smoke_overrides(str(found.file), overrides) if is_smoke else overrides
    recipe = Recipe.load(found.file, wanted)
    _show(found, recipe, wanted, " ".join(map(str, paths)), runs, voice)
    _refuse_faulty(found, recipe, " ".join(map(str, paths)), voice)
    if not is_agreed:
        _ask(found, recipe, voice)
    return _act(open_target(str(found.file), wanted, runs), found.file, voice)


def _begun(file: Path, overrides: Sequence[str], runs: Path, *, is_smoke: bool) -> Run | None:
    """The run of this recipe, where one of its acts has finished."""
    wanted = smoke_overrides(str(file), overrides) if is_smoke else overrides
    recipe = Recipe.load(file, wanted)
    folder = runs / f"{recipe.name}-{recipe.digest[:8]}"
    return open_target(str(file), wanted, runs) if any((folder / "acts").glob("*.json")) else None


def _ask(found: Beginning, recipe: Recipe, voice: Voice) -> None:
    """Exit 1 where somebody says no, 2 where nobody can be asked."""
    if voice.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        refusal = RunError("begin.yes_needed", file=found.file)
        voice.fail(refusal.text, refusal.fix)
        voice.result(refusal.to_json() | _plan_json(found, recipe))
        raise typer.Exit(2)
    if not typer.confirm(say("begin.ask"), default=True):
        voice.say(say("begin.not_started", file=found.file))
        raise typer.Exit(1)


def _plan_json(found: Beginning, recipe: Recipe) -> dict[str, Any]:
    """The screen for scripts."""
    told = found.survey.told
    return {
        "recipe": str(found.file), "is_new": found.advice is not None, "rows": told["rows"], "kinds": told["kinds"],
        "tokens": found.facts.num_tokens, "language": found.survey.language, "base": recipe.model.base,
        "quantize": recipe.model.quantize, "stages": [stage.method.kind for stage in recipe.plan_stages()],
        "better": found.wished.to_json() if found.wished else None,
        "plan": [plan.to_json() for plan in found.plans], "total_s": found.total_s,
    }  # fmt: skip


def _act(run: Run, file: Path, voice: Voice) -> bool:
    summary = danlu.run_all(run, progress=voice.progress)
    quiet = Voice(quiet=voice.quiet or voice.as_json)
    show_report(run.folder, summary.report, quiet)
    is_proven = show_artifacts(summary.artifacts, quiet)
    verdict = summary.report.verdict
    told = say(f"report.{verdict.decision}") if verdict else say("report.no_gate")
    voice.say()
    voice.say(
        say(
            f"begin.last_words{'' if _is_served(run.recipe) else '_unserved'}",
            verdict=told,
            run=run.folder,
            report=run.path("report.html"),
            file=file,
        ),
        "bold cyan",
    )
    voice.result(summary_json(run, summary) | {"recipe": str(file)})
    return is_proven


def _is_served(recipe: Recipe) -> bool:
    """No engine serves a prefix or an encoder: docs/scope.md."""
    return recipe.adapter.kind != "prefix" and not _names_classes(recipe)


def _names_classes(recipe: Recipe) -> bool:
    return any(stage.method.kind == "classify" for stage in recipe.plan_stages())


# ---- the screen


def _show(found: Beginning, recipe: Recipe, changes: Sequence[str], data: str, runs: Path, voice: Voice) -> None:
    voice.say()
    voice.say(say("begin.title", data=data), "bold")
    lines = list(_lines(found, recipe, data))
    lines += [(say("begin.recipe"), say(f"begin.recipe_{'new' if found.advice else 'kept'}", file=found.file))]
    lines += [(say("begin.run"), str(runs / f"{recipe.name}-{recipe.digest[:8]}"))]
    lines += [(say("begin.changed"), " ".join(changes))] if changes else []
    voice.say(described(lines, terminal_cells()))


def _lines(found: Beginning, recipe: Recipe, data: str) -> Iterator[tuple[str, str]]:
    """(name, what is to be known); a name that is "" belongs to the line above."""
    told, facts = found.survey.told, found.facts
    yield say("begin.data"), say(
        "begin.data_is", rows=told_kinds(facts.kinds), files=len(told["files"]), tokens=f"{facts.num_tokens:,}",
        language=say(f"begin.language_{found.survey.language}"),
    )  # fmt: skip
    rows = told["rows"]
    if rows["rejected"]:
        why = told["rejects"][0]["reason"] if told["rejects"] else "–"
        yield "", say("begin.rejected", num=f"{rows['rejected']:,}", read=f"{rows['read']:,}", why=why, data=data)
    if found.advice:
        for reason in found.advice.reasons:
            yield "", reason.text()
            if fix := reason.fix():
                yield "", f"→ {fix}"
    methods = [stage.method.kind for stage in recipe.plan_stages()]
    learnt = frozenset().union(*(stage.method.accepts for stage in recipe.plan_stages()))
    idle = {kind: num for kind, num in facts.kinds.items() if kind not in learnt}
    if idle and not (found.advice and facts.has_few_documents):
        yield "", say("begin.idle", kinds=told_kinds(idle))
    why = f" – {found.start.reason.text()}" if found.start and found.start.reason else ""
    yield say("begin.base"), f"{recipe.model.base}{why}"
    if found.advice and found.advice.chosen and (note := found.advice.chosen.base.licence.told()):
        yield "", f"{found.advice.chosen.base.licence.name}: {note}"
    if found.wished is not None:
        yield "", _wished(found, found.wished, data)
    yield say("begin.method"), _method(recipe, methods)
    yield say("begin.asks"), _asks(found, recipe)
    yield say("begin.gate"), _gate(recipe)
    yield say("begin.memory"), _memory(found)
    told_time = duration(found.total_s) if found.total_s is not None else None
    yield say("begin.time"), say("begin.time_is", time=told_time) if told_time else say("begin.time_unknown")


def _wished(found: Beginning, wished: Candidate, data: str) -> str:
    plan = wished.plan
    weights = "bf16" if wished.quantize == "none" else wished.quantize
    assert plan.card is not None, "judged on a card"
    told = {
        "base": wished.base.ids["huggingface"], "weights": weights, "licence": wished.base.licence.name,
        "card": found.card.name,
    }  # fmt: skip
    if plan.card.name != found.card.name:
        return say("begin.with_card", other=COMMON_CARD, **told)
    size, speed = f"{plan.total_bytes / 2**30:.1f}", f"{plan.tokens_per_s or 0:,.0f}"
    return say("begin.with_network", size=size, speed=speed, data=data, **told)


def _method(recipe: Recipe, methods: Sequence[str]) -> str:
    adapter = recipe.adapter
    rates = " / ".join(f"{stage.training.lr:g}" for stage in recipe.plan_stages())
    return say(
        "begin.method_is", stages=" → ".join(methods), adapter=_adapter(adapter),
        epochs=f"{recipe.training.epochs:g}", rate=rates,
    )  # fmt: skip


def _adapter(adapter: AdapterSection) -> str:
    if isinstance(adapter, LoRASection):
        return say("begin.adapter_lora", rank=adapter.rank)
    return say("begin.adapter_full") if isinstance(adapter, FullSection) else str(adapter.kind)


def _asks(found: Beginning, recipe: Recipe) -> str:
    if recipe.evaluation.questions:
        return say("begin.asks_file", questions=recipe.evaluation.questions)
    if not {"conversation", "label"} & found.facts.kinds.keys():
        return say("begin.asks_nothing")
    key = "begin.asks_held_alone" if _names_classes(recipe) else "begin.asks_held"
    return say(key, share=f"{recipe.data.split.test:.0%}")


def _gate(recipe: Recipe) -> str:
    gate = recipe.gate
    if gate.min_gain is not None and _names_classes(recipe):
        return say("begin.gate_classes", gain=f"{100 * gate.min_gain:g}")
    if gate.min_gain is None or gate.max_forget is None:
        return say("begin.gate_other")
    return say("begin.gate_is", gain=f"{100 * gate.min_gain:g}", forget=f"{gate.max_forget:.0%}")


def _memory(found: Beginning) -> str:
    if not found.plans:
        return say("begin.memory_unknown")
    most = max(found.plans, key=lambda plan: plan.total_bytes)
    assert most.limits is not None, "planned for this machine"
    key = "begin.memory_is" if most.fits else "begin.memory_short"
    return say(
        key, needed=size_text(most.total_bytes), budget=size_text(most.limits.budget_bytes), card=found.card.name
    )


# ---- what stands in the way


def _refuse_faulty(found: Beginning, recipe: Recipe, data: str, voice: Voice) -> None:
    """Faults that a run would end with after it has worked for a while are told now."""
    checked: dict[str, Any] = danlu.check(recipe)
    if not checked["ok"]:
        show_check(checked | {"warnings": [], "plan": {"stages": []}}, Voice(quiet=voice.quiet))
    for warning in checked["warnings"]:
        voice.say(f"{warning['message']}\n  → {warning['fix']}", FIX)
    short = next((plan for plan in found.plans if not plan.fits), None)
    if short is not None and short.limits is not None:
        needed, budget = size_text(short.total_bytes), size_text(short.limits.budget_bytes)
        voice.say(say("begin.does_not_fit", needed=needed, budget=budget), FAULT)
    rows = found.survey.told["rows"]
    share, allowed = rows["rejected"] / max(1, rows["read"]), recipe.data.max_rejected
    if share > allowed:
        raise RunError(
            "begin.many_rejected", num=f"{rows['rejected']:,}", read=f"{rows['read']:,}", share=f"{share:.0%}",
            allowed=f"{allowed:.0%}", data=data, enough=min(1, round(share + ALLOWED_REJECTS / 2, 2)),
        )  # fmt: skip
    if not checked["ok"] or short is not None:
        raise RunError("begin.not_ready", file=found.file)
