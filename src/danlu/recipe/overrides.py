"""`a.b=c` overrides and relative paths, both on plain dicts, before anything is typed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from danlu.core.errors import RecipeError

EMBEDDED = "ember"
"""The embedded base; a folder that happens to bear its name is meant as ./ember."""
FIRST_KNOBS = {"model": "base", "data": "sources"}
"""What a chapter means that is written as one value: `model: ember`, `data: [qa.jsonl, docs/]`."""
PATH_KNOBS = (
    ("data", "sources"),
    ("data", "validation"),
    ("data", "cleaning", "evaluation_sets"),
    ("data", "privacy", "pack"),
    ("data", "privacy", "names"),
    ("data", "privacy", "forget"),
    ("data", "privacy", "key_file"),
    ("data", "cleaning", "evaluation_sets"),
    ("data", "replay", "path"),
    ("data", "replay", "prompts"),
    ("data", "synthesis", "seeds"),
    ("data", "teacher", "key_file"),
    ("data", "teacher", "ca_file"),
    ("data", "teacher", "model"),
    ("evaluation", "questions"),
    ("evaluation", "edge"),
    ("evaluation", "preference"),
    ("evaluation", "general"),
    ("evaluation", "judge", "model"),
    ("evaluation", "judge", "key_file"),
    ("evaluation", "judge", "rubric"),
    ("adapter", "start"),
    ("model", "base"),
    ("serving", "program"),
    ("serving", "tls", "cert"),
    ("serving", "tls", "key"),
    ("serving", "store", "url_file"),
    ("serving", "store", "pepper_file"),
    ("serving", "limits", "url_file"),
    ("serving", "webhooks"),
    ("serving", "models"),
)


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of the tree with each `dotted.key=value` set; the value is read as YAML, so `null`, `[a, b]` work."""
    tree = _with_whole_chapters(tree)
    for override in overrides:
        key, equals, text = override.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            raise RecipeError("recipe.bad_override", given=override)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise RecipeError("recipe.bad_override", given=override) from error
        if isinstance(value, str):
            value = _as_number(value)
        _set(tree, keys, value, override)
    return tree


def _with_whole_chapters(tree: Any) -> Any:
    """A copy in which `model: ember` is `model: {base: ember}`."""
    tree = copy.deepcopy(tree)
    if not isinstance(tree, dict):  # a damaged file holds anything; the recipe's types refuse it
        return tree
    for chapter, knob in FIRST_KNOBS.items():
        if isinstance(value := tree.get(chapter), str | list):
            tree[chapter] = {knob: value}
    return tree


def _as_number(text: str) -> Any:
    """YAML 1.1 reads `2e-4` as a string; people mean the number."""
    try:
        return float(text) if any(c in text for c in "eE.") and text[:1] in "+-.0123456789" else text
    except ValueError:
        return text


def _set(tree: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    node: Any = tree
    for key in keys[:-1]:
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            if isinstance(node[int(key)], str):  # a plain path met by `data.sources.0.format=csv`, `dpo` by its beta
                node[int(key)] = {"path" if keys[0] == "data" else "kind": node[int(key)]}
            node = node[int(key)]
            continue
        if isinstance(node, dict):
            if node.get(key) is None:
                node[key] = {}
            elif isinstance(node[key], str):  # `method: sft` met by `method.train_on=all`
                node[key] = {"kind": node[key]}
            node = node[key]
            continue
        raise RecipeError("recipe.bad_override", given=override)
    last = keys[-1]
    if isinstance(node, list) and last.isdigit() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError("recipe.bad_override", given=override)


def anchor_paths(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A copy whose relative path knobs are absolute, seen from `folder`. Hub ids and names are left alone."""
    tree = _with_whole_chapters(tree)
    for *parents, last in PATH_KNOBS:
        node: Any = tree
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or node.get(last) is None:
            continue
        if parents == ["data", "privacy"] and str(node[last]).startswith("~"):
            continue  # the same recipe on another account means that account's own keys
        if last == "pack" and not str(node[last]).endswith((".yaml", ".yml")):
            continue  # one that comes with danlu
        if parents == ["serving"] and last in ("models", "webhooks"):
            node[last] = _anchor_served(node[last], folder)
            continue
        node[last] = _anchor(node[last], folder, is_model=last in ("base", "model"))
    return tree


def _anchor_served(value: Any, folder: Path) -> Any:
    """What is served or told, in every form that people write: targets that are folders, and files of keys."""
    if isinstance(value, list):
        return [_anchor_served(one, folder) for one in value]
    if isinstance(value, str):
        return _anchor(value, folder, is_model=True)
    if not isinstance(value, dict):
        return value
    if not {"target", "url"} & value.keys():  # {law: path}
        return {name: _anchor_served(one, folder) for name, one in value.items()}
    known = [key for key in ("target", "key_file", "artifact") if value.get(key)]
    return value | {key: _anchor(value[key], folder, is_model=key == "target") for key in known}


def _anchor(value: Any, folder: Path, *, is_model: bool) -> Any:
    if isinstance(value, list):
        return [_anchor(entry, folder, is_model=is_model) for entry in value]
    if isinstance(value, dict):
        return value | {"path": _anchor(value["path"], folder, is_model=False)} if "path" in value else value
    if not isinstance(value, str) or (is_model and value == EMBEDDED):
        return value
    path = Path(value).expanduser()
    # `Qwen/Qwen2.5-7B` is a hub id unless a folder of that name lies there or the text says it is a path.
    if is_model and not value.startswith((".", "/", "~")) and not (folder / path).is_dir():
        return value
    return str(path if path.is_absolute() else (folder / path).resolve())
