"""What `danlu check` prints: faults with their fixes, and the plan. Light, for it must be quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import danlu
from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.files import size_text
from danlu.core.messages import say
from danlu.recipe import InvalidRecipeError, Recipe
from danlu.recipe.complaints import as_written


def check(path: Path, overrides: Sequence[str], voice: Voice) -> bool:
    """Check a recipe file and print what was found; True when it may be run."""
    try:
        recipe = Recipe.load(path, overrides)
    except InvalidRecipeError as error:
        _tell_fault(error, [complaint.to_json() for complaint in error.complaints], voice)
        return False
    except RecipeError as error:  # no recipe at all
        fault = {"key": error.where or "recipe", "given": error.values.get("given"), "expected": error.fix}
        _tell_fault(error, [fault | {"nearest": None}], voice)
        return False
    found = danlu.check(recipe)
    show_check(found, voice)
    return bool(found["ok"])


def _tell_fault(error: RecipeError, faults: list[dict[str, Any]], voice: Voice) -> None:
    voice.fail(error.text, error.fix)
    voice.result({"ok": False, "errors": faults, "warnings": [], "plan": {}} | error.to_json())


def show_check(found: dict[str, Any], voice: Voice) -> None:
    for error in found["errors"]:
        voice.fail(
            say("recipe.complaint", key=error["key"], given=as_written(error["given"]), expected=error["expected"])
        )
        if error["nearest"]:
            voice.fail("", say("recipe.nearest", nearest=error["nearest"]))
    for warning in found["warnings"]:
        voice.say(f"{warning['message']}\n  → {warning['fix']}", "yellow")
    stages = found["plan"]["stages"]
    if stages and "total_bytes" in stages[0]:
        voice.table(
            [say("cli.col_stage"), say("cli.col_trainable"), say("cli.col_memory"), say("cli.col_tokens")],
            [
                (
                    f"{stage['method']} · lr {stage['lr']:g}",
                    f"{stage['num_trainable']:,} / {stage['num_params']:,} ({stage['trainable_ratio']:.2%})",
                    size_text(stage["total_bytes"]),
                    f"{stage['tokens_at_once']:,}",
                )
                for stage in stages
            ],
        )
        for stage in stages:
            voice.say(stage["summary"])
    if found["ok"]:
        voice.say(say("cli.recipe_ok"), "green")
    voice.result(found)
