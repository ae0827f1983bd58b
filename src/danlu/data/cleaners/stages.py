"""From the recipe chapter `data.cleaning` to row stages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.errors import DataError, RecipeError
from danlu.core.messages import listed, say
from danlu.core.progress import Progress, Silent
from danlu.core.shelf import Shelf, nearest
from danlu.data.cleaners.clean import Clean, Wish
from danlu.data.cleaners.cleaner import Batch, Finding, Rule
from danlu.data.ledger import Ledger
from danlu.data.sample import Sample, replace
from danlu.data.sources import read
from danlu.data.stage import RowStage

if TYPE_CHECKING:  # workers are sent stages and need no recipe
    from danlu.recipe.cleaning import Action, CleaningSection

_OURS = {
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
}
CLEANERS: Shelf[type] = Shelf("cleaners", _OURS)
_ASSETS = Path(str(resources.files("danlu.assets")))


class Foreign:
    """A rule of another package, whose reasons are its own words: no catalogue has them."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name, self.rule = name, rule

    def key(self) -> dict[str, Any]:
        return {"rule": self.rule.key()}

    def judge(self, batch: Batch) -> Mapping[int, Finding]:
        found = self.rule.judge(batch)
        return {row: Finding("foreign_rule", {"rule": self.name, "told": one.reason}) for row, one in found.items()}


def foreign_rules() -> list[str]:
    """Names that `data.cleaning.rules` may hold: what other packages put on the shelf."""
    return [name for name in CLEANERS.names() if name not in _OURS]


def build(
    section: CleaningSection, questions: Sequence[Path | str] = (), *, progress: Progress | None = None
) -> tuple[RowStage, ...]:
    """The row stages of this chapter, in the order they are to run; none where nothing is wanted. `questions` are files
    with the project's own evaluation items, beside `section.evaluation_sets`. DataError when one cannot be read, or
    holds no item; items that cannot be read are a note."""
    stages: list[RowStage] = []
    if section.normalise or section.simplified:
        stages.append(CLEANERS.load("normalise")(tidy=section.normalise, simplified=section.simplified))
    if section.boilerplate:
        stages.append(CLEANERS.load("boilerplate")())
    if rules := _rules(section, [*section.evaluation_sets, *questions], progress or Silent()):
        stages.append(Clean(rules))
    return tuple(stages)


def _rules(section: CleaningSection, questions: Sequence[Path | str], progress: Progress) -> list[tuple[Rule, Wish]]:
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
    rules += [
        (_foreign(name, type(section).model_fields), action)
        for name, action in section.rules.items()
        if action != "keep"
    ]
    if questions and section.contaminated != "keep":
        rules.append((CLEANERS.load("contaminated")(_items(questions, progress)), section.contaminated))
    if section.languages:
        rules.append((CLEANERS.load("languages")(section.languages), "drop"))
    if section.min_chars or section.max_chars:
        rules.append((CLEANERS.load("lengths")(section.min_chars, section.max_chars), "drop"))
    return rules


def _foreign(name: str, own_keys: Collection[str]) -> Rule:
    """RecipeError for a name that no other package brings, ours among them: those have keys of their own."""
    known = foreign_rules()
    if name not in known:
        close = f"data.cleaning.{name}" if name in own_keys else nearest(name, known)
        raise RecipeError("core.unknown_name", where=f"data.cleaning.rules.{name}", given=name,
                          shelf=CLEANERS.name, nearest=close, known=listed(known) or "-")  # fmt: skip
    return Foreign(name, CLEANERS.load(name)())


def _named(sample: Sample, path: Path | str) -> Sample:
    """An item of danlu's own bears danlu's name: wherever the package lies, reports say the same."""
    if not Path(path).is_relative_to(_ASSETS):
        return sample
    name = f"danlu/{Path(path).relative_to(_ASSETS).as_posix()}"
    return replace(sample, origin=replace(sample.origin, file=name))


def _items(paths: Sequence[Path | str], progress: Progress) -> Iterator[Sample]:
    """What training must not hold. A set of which nothing can be read would keep nothing out, and nobody would know."""
    for path in paths:
        ledger = Ledger(most=1)
        for sample in read([path], ledger):
            yield _named(sample, path)
        reasons = "; ".join(str(first) for _, _, first in ledger.top_reasons(1))
        if not ledger.num_used:
            raise DataError("data.no_items", where=str(path), read=ledger.num_read, reasons=reasons or "-")
        if ledger.num_rejected:
            progress.note(say("data.items_rejected", path=path, rejected=ledger.num_rejected, read=ledger.num_read,
                          first=reasons))  # fmt: skip
