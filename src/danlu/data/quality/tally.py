"""Counts of one shard of rows, of the same size whatever the shard, that add up to the same facts in any order.

Samples for closer looks (diversity, scores, the audit sheet) are the rows with the smallest hash of their content and
place: the same rows are drawn however the data is cut into shards.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.core.files import printable
from danlu.data.identity import sample_id
from danlu.data.language import language_or_mix
from danlu.data.quality.facts import MAX_AUDIT, Histogram
from danlu.data.quality.lengths import SCORE_EDGES, add, histogram_of
from danlu.data.quality.reading import asked_and_answered
from danlu.data.sample import Document, Label, Sample

NUM_SAMPLED = 2000
SAMPLED_CHARS = 600
AUDIT_CHARS = 4000
HASHED_CHARS = 500
"""Of each side of a row: enough to draw rows by chance."""
MAX_VALUES = 2000
"""Values kept per view; beyond it the rarest are counted together under OTHERS."""
MAX_DOCUMENTS = 50_000
OTHERS = "…"
VIEWS = ("kinds", "labels", "languages", "sources", "levels", "made_by")
_MIX = (0x9E3779B1, 0x85EBCA6B)
"""Odd multipliers: two orders of the same 32-bit hashes, one for each sample that is drawn."""


@dataclass(slots=True)
class Tally:
    """`rows` and `documents` count every part; everything else describes train rows only."""

    rows: Counter[str] = field(default_factory=Counter)
    chars: Histogram = field(default_factory=lambda: histogram_of(()))
    balance: dict[str, Counter[str]] = field(default_factory=lambda: {view: Counter() for view in VIEWS})
    flags: Counter[str] = field(default_factory=Counter)
    scores: dict[str, Histogram] = field(default_factory=dict)
    documents: Counter[str] = field(default_factory=Counter)
    sampled: list[tuple[int, str, str, str, str]] = field(default_factory=list)
    """(hash, kind, prompt, answer, label) of the rows drawn for diversity and scores, smallest first, texts cut."""
    audit: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """(hash, AuditRow as JSON), smallest hash first."""

    @classmethod
    def of(cls, samples: Sequence[Sample], part: str = "train") -> Tally:
        """The tally of one shard; `part` is where the split put these rows."""
        tally = cls()
        tally.rows[part] += len(samples)
        tally.documents.update(name for sample in samples for name in _documents_of(sample))
        if part == "train" and samples:
            tally._count(samples)
        return tally

    def _count(self, samples: Sequence[Sample]) -> None:
        told = [asked_and_answered(sample) for sample in samples]
        self.chars = histogram_of([len(prompt) + len(answer) for prompt, answer in told])
        self._count_views(samples, told)
        hashes = [_hash(sample, prompt, answer) for sample, (prompt, answer) in zip(samples, told, strict=True)]
        self.sampled = sorted(
            _drawn(hashes[index], samples[index], *told[index]) for index in _draw(hashes, _MIX[0], NUM_SAMPLED)
        )
        self.audit = [
            (hashes[index] * _MIX[1] & 0xFFFFFFFF, _audit_row(samples[index], *told[index]))
            for index in _draw(hashes, _MIX[1], MAX_AUDIT)
        ]
        self._prune()

    def _count_views(self, samples: Sequence[Sample], told: Sequence[tuple[str, str]]) -> None:
        """What is said of rows by their kind, label, language, source and tags; one pass per view is the quick way."""
        self.balance["kinds"].update(sample.kind for sample in samples)
        self.balance["sources"].update(sample.origin.file for sample in samples)
        self.balance["labels"].update(sample.label for sample in samples if isinstance(sample, Label))
        self.balance["languages"].update(
            _language(sample, prompt, answer) for sample, (prompt, answer) in zip(samples, told, strict=True)
        )
        tags = [sample.tags for sample in samples if sample.tags]
        self.balance["levels"].update(str(one["level"]) for one in tags if one.get("level"))
        self.balance["made_by"].update(str(one["made_by"]) for one in tags if one.get("made_by"))
        self.flags.update(str(flag) for one in tags for flag in one.get("flags") or ())
        scores: dict[str, list[float]] = {}
        for one in tags:
            for name, value in (one.get("scores") or {}).items():
                if isinstance(value, int | float):
                    scores.setdefault(str(name), []).append(float(value))
        self.scores = {name: histogram_of(values, SCORE_EDGES) for name, values in scores.items()}

    def merge(self, other: Tally) -> None:
        """Add another shard to this one."""
        self.rows.update(other.rows)
        self.chars = add(self.chars, other.chars)
        for view in VIEWS:
            self.balance[view].update(other.balance[view])
        self.flags.update(other.flags)
        for name, histogram in other.scores.items():
            self.scores[name] = add(self.scores[name], histogram) if name in self.scores else histogram
        self.documents.update(other.documents)
        self.sampled = list(heapq.merge(self.sampled, other.sampled))[:NUM_SAMPLED]
        self.audit = sorted([*self.audit, *other.audit], key=lambda row: (row[0], row[1]["id"]))[:MAX_AUDIT]
        self._prune()

    def _prune(self) -> None:
        for counts in (*self.balance.values(), self.flags):
            _prune(counts, MAX_VALUES)
        _prune(self.documents, MAX_DOCUMENTS)


def _language(sample: Sample, prompt: str, answer: str) -> str:
    """The language that is learnt is the answer's; a label's is its text's, and a number alone has none."""
    if isinstance(sample, Label):
        return language_or_mix(prompt)
    spoken = language_or_mix(answer)
    return spoken if spoken != "other" else language_or_mix(prompt)


def _hash(sample: Sample, prompt: str, answer: str) -> int:
    text = f"{sample.origin.line}\x00{prompt[:HASHED_CHARS]}\x00{answer[:HASHED_CHARS]}\x00{sample.origin.file}"
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def _draw(hashes: Sequence[int], mix: int, num: int) -> list[int]:
    """Places of the smallest mixed hashes, smallest first."""
    return heapq.nsmallest(num, range(len(hashes)), key=lambda index: hashes[index] * mix & 0xFFFFFFFF)


def _drawn(hashed: int, sample: Sample, prompt: str, answer: str) -> tuple[int, str, str, str, str]:
    label = sample.label if isinstance(sample, Label) else ""
    texts = printable(prompt[:SAMPLED_CHARS]), printable(answer[:SAMPLED_CHARS])
    return hashed * _MIX[0] & 0xFFFFFFFF, sample.kind, *texts, label


def _audit_row(sample: Sample, prompt: str, answer: str) -> dict[str, Any]:
    return {
        "id": sample_id(sample),
        "where": str(sample.origin),
        "kind": sample.kind,
        "prompt": printable(prompt[:AUDIT_CHARS]),
        "answer": printable(answer[:AUDIT_CHARS]),
        "flags": [str(flag) for flag in sample.tags.get("flags") or ()],
        "scores": {
            str(name): float(value)
            for name, value in (sample.tags.get("scores") or {}).items()
            if isinstance(value, int | float)
        },
    }


def _documents_of(sample: Sample) -> set[str]:
    """Documents that a row stands on: its evidence, else the document it is a passage of."""
    found: set[str] = set()
    for one in sample.tags.get("evidence") or ():
        if isinstance(one, Mapping) and one.get("document"):
            found.add(str(one["document"]))
    if not found and (sample.origin.page is not None or isinstance(sample, Document)):
        found = {sample.group if isinstance(sample, Document) and sample.group else sample.origin.file}
    return found


def _prune(counts: Counter[str], most: int) -> None:
    """Room for twice as many while counting; then the most frequent stay, equal ones by name, the rest are OTHERS."""
    if len(counts) <= 2 * most:
        return
    rest = counts.pop(OTHERS, 0)
    for name, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[most:]:
        rest += counts.pop(name)
    counts[OTHERS] = rest


def merged(tallies: Iterable[Tally]) -> Tally:
    """All tallies added up into a new one."""
    whole = Tally()
    for tally in tallies:
        whole.merge(tally)
    return whole
