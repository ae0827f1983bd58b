"""Turns pydantic findings into complaints a person can act on: key, given, expected, nearest key."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from danlu.core.messages import listed, say
from danlu.core.shelf import nearest
from danlu.recipe.habits import HABITS, NEEDLESS
from danlu.recipe.knobs import all_knobs, section_at


@dataclass(frozen=True, slots=True)
class Complaint:
    """One fault of a recipe. `nearest` is the full dotted name of the knob that was probably meant."""

    key: str
    given: Any
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        last = self.key.rpartition(".")[2]
        if last in NEEDLESS:
            return say("recipe.needless", key=self.key, why=self.expected)
        if self.nearest and (last in HABITS or (last == self.nearest.rpartition(".")[2] and "." not in self.key)):
            return say("recipe.habit", key=self.key, name=self.nearest)
        hint = f"  → {say('recipe.nearest', nearest=self.nearest)}" if self.nearest else ""
        return say("recipe.complaint", key=self.key, given=as_written(self.given), expected=self.expected) + hint

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "given": self.given, "expected": self.expected, "nearest": self.nearest}


def as_written(value: Any) -> str:
    """A value as a recipe has it, shortened: null, true and false are YAML's, not Python's."""
    for constant, word in ((None, "null"), (True, "true"), (False, "false")):
        if value is constant:
            return word
    return repr(list(value) if isinstance(value, tuple) else value)[:200]


def complaints_of(error: ValidationError, recipe: type[BaseModel]) -> list[Complaint]:
    return [_complaint(finding, recipe) for finding in error.errors(include_url=False)]


def _complaint(finding: Any, recipe: type[BaseModel]) -> Complaint:
    parts = [str(part) for part in finding["loc"]]
    # discriminated unions put the tag into the location (`adapter.lora.rank`); people do not write it
    key = ".".join(p for i, p in enumerate(parts) if not (i > 0 and p in _TAGS and parts[i - 1] in _TAGGED))
    if len(parts) > 1 and parts[-1].startswith(_EITHER):  # one of several things it may be
        key = key.removesuffix(f".{parts[-1]}")
    if finding["type"] == "extra_forbidden":
        return _unknown_key(key, finding["input"], recipe)
    given = finding.get("input")
    if finding["type"] == "missing":
        given = None
    return Complaint(key or "recipe", _plain(given), _expected(finding))


_TAGS = {"lora", "full", "prefix", "pretrain", "sft", "dpo", "grpo", "classify", "function-before"}
_TAGGED = {"adapter", "method"}
_EITHER = ("int", "constrained-int", "literal[", "tuple[")


def _unknown_key(key: str, given: Any, recipe: type[BaseModel]) -> Complaint:
    last = key.rpartition(".")[2]
    if last in HABITS:
        return Complaint(key, _plain(given), say("recipe.renamed", name=HABITS[last]), HABITS[last])
    if last in NEEDLESS:
        return Complaint(key, _plain(given), say(f"recipe.needless_{NEEDLESS[last]}"))
    chapter = key.rpartition(".")[0]
    siblings = section_at(recipe, chapter)
    if last in siblings and chapter in _TAGGED:  # a knob of this chapter, but of another kind of it
        kinds = listed(all_knobs(recipe)[key].kinds)
        return Complaint(key, _plain(given), say("recipe.other_kind", chapter=chapter, kind=kinds))
    elsewhere = {knob.rpartition(".")[2]: knob for knob in reversed(list(all_knobs(recipe)))}
    if last in elsewhere and last not in siblings:  # the right name in the wrong chapter
        close: str | None = elsewhere[last]
    elif match := nearest(last, siblings):
        close = f"{chapter}.{match}".lstrip(".")
    else:
        close = elsewhere.get(nearest(last, elsewhere) or "")
    return Complaint(key, _plain(given), say("recipe.known_keys", keys=listed(siblings)), close)


_KINDS = {
    "int": "recipe.whole_number", "float": "recipe.number", "finite": "recipe.finite", "bool": "recipe.yes_or_no",
    "string": "recipe.text", "list": "recipe.list", "tuple": "recipe.list", "dict": "recipe.entries",
    "model": "recipe.entries",
}  # fmt: skip
"""By the first word of a finding's type: `int_from_float`, `dict_type`, `finite_number`."""


def _expected(finding: Any) -> str:
    context = finding.get("ctx", {})
    names = {
        "greater_than": ("recipe.above", "gt"),
        "greater_than_equal": ("recipe.at_least", "ge"),
        "less_than": ("recipe.below", "lt"),
        "less_than_equal": ("recipe.at_most", "le"),
        "literal_error": ("recipe.one_of", "expected"),
        "union_tag_invalid": ("recipe.one_of", "expected_tags"),
        "too_short": ("recipe.entries_at_least", "min_length"),
        "too_long": ("recipe.entries_at_most", "max_length"),
        "string_too_short": ("recipe.letters_at_least", "min_length"),
        "string_too_long": ("recipe.letters_at_most", "max_length"),
        "string_pattern_mismatch": ("recipe.form", "pattern"),
    }
    if finding["type"] in names:
        message, value = names[finding["type"]]
        told = context[value]
        return say(message, value=listed(re.split(", | or ", told)) if message == "recipe.one_of" else told)
    for ending, message in (
        ("_parsing", "recipe.type"),
        ("_type", "recipe.type"),
        ("_from_float", "recipe.type"),
        ("_number", "recipe.type"),
        ("missing", "recipe.needed"),
    ):
        if finding["type"].endswith(ending):
            kind = finding["type"].partition("_")[0]
            return say(_KINDS.get(kind, message), type=kind)
    return str(finding["msg"])


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
