"""What became of each row in several stages, told once: a row is used when one stage used it.

The same row may be wanted by two stages (`stages: [sft, sft]`), fit into one's context and not into the other's. The
ledger counts rows, not samples times stages, so a refusal that another stage made good is a change, not a rejection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from danlu.data.ledger import Entry, Ledger

Place = tuple[str, int]


@dataclass(slots=True)
class Fates:
    """One stage's account: what its encoder said of the samples, and how many of each file:line it `tried`.

    `tried` need only know places at which some stage refused a row.
    """

    ledger: Ledger = field(default_factory=Ledger)
    tried: Counter[Place] = field(default_factory=Counter)

    def refused(self) -> dict[Place, list[Entry]]:
        places: dict[Place, list[Entry]] = {}
        for entry in self.ledger.rejects:
            places.setdefault((entry.file, entry.line), []).append(entry)
        return places


def merge_stages(ledger: Ledger, stages: Sequence[Fates]) -> list[Entry]:
    """Into the reading's ledger: refusals that no stage made good, each change once, and the counts added up.

    Returns the refusals.
    """
    merged: list[Entry] = []
    refused = [stage.refused() for stage in stages]
    for place in dict.fromkeys(place for stage in refused for place in stage):
        told = [by_place.get(place, []) for stage, by_place in zip(stages, refused, strict=True) if stage.tried[place]]
        fewest = min(told, key=len)
        for entry in fewest:
            ledger.revoke(entry.file, entry.line, entry.reason, **entry.values)
            merged.append(entry)
        for entry in max(told, key=len)[len(fewest) :]:
            ledger.change(entry.file, entry.line, entry.reason, row=entry.row, **entry.values)
    known: set[str] = set()
    for stage in stages:
        for entry in stage.ledger.changes:
            if (name := f"{entry.file}:{entry.line}:{entry.row}:{entry.reason}:{entry.values}") not in known:
                known.add(name)
                ledger.change(entry.file, entry.line, entry.reason, row=entry.row, **entry.values)
        ledger.counts.update(stage.ledger.counts)
    return merged
