"""What a shard goes through: read > row stages > signatures of the text as it was > privacy. A pure function.

The same shard gives the same pieces in any process and on any machine. Rows are held in memory one piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from danlu.data.flow.codec import pack_content
from danlu.data.flow.marks import Mark, Passed
from danlu.data.flow.piece import Piece, Row, facts_of
from danlu.data.flow.plan import Shard
from danlu.data.flow.veil import without_originals
from danlu.data.identity import sample_id
from danlu.data.ledger import RAW_ROWS, Entry, Ledger
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.rejects import veiled
from danlu.data.sample import Conversation, Origin, Sample
from danlu.data.sources import READERS
from danlu.data.sources.reading import FileReport, read_file
from danlu.data.stage import Fate, Outcome, RowStage
from danlu.data.texts import texts_of, with_tags
from danlu.data.twins.columns import VERSION as TWINS_VERSION
from danlu.data.twins.signatures import signatures
from danlu.version import VERSION

FLOW_VERSION = 2
"""Of reading and of this folder; what stages change is said by their own keys."""
PIECE_ROWS = 20_000
PIECE_CHARS = 16 << 20
"""A piece is full when it holds so many rows, or so much text."""


class Examined(Protocol):
    """What privacy made of one row, and what it puts on record about it."""

    @property
    def outcome(self) -> Outcome: ...

    @property
    def records(self) -> Sequence[Mapping[str, Any]]: ...


class Privacy(Protocol):
    """The stage behind the signatures; `danlu.data.privacy` holds it."""

    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]: ...

    def told(self) -> dict[str, Any]:
        """`key` without what differs from one owner of keys to the next."""
        ...

    def examine(self, samples: Sequence[Sample]) -> Sequence[Examined]: ...


@dataclass(frozen=True)
class Passing:
    """The way of every row. Picklable: it is sent to worker processes once."""

    stages: tuple[RowStage, ...] = ()
    """Before signatures: folding, cleaners."""
    privacy: Privacy | None = None
    recogniser: Recogniser | None = None
    """Reads pages without a text layer."""
    has_children: bool = False
    """Other rows will be made of these: rows are tied to those that name them as parents."""

    def key(self) -> dict[str, Any]:
        """JSON of everything but the shard that decides an outcome."""
        return {
            "danlu": VERSION,
            "flow": FLOW_VERSION,
            "stages": [[stage.name, stage.key()] for stage in self.stages],
            "signatures": [TWINS_VERSION, self.has_children],
            "privacy": self.privacy.key() if self.privacy else None,
            "recogniser": self.recogniser.key() if self.recogniser else None,
        }

    def told(self) -> dict[str, Any]:
        """JSON for a manifest: `key`, the same for everybody who does the same to equal rows."""
        return self.key() | {"privacy": self.privacy.told() if self.privacy else None}


@dataclass(slots=True)
class Told:
    """What is told of a whole shard beside its pieces."""

    funnel: list[Passed] = field(default_factory=list)
    remarks: list[Entry] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    num_read: int = 0


def pass_shard(shard: Shard, passing: Passing, told: Told) -> Iterator[Piece]:
    """The pieces of one shard, in order; `told` is complete once the iterator has ended. An empty file is no piece."""
    ledger = Ledger()
    reading = Passed("read")
    told.funnel = [reading, *_stations(passing)]
    batch: list[Row] = []
    refused: list[Entry] = []
    num_refused = num_chars = 0
    samples = read_file(shard.found, READERS, ledger, FileReport(shard.found.name), passing.recogniser)
    for row in _rows(samples, ledger):
        if isinstance(row, Entry):
            num_refused += 1
            row = row if num_refused <= RAW_ROWS else replace(row, raw="")
            refused.append(row if passing.privacy is None else veiled(row))
        else:
            batch.append(row)
            num_chars += _num_chars(row)
        if max(len(batch), len(refused)) >= PIECE_ROWS or num_chars >= PIECE_CHARS:
            yield _piece(batch, refused, passing, told)
            batch, refused, num_chars = [], [], 0
    if batch or refused:
        yield _piece(batch, refused, passing, told)
    told.remarks, told.counts, told.num_read = ledger.remarks, dict(ledger.counts), ledger.num_read


def pass_samples(samples: Iterable[Sample], passing: Passing, told: Told) -> Iterator[Piece]:
    """The same way for samples that no file holds: what a teacher made."""
    told.funnel = [Passed("read"), *_stations(passing)]
    batch: list[Row] = []
    for sample in samples:
        told.num_read += 1
        batch.append(Row(sample, sample.origin, seat=told.num_read))
        if len(batch) >= PIECE_ROWS:
            yield _piece(batch, [], passing, told)
            batch = []
    if batch:
        yield _piece(batch, [], passing, told)


def _stations(passing: Passing) -> list[Passed]:
    stages = [Passed(stage.name) for stage in passing.stages]
    return [*stages, Passed(passing.privacy.name)] if passing.privacy else stages


def _rows(samples: Iterator[Sample], ledger: Ledger) -> Iterator[Row | Entry]:
    """Rows and refusals in the order in which they were met, seated so; the ledger's lists are emptied on the way."""
    seat = 0
    for sample in samples:
        for entry in ledger.rejects:
            seat += 1
            yield replace(entry, row=seat)
        marks = tuple(Mark("read", Fate("change", entry.reason, entry.values)) for entry in ledger.changes)
        ledger.rejects.clear()
        ledger.changes.clear()
        seat += 1
        yield Row(sample, sample.origin, marks=marks, seat=seat)
    for entry in ledger.rejects:
        seat += 1
        yield replace(entry, row=seat)
    ledger.rejects.clear()


def _num_chars(row: Row) -> int:
    """About how much text it is: enough to know when a piece is full."""
    if isinstance(row.sample, Conversation):
        return sum([len(turn.content) for turn in row.sample.messages])
    return sum(map(len, texts_of(row.sample))) if row.sample else 0


def _piece(rows: list[Row], refused: list[Entry], passing: Passing, told: Told) -> Piece:
    reading, *stations = told.funnel
    reading.rows_in += len(rows) + len(refused)
    reading.rows_out += len(rows)
    for entry in refused:
        reading.dropped[entry.reason] += 1
    for row in rows:
        for mark in row.marks:
            reading.count(mark.fate)
    for stage, station in zip(passing.stages, stations, strict=False):
        _through(rows, stage(_alive(rows)), station)
    signed = [row for row in rows if row.sample is not None]
    dropped = [row for row in rows if row.sample is None]
    original = _alive(signed)
    records: list[Mapping[str, Any]] = []
    if passing.privacy:
        examined = passing.privacy.examine(original)
        records = [dict(record) for one in examined for record in one.records]
        _through(signed, [one.outcome for one in examined], stations[-1])
        _tell_masked(signed)
    for row in signed:
        if row.sample is not None:
            row.packed, row.id = pack_content(row.sample)
    ids = [row.id or sample_id(sample) for row, sample in zip(signed, original, strict=True)]
    columns = signatures(original, ids if passing.has_children else None)
    if passing.privacy:
        columns = without_originals(columns, original, [row.sample for row in signed])
    refused = sorted([*refused, *map(_refusal, dropped)], key=lambda entry: entry.row)
    return Piece(signed, columns | facts_of(signed), refused, records)


def _tell_masked(rows: Sequence[Row]) -> None:
    """`tags["masked"]`: nothing that privacy looks for stands in the text as it is now. Teachers outside ask for it."""
    for row in rows:
        if row.sample is None:
            continue
        tags = row.sample.tags
        if "privacy_found" not in tags.get("flags", ()):
            row.sample = with_tags(row.sample, tags | {"masked": True})
        elif "masked" in tags:
            row.sample = with_tags(row.sample, {name: value for name, value in tags.items() if name != "masked"})


def _alive(rows: Sequence[Row]) -> list[Sample]:
    return [row.sample for row in rows if row.sample is not None]


def _through(rows: Sequence[Row], outcomes: Sequence[Outcome], station: Passed) -> None:
    """Put a stage's outcomes back into their rows and count them."""
    alive = [row for row in rows if row.sample is not None]
    assert len(alive) == len(outcomes), f"{station.name} gave {len(outcomes)} outcomes for {len(alive)} samples"
    station.rows_in += len(alive)
    for row, (sample, fates) in zip(alive, outcomes, strict=True):
        row.sample = sample
        if sample is not None:
            station.rows_out += 1
        if not fates:
            continue
        row.marks += tuple(Mark(station.name, fate) for fate in fates)
        for fate in fates:
            station.count(fate)
        flags = [fate.reason for fate in fates if fate.action == "flag"]
        if sample is not None and flags:
            known = list(sample.tags.get("flags", ()))
            fresh = [flag for flag in dict.fromkeys(flags) if flag not in known]
            row.sample = with_tags(sample, sample.tags | {"flags": known + fresh}) if fresh else sample


def _refusal(row: Row) -> Entry:
    """A row that a stage dropped before it was signed, as the ledger says it."""
    fate = row.marks[-1].fate
    assert fate.action == "drop", "a row is dropped with a reason"
    origin: Origin = row.origin
    return Entry(origin.file, origin.line, fate.reason, fate.values, row=row.seat)
