"""Facts for the data report, gathered while preparing: what only the conveyor knows, and tallies of the rows as they
are trained on. The report itself is drawn in `data_report.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from danlu.core.files import read_json
from danlu.data.dataset import Dataset
from danlu.data.flow.account import DUPLICATE, NEAR_DUPLICATE
from danlu.data.flow.marks import Passed
from danlu.data.flow.piece import Row, streamed
from danlu.data.ledger import Ledger
from danlu.data.quality import (
    Cluster,
    Conflict,
    ConflictFacts,
    ConveyorFacts,
    DataFacts,
    DocumentFacts,
    LengthFacts,
    Member,
    PrivacyCount,
    ReplayFacts,
    StageFacts,
    SynthesisFacts,
    Tally,
    TwinFacts,
    gather,
    lengths_of,
)
from danlu.data.quality.reading import asked_and_answered
from danlu.data.sample import Document, Sample
from danlu.pipeline.desk import Desk
from danlu.pipeline.furnace import Smelted
from danlu.pipeline.parts import Parts
from danlu.recipe.data import DataSection
from danlu.run.run import Run
from danlu.version import VERSION

BATCH = 5000
SHOWN = 20
"""Clusters and conflicts whose texts are shown."""
MEMBERS = 6
_OVER = ("encode_over_length", "encode_answer_over_length", "encode_prompt_cut", "encode_split")
_CUT = ("encode_over_length", "encode_answer_over_length", "encode_prompt_cut")


def facts_of(run: Run, smelted: Smelted, desks: Sequence[Desk], ledger: Ledger, dataset_id: str) -> DataFacts:
    """All facts of a run that has just been prepared; the texts in them are those that privacy left."""
    parts, recipe = smelted.parts, run.recipe
    desk = desks[-1]
    dataset = Dataset.open(run.path("dataset", desk.name), verify=False)
    documents: dict[str, DocumentFacts] = {}
    tallies = [_tally(parts, name, documents) for name in ("train", "validation", "test")]
    told = ConveyorFacts(
        name=recipe.name,
        dataset=dataset_id,
        template=dataset.card.contract_digest,
        created=str(run.read("run.json").get("created", "")),
        stages=_funnel(smelted.funnel, ledger),
        lengths=_lengths(dataset, desk, ledger),
        parts={name: parts.count(name) for name in ("train", "validation", "test")},
        twins=_twins(smelted, recipe.data),
        conflicts=_conflicts(smelted),
        privacy=_privacy(smelted) if any(passed.name == "privacy" for passed in smelted.funnel) else None,
        synthesis=_synthesis(run),
        documents=tuple(documents.values()),
        certificate=parts.certificate,
        replay=_replay(dataset, ledger, recipe.data.replay.ratio),
        reproduce={"recipe": recipe.digest, "run": run.name, "danlu": VERSION},
    )
    return gather(tallies, told)


def _tally(parts: Parts, name: str, documents: dict[str, DocumentFacts]) -> Tally:
    tally = Tally()
    samples = parts.samples(name)
    while batch := list(islice(samples, BATCH)):
        tally.merge(Tally.of(batch, name))
        for sample in batch:
            if isinstance(sample, Document):
                _count_document(sample, documents)
    return tally


def _count_document(sample: Document, documents: dict[str, DocumentFacts]) -> None:
    name = sample.group or sample.origin.file
    known = documents.get(name, DocumentFacts(name, sample.origin.document or ""))
    documents[name] = DocumentFacts(
        name, known.id, known.num_chars + len(sample.text), known.num_passages + 1, known.num_rows
    )


def _funnel(funnel: Sequence[Passed], ledger: Ledger) -> tuple[StageFacts, ...]:
    stages = [
        StageFacts(one.name, one.rows_in, one.rows_out, dict(one.dropped), dict(one.changed), dict(one.flagged))
        for one in funnel
    ]
    before = {reason for one in funnel for reason in one.dropped}
    late = {reason: num for reason, num in ledger.reasons.items() if reason not in before}
    left = sum(one.rows_out for one in funnel if one.name in ("twins", "synthesis", "augment"))
    return (*stages, StageFacts("encode", left, left - sum(late.values()), late)) if late else tuple(stages)


def _lengths(dataset: Dataset, desk: Desk, ledger: Ledger) -> LengthFacts:
    reasons = ledger.reasons + Counter(entry.reason for entry in ledger.changes)
    return lengths_of(
        dataset.part("train").lengths,
        int(dataset.card.facts.get("context", 0)),
        over_length=desk.encoder.over_length,
        num_over=sum(reasons[reason] for reason in _OVER),
        num_cut=sum(reasons[reason] for reason in _CUT),
        num_supervised=int(dataset.card.parts.get("train", {}).get("supervised_tokens", 0)),
    )


def _twins(smelted: Smelted, section: DataSection) -> TwinFacts:
    decision = smelted.decision
    kept = [row for row, _ in decision.largest[:SHOWN]]
    groups = {row: [row, *_followers(smelted, row)] for row in kept}
    told = _members(smelted.parts, {row for rows in groups.values() for row in rows})
    top = tuple(
        Cluster(
            size + 1,
            tuple(told[member] for member in groups[row] if member in told),
            is_exact=bool((decision.verdict[groups[row][1:]] == 1).all()),
        )
        for row, size in decision.largest[:SHOWN]
    )
    counts = decision.counts
    return TwinFacts(
        num_rows=counts.get("rows", 0),
        num_exact=counts.get("exact", 0),
        num_near=counts.get("near", 0),
        num_clusters=counts.get("clusters", 0),
        threshold=section.cleaning.similarity,
        top=top,
        dropped=_dropped(smelted),
    )


def _dropped(smelted: Smelted) -> str:
    """Which twins were left out, by what became of them."""
    left_out, counts = smelted.parts.verdicts.left_out, smelted.decision.counts
    exact, near = (
        not counts.get(kind) or bool((left_out == code).any())
        for kind, code in (("exact", DUPLICATE), ("near", NEAR_DUPLICATE))
    )
    return ("all" if near else "exact") if exact else ("near" if near else "none")


def _followers(smelted: Smelted, row: int) -> list[int]:
    twins = np.flatnonzero((smelted.decision.twin == row) & (smelted.decision.verdict > 0))
    return [int(twin) for twin in twins[: MEMBERS - 1]]


def _conflicts(smelted: Smelted) -> ConflictFacts:
    conflicts = smelted.decision.conflicts
    shown = [conflict.rows[:MEMBERS] for conflict in conflicts[:SHOWN]]
    samples = {number: row.sample for number, row in _picked(smelted.parts, {row for rows in shown for row in rows})}
    top = []
    for rows in shown:
        found = [sample for row in rows if (sample := samples.get(row)) is not None]
        if len(found) > 1:
            answers = tuple(Member(str(sample.origin), asked_and_answered(sample)[1]) for sample in found)
            top.append(Conflict(asked_and_answered(found[0])[0], answers))
    return ConflictFacts(len(conflicts), sum(len(conflict.rows) for conflict in conflicts), tuple(top))


def _members(parts: Parts, rows: set[int]) -> dict[int, Member]:
    return {
        number: Member(str(row.origin), _whole(row.sample))
        for number, row in _picked(parts, rows)
        if row.sample is not None
    }


def _whole(sample: Sample) -> str:
    return "\n".join(text for text in asked_and_answered(sample) if text)


def _picked(parts: Parts, rows: set[int]) -> Iterator[tuple[int, Row]]:
    wanted = np.zeros(len(parts.part), bool)
    wanted[list(rows)] = True
    return streamed(parts.pieces, wanted)


def _privacy(smelted: Smelted) -> tuple[PrivacyCount, ...]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for piece in smelted.parts.pieces:
        for record in piece.records:
            if "action" in record:
                counts[str(record["type"]), str(record["level"]), str(record["action"])] += 1
    return tuple(PrivacyCount(*key, count) for key, count in sorted(counts.items()))


def _synthesis(run: Run) -> SynthesisFacts | None:
    path = run.path("synthesis", "yield.json")
    if not path.is_file():
        return None
    told: Mapping[str, Any] = read_json(path)
    cost: Mapping[str, Any] = told.get("cost") or {}
    return SynthesisFacts(
        num_calls=int(told.get("asked", 0)),
        num_made=int(told.get("items", 0)),
        num_kept=int(told.get("kept", 0)),
        num_checked=int(told.get("items", 0)),
        num_grounded=int(told.get("grounded", 0)),
        num_unanswerable=int((told.get("kinds") or {}).get("unanswerable", 0)),
        rejected={one["reason"]: int(one["count"]) for one in told.get("refused", ())},
        cost=float(cost.get("spent") or 0.0),
        currency=str(cost.get("currency") or ""),
        teacher=str(cost.get("teacher", "")),
    )


def _replay(dataset: Dataset, ledger: Ledger, ratio: float) -> ReplayFacts | None:
    num_tokens = int(ledger.counts.get("replay_tokens", 0))
    if not num_tokens:
        return None
    total = dataset.part("train").num_tokens
    return ReplayFacts(ratio, num_tokens, num_tokens / total if total else 0.0)
