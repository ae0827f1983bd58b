"""Facts about prepared data, torch-free: what the data report shows is gathered here and drawn in `pipeline`.

How a conveyor uses it (nothing here reads or writes files):

    tally = Tally.of(samples, part="train")       # one shard, in any process: picklable, pure, bounded in size
    tally = Tally.of(samples, part="test")        # parts: train, validation, test; train rows are described
    tally.merge(other)                            # any order, any grouping: the same facts come out

    facts = gather(tallies, told)                 # tallies: of all shards; told: a `ConveyorFacts` (facts.py), the rest
    DataFacts.from_json(facts.to_json()) == facts

    danlu.pipeline.data_report.write_report(run, facts)   # data_report.{json,en.html,zh.html}, audit_sheet.csv

`Tally.of` reads from each sample its text, kind, label, origin and these tags, where there: `level`, `flags` (list of
ledger reasons), `made_by`, `evidence` ([{document, ...}]), `scores` ({name: number}). Rows should come as they are
trained on, after privacy. Lengths in tokens are told, not tallied: `lengths_of(lengths, context)` makes the histogram
of an array of any size (`Part.lengths`).

`ConveyorFacts.stages` is the funnel: one StageFacts per step in order, `rows_out` of one being `rows_in` of the next,
reasons being keys of the room `ledger`. `StageFacts.name`s that the report knows by a name of its own: read, normalise,
clean, privacy, twins, synthesis, split, augment, encode; any other is shown as it is. `twins.top` and `conflicts.top`
may hold any number of members and any length of text: `gather` masks what looks like a personal number, address or key,
cuts, and keeps the largest twenty.
"""

from __future__ import annotations

from danlu.data.quality.facts import (
    AuditRow,
    Cluster,
    Conflict,
    ConflictFacts,
    ConveyorFacts,
    CoverageFacts,
    DataFacts,
    DiversityFacts,
    DocumentFacts,
    Histogram,
    LengthFacts,
    Member,
    PrivacyCount,
    ReplayFacts,
    StageFacts,
    SynthesisFacts,
    Topic,
    TwinFacts,
)
from danlu.data.quality.gather import gather
from danlu.data.quality.lengths import lengths_of
from danlu.data.quality.tally import Tally

__all__ = [
    "AuditRow",
    "Cluster",
    "Conflict",
    "ConflictFacts",
    "ConveyorFacts",
    "CoverageFacts",
    "DataFacts",
    "DiversityFacts",
    "DocumentFacts",
    "Histogram",
    "LengthFacts",
    "Member",
    "PrivacyCount",
    "ReplayFacts",
    "StageFacts",
    "SynthesisFacts",
    "Tally",
    "Topic",
    "TwinFacts",
    "gather",
    "lengths_of",
]
