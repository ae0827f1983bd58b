"""clean: all rules in one row stage, each with the recipe's word on what becomes of the rows it objects to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from danlu.data.cleaners.cleaner import Batch, Rule
from danlu.data.sample import Sample
from danlu.data.stage import Fate, Outcome

_SOME = 300
"""Rows looked at together: what rules make of them stays in the cache."""
Wish = Literal["drop", "flag"]


class Clean:
    """The first rule that drops a row names its reason; flags of a row that stays are all told."""

    name = "clean"

    def __init__(self, rules: Sequence[tuple[Rule, Wish]]) -> None:
        self.rules = tuple(rules)

    def key(self) -> dict[str, Any]:
        return {"version": 1, "rules": [[rule.name, wish, rule.key()] for rule, wish in self.rules]}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        some = range(0, len(samples), _SOME)
        return [outcome for at in some for outcome in self._clean(samples[at : at + _SOME])]

    def _clean(self, samples: Sequence[Sample]) -> list[Outcome]:
        batch = Batch(samples)
        dropped: dict[int, Fate] = {}
        flagged: dict[int, list[Fate]] = {}
        for rule, wish in self.rules:
            for row, finding in rule.judge(batch).items():
                fate = Fate(wish, finding.reason, finding.values)
                if wish == "drop":
                    dropped.setdefault(row, fate)
                else:
                    flagged.setdefault(row, []).append(fate)
        outcomes: list[Outcome] = [(sample, ()) for sample in samples]
        for row, flags in flagged.items():
            outcomes[row] = samples[row], tuple(flags)
        for row, fate in dropped.items():
            outcomes[row] = None, (fate,)
        return outcomes
