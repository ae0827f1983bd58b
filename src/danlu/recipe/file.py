"""A recipe file as nested dicts. What a person's editor does to it is told with its line and the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import RecipeError
from danlu.core.messages import say


def tree_of(path: Path) -> dict[str, Any]:
    """The chapters of a recipe file in UTF-8. RecipeError for another encoding, broken YAML, or no chapters."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError("recipe.not_utf8", where=str(path)) from error
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError("recipe.not_yaml", where=str(path), given=_fault(error, text)) from error
    if not isinstance(tree, dict):
        kind = {type(None): "nothing", str: "text", list: "list"}.get(type(tree), "value")
        raise RecipeError("recipe.not_a_mapping", where=str(path), given=say(f"recipe.is_{kind}"))
    return tree


def _fault(error: yaml.YAMLError, text: str) -> str:
    """The line where the fault begins, as it stands in the file, and YAML's own words."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error).partition("\n")[0]
    mark = error.context_mark or error.problem_mark
    lines = text.splitlines()
    line = lines[mark.line].strip() if mark.line < len(lines) else ""
    return say("recipe.yaml_line", line=mark.line + 1, text=line, said=error.problem or error.context or "")


def run_name(stem: str) -> str:
    """A name that a run may have: a file or folder may be called anything."""
    return re.sub(r"[^\w.\-]+", "-", stem).strip("-.")[:64] or "expert"
