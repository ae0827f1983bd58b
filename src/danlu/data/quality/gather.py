"""All shards' tallies and what the whole-data steps told, joined into the facts of one report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from danlu.data.excerpts import veil
from danlu.data.quality.diversity import diversity_of
from danlu.data.quality.facts import (
    MAX_CLUSTERS,
    MAX_CONFLICTS,
    MAX_MEMBERS,
    MAX_TEXT,
    AuditRow,
    Cluster,
    Conflict,
    ConveyorFacts,
    CoverageFacts,
    DataFacts,
    DocumentFacts,
    Member,
)
from danlu.data.quality.lengths import SCORE_EDGES, histogram_of
from danlu.data.quality.scores import Read, judge
from danlu.data.quality.tally import OTHERS, SAMPLED_CHARS, Tally, merged

MAX_SHOWN = 50
MAX_LISTED = 200
PAGE_REASONS = frozenset({"needs_ocr", "ocr_failed", "ocr_empty", "garbled_page", "unreadable_page", "no_text_layer"})
"""Reasons of the ledger that speak of one page; a document whose every page has one says nothing."""


def gather(tallies: Iterable[Tally], told: ConveyorFacts) -> DataFacts:
    """The facts of one dataset. Pure; about two seconds for the samples, whatever the number of rows."""
    whole = merged(tallies)
    scores, rules = dict(whole.scores), Counter[str]()
    judged = []
    for score, broken in judge([Read(kind, prompt, answer, len(answer) >= SAMPLED_CHARS)
                                for _, kind, prompt, answer, _ in whole.sampled]):  # fmt: skip
        judged.append(score)
        rules.update(broken)
    if judged:
        scores["rules"] = histogram_of(judged, SCORE_EDGES)
    texts = [f"{prompt}\n{answer}".strip() for _, _, prompt, answer, _ in whole.sampled]
    labels = [label for *_, label in whole.sampled]
    return DataFacts(
        told=_veiled(told),
        num_rows=whole.rows["train"],
        parts=dict(told.parts) or {name: count for name, count in whole.rows.items() if count},
        chars=whole.chars,
        balance={view: _largest(counts) for view, counts in whole.balance.items() if counts},
        flags=_largest(whole.flags),
        scores=scores,
        rules=dict(rules.most_common()),
        num_scored=len(judged),
        coverage=_coverage(told.documents, whole.documents),
        diversity=diversity_of(texts, labels if any(labels) else ()),
        audit=tuple(AuditRow(**{**row, "flags": tuple(row["flags"])}) for _, row in whole.audit),
    )


def _largest(counts: Mapping[str, int]) -> dict[str, int]:
    """The most frequent values first, equal ones by name; all others under OTHERS."""
    order = sorted((name for name in counts if name != OTHERS), key=lambda name: (-counts[name], name))
    shown = {name: counts[name] for name in order[:MAX_SHOWN]}
    if rest := sum(counts[name] for name in order[MAX_SHOWN:]) + counts.get(OTHERS, 0):
        shown[OTHERS] = rest
    return shown


def _coverage(documents: tuple[DocumentFacts, ...], rows: Mapping[str, int]) -> CoverageFacts | None:
    """Rows per document, where documents were told of; the leanest first."""
    if not documents:
        return None
    counted = [
        replace(one, num_rows=rows.get(one.name, 0) + (rows.get(one.id, 0) if one.id and one.id != one.name else 0))
        for one in documents
    ]
    counted.sort(key=lambda one: (one.num_rows > 0, one.num_rows / max(one.num_chars, 1), one.name))
    return CoverageFacts(len(counted), sum(not one.num_rows for one in counted), tuple(counted[:MAX_LISTED]))


def with_silent_files(facts: DataFacts, rejects: Iterable[Mapping[str, Any]]) -> DataFacts:
    """The same facts with every file in the coverage that was refused as a whole, or page by page to the last: files of
    which no row is left never reach a tally. `rejects`: the ledger's entries as JSON."""
    known = facts.coverage or CoverageFacts()
    is_complete = known.num_documents <= len(known.documents)
    named = {one.name for one in known.documents}
    silent = {
        str(entry["file"]) for entry in rejects if entry["line"] == 0 or (is_complete and entry["code"] in PAGE_REASONS)
    }
    fresh = [DocumentFacts(name) for name in sorted(silent - named - facts.balance.get("sources", {}).keys())]
    if not fresh:
        return facts
    documents = (*fresh, *known.documents)[:MAX_LISTED]
    coverage = CoverageFacts(known.num_documents + len(fresh), known.num_without + len(fresh), documents)
    return replace(facts, coverage=coverage)


def _veiled(told: ConveyorFacts) -> ConveyorFacts:
    """The largest clusters and conflicts, few members each, texts cut and what looks personal hidden."""
    if told.twins:
        top = sorted(told.twins.top, key=lambda cluster: -cluster.size)[:MAX_CLUSTERS]
        told = replace(told, twins=replace(told.twins, top=tuple(map(_veiled_cluster, top))))
    if told.conflicts:
        conflicts = tuple(
            Conflict(veil(one.question, MAX_TEXT), _members(one.answers))
            for one in sorted(told.conflicts.top, key=lambda one: -len(one.answers))[:MAX_CONFLICTS]
        )
        told = replace(told, conflicts=replace(told.conflicts, top=conflicts))
    return replace(told, documents=())  # they stand in the coverage, counted and bounded


def _veiled_cluster(cluster: Cluster) -> Cluster:
    return replace(cluster, members=_members(cluster.members))


def _members(members: tuple[Member, ...]) -> tuple[Member, ...]:
    return tuple(Member(one.where, veil(one.text, MAX_TEXT)) for one in members[:MAX_MEMBERS])
