"""clean: all rules in one row stage, each with the recipe's word on what becomes of the rows it objects to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from danlu.data.cleaners.cleaner import Batch, Rule
from danlu.data.joined import Texts
from danlu.data.sample import Sample
from danlu.data.stage import Fate, Outcome, spread

Wish = Literal["drop", "flag"]


class Clean:
    """The first rule that drops a row names its reason; flags of a row that stays are all told."""

    name = "clean"

    def __init__(self, rules: Sequence[tuple[Rule, Wish]]) -> None:
        self.rules = tuple(rules)

    def key(self) -> dict[str, Any]:
        return {"version": 1, "rules": [[rule.name, wish, rule.key()] for rule, wish in self.rules]}

    def __call__(self, samples: Sequence[Sample]) -> list[Outcome]:
        return spread(self.touch(Texts(samples)), samples)

    def touch(self, texts: Texts) -> dict[int, Outcome]:
        told: dict[int, Outcome] = {}
        for page in texts.pages():
            rows = [row for row in page.rows if texts.samples[row] is not None]
            samples = [sample for row in rows if (sample := texts.samples[row]) is not None]
            found = self._found(Batch(samples, page, are_pairs=texts.are_pairs(page)))
            told |= {rows[at]: outcome for at, outcome in sorted(found.items())}
        return told

    def _found(self, batch: Batch) -> dict[int, Outcome]:
        dropped: dict[int, Fate] = {}
        flagged: dict[int, list[Fate]] = {}
        for rule, wish in self.rules:
            for row, finding in rule.judge(batch).items():
                fate = Fate(wish, finding.reason, finding.values)
                if wish == "drop":
                    dropped.setdefault(row, fate)
                else:
                    flagged.setdefault(row, []).append(fate)
        outcomes: dict[int, Outcome] = {row: (batch.samples[row], tuple(flags)) for row, flags in flagged.items()}
        return outcomes | {row: (None, (fate,)) for row, fate in dropped.items()}
