"""`danlu explain`: what a knob does, what it may be, and why its default is what it is."""

from __future__ import annotations

from typing import Any

from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import lookup, say
from danlu.core.shelf import nearest
from danlu.data.privacy.finding import KINDS
from danlu.data.privacy.level import LEVELS
from danlu.recipe import Recipe
from danlu.recipe.defaults import LR_FROM_SCRATCH, USUAL_LR
from danlu.recipe.habits import HABITS
from danlu.recipe.knobs import Knob, all_knobs

_OF_KINDS = ("data.privacy.actions", "data.privacy.levels")
"""Knobs whose keys, or what their keys stand for, are kinds of personal data."""


def explain(key: str | None, voice: Voice) -> None:
    knobs = all_knobs(Recipe)
    if key is None:
        columns = [say("cli.col_key"), say("cli.col_default"), say("cli.col_range"), say("cli.col_help")]
        voice.table(columns, [(k.key, _default(k), k.bounds, _text(k)[0]) for k in knobs.values()])
        voice.result([explained(knob) for knob in knobs.values()])
        return
    knob = knobs.get(key) or knobs.get(HABITS.get(key, ""))
    if knob is None:
        inside = [name for name in knobs if name.startswith(f"{key}.")]
        if not inside:
            by_last = {name.rpartition(".")[2]: name for name in reversed(knobs)}
            close = nearest(key, knobs) or by_last.get(nearest(key.rpartition(".")[2], by_last) or "") or "-"
            raise RecipeError("recipe.unknown_knob", where=key, given=key, nearest=close)
        voice.table(
            [say("cli.col_key"), say("cli.col_default"), say("cli.col_range"), say("cli.col_help")],
            [(name, _default(knobs[name]), knobs[name].bounds, _text(knobs[name])[0]) for name in inside],
        )
        voice.result([explained(knobs[name]) for name in inside])
        return
    what, why = _text(knob)
    bounds = f" ({knob.bounds})" if knob.bounds else ""
    voice.say(knob.key, "bold cyan")
    voice.say(what)
    voice.say(say("cli.allowed", kind=knob.kind, bounds=bounds, default=_default(knob)))
    voice.say(say("cli.reason", reason=why))
    if knob.key in _OF_KINDS:
        for level, names in _kinds().items():
            voice.say(say("privacy.kinds", level=level, kinds=", ".join(names)))
    voice.result(explained(knob))


def explained(knob: Knob) -> dict[str, Any]:
    what, why = _text(knob)
    return {
        "key": knob.key,
        "type": knob.kind,
        "range": knob.bounds,
        "default": knob.default,
        "help": what,
        "reason": why,
        "source": knob.section.__module__,
        **({"kinds": _kinds()} if knob.key in _OF_KINDS else {}),
    }


def _kinds() -> dict[str, list[str]]:
    """What privacy looks for, by level, the most sensitive first."""
    return {level: [name for name, kind in KINDS.items() if kind.level == level] for level in reversed(LEVELS)
            if any(kind.level == level for kind in KINDS.values())}  # fmt: skip


def _text(knob: Knob) -> tuple[str, str]:
    what, why = lookup(f"explain.{knob.key}")
    return what.format(), why.format()


def _default(knob: Knob) -> str:
    if knob.key == "training.lr":
        usual = ", ".join(f"{method}/{adapter} {lr:g}" for (method, adapter), lr in USUAL_LR.items())
        return f"{usual}, random init {LR_FROM_SCRATCH:g}"
    if knob.key == "adapter.alpha":
        return "2 × rank"
    if isinstance(knob.default, tuple):
        return "[" + ", ".join(str(getattr(entry, "kind", entry)) for entry in knob.default) + "]"
    return "-" if knob.default is None else str(knob.default)
