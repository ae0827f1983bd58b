"""From the recipe chapter `data.cleaning` to row stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from danlu.core.registry import Registry
from danlu.data.cleaners.clean import Clean, Wish
from danlu.data.cleaners.cleaner import Rule
from danlu.data.ledger import Ledger
from danlu.data.sources import read
from danlu.data.stage import RowStage
from danlu.recipe.cleaning import Action, CleaningSection

CLEANERS: Registry[type] = Registry(
    "cleaners",
    {
        "normalise": "danlu.data.cleaners.normalise:Normalise",
        "boilerplate": "danlu.data.cleaners.boilerplate:Boilerplate",
        "refusals": "danlu.data.cleaners.refusals:Refusals",
        "truncated": "danlu.data.cleaners.truncated:Truncated",
        "repetition": "danlu.data.cleaners.repetition:Repetition",
        "injection": "danlu.data.cleaners.injection:Injection",
        "symbols": "danlu.data.cleaners.symbols:Symbols",
        "echo": "danlu.data.cleaners.echo:Echo",
        "json_answers": "danlu.data.cleaners.json_answers:JsonAnswers",
        "contaminated": "danlu.data.cleaners.contaminated:Contaminated",
        "languages": "danlu.data.cleaners.languages:Languages",
        "lengths": "danlu.data.cleaners.lengths:Lengths",
    },
)


def build(section: CleaningSection, questions: Sequence[Path | str] = ()) -> tuple[RowStage, ...]:
    """The row stages of this chapter, in the order they are to run; none where nothing is wanted. `questions` are files
    with the project's own evaluation items, beside `section.evaluation_sets`. DataError when one cannot be read."""
    stages: list[RowStage] = []
    if section.normalise or section.simplified:
        stages.append(CLEANERS.load("normalise")(tidy=section.normalise, simplified=section.simplified))
    if section.boilerplate:
        stages.append(CLEANERS.load("boilerplate")())
    if rules := _rules(section, [*section.evaluation_sets, *questions]):
        stages.append(Clean(rules))
    return tuple(stages)


def _rules(section: CleaningSection, questions: Sequence[Path | str]) -> list[tuple[Rule, Wish]]:
    actions: dict[str, Action] = {
        "injection": section.injection,
        "refusals": section.refusals,
        "repetition": section.repetition,
        "symbols": section.symbols,
        "echo": section.echo,
        "json_answers": section.json_answers,
        "truncated": section.truncated,
    }
    rules: list[tuple[Rule, Wish]] = [
        (CLEANERS.load(name)(), action) for name, action in actions.items() if action != "keep"
    ]
    if questions and section.contaminated != "keep":
        rules.append((CLEANERS.load("contaminated")(read(questions, Ledger())), section.contaminated))
    if section.languages:
        rules.append((CLEANERS.load("languages")(section.languages), "drop"))
    if section.min_chars or section.max_chars:
        rules.append((CLEANERS.load("lengths")(section.min_chars, section.max_chars), "drop"))
    return rules
