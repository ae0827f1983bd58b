"""`danlu explain`: what a knob does, what it may be, and why its default is what it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from danlu.cli.habits import knob_named
from danlu.cli.lines import described, terminal_cells
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
        _show_many(list(knobs.values()), voice)
        voice.result([explained(knob) for knob in knobs.values()])
        return
    knob = knobs.get(key) or knobs.get(HABITS.get(key) or knob_named(key) or "")
    if knob is None:
        inside = [name for name in knobs if name.startswith(f"{key}.")]
        if not inside:
            by_last = {name.rpartition(".")[2]: name for name in reversed(knobs)}
            close = nearest(key, knobs) or by_last.get(nearest(key.rpartition(".")[2], by_last) or "")
            raise RecipeError("recipe.unknown_knob", where=key, given=key, nearest=close)
        _show_many([knobs[name] for name in inside], voice)
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


def _show_many(knobs: Sequence[Knob], voice: Voice) -> None:
    """Key, sentence, default and range, chapter by chapter; a key is never folded, for it is there to be copied."""
    for chapter, members in groupby(knobs, lambda knob: knob.key.partition(".")[0]):
        rows = []
        for knob in members:
            default = _default(knob)
            told = say("help.default", value=default) if default not in ("-", "") else ""
            rows.append((knob.key, f"{_text(knob)[0]}{told} {knob.bounds}".strip()))
        voice.say(chapter, "bold cyan")
        voice.say(described(rows, terminal_cells()))
        voice.say()


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
