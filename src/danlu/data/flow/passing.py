"""What a shard goes through: read > row stages > signatures of the text as it was > privacy. A pure function.

The same shard gives the same pieces in any process and on any machine. Rows are held in memory one piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from danlu.data.flow.codec import pack_content, pack_pair
from danlu.data.flow.folds import Folds
from danlu.data.flow.marks import Mark, Passed
from danlu.data.flow.piece import Piece, Row, facts_of
from danlu.data.flow.plan import Shard
from danlu.data.flow.veil import without_originals
from danlu.data.identity import sample_id
from danlu.data.joined import Texts
from danlu.data.ledger import RAW_ROWS, Entry, Ledger
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.rejects import veiled
from danlu.data.sample import Conversation, Sample, plain_conversation
from danlu.data.sources import READERS
from danlu.data.sources.reading import Batch, FileReport, read_batches
from danlu.data.stage import Fate, Outcome, RowStage, touched
from danlu.data.texts import with_tags
from danlu.data.twins.columns import VERSION as TWINS_VERSION
from danlu.data.twins.signatures import signatures
from danlu.version import VERSION

FLOW_VERSION = 4
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


class Look(Protocol):
    """What privacy made of many rows: `examined` by number, and the tags of all rows that are not in it."""

    @property
    def examined(self) -> Mapping[int, Examined]: ...

    @property
    def tags(self) -> dict[str, Any]: ...


class Privacy(Protocol):
    """The stage behind the signatures; `danlu.data.privacy` holds it."""

    @property
    def name(self) -> str: ...

    def key(self) -> dict[str, Any]: ...

    def told(self) -> dict[str, Any]:
        """`key` without what differs from one owner of keys to the next."""
        ...

    def look(self, texts: Texts) -> Look: ...


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
class ShardFacts:
    """What is told of a whole shard beside its pieces."""

    funnel: list[Passed] = field(default_factory=list)
    remarks: list[Entry] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    num_read: int = 0


@dataclass(slots=True)
class _Load:
    """What makes a piece: samples as they were read, where they sit, what the reader changed in them (by their number),
    and rows that it refused."""

    samples: list[Sample] = field(default_factory=list)
    seats: list[int] = field(default_factory=list)
    marks: dict[int, tuple[Mark, ...]] = field(default_factory=dict)
    refused: list[Entry] = field(default_factory=list)
    num_chars: int = 0

    def is_full(self) -> bool:
        return max(len(self.samples), len(self.refused)) >= PIECE_ROWS or self.num_chars >= PIECE_CHARS


def pass_shard(shard: Shard, passing: Passing, facts: ShardFacts) -> Iterator[Piece]:
    """The pieces of one shard, in order; `facts` is complete once the iterator has ended. An empty file is no piece."""
    ledger = Ledger()
    facts.funnel = [Passed("read"), *_stations(passing)]
    batches = read_batches(shard.found, READERS, ledger, FileReport(shard.found.name), passing.recogniser)
    for load in _loads(batches, ledger, is_veiled=passing.privacy is not None):
        yield _piece(load, passing, facts)
    facts.remarks, facts.counts, facts.num_read = ledger.remarks, dict(ledger.counts), ledger.num_read


def pass_samples(samples: Iterable[Sample], passing: Passing, facts: ShardFacts) -> Iterator[Piece]:
    """The same way for samples that no file holds: what a teacher made."""
    facts.funnel = [Passed("read"), *_stations(passing)]
    load = _Load()
    for sample in samples:
        facts.num_read += 1
        load.samples.append(sample)
        load.seats.append(facts.num_read)
        if load.is_full():
            yield _piece(load, passing, facts)
            load = _Load()
    if load.samples:
        yield _piece(load, passing, facts)


def _stations(passing: Passing) -> list[Passed]:
    stages = [Passed(stage.name) for stage in passing.stages]
    return [*stages, Passed(passing.privacy.name)] if passing.privacy else stages


def _loads(batches: Iterable[Batch], ledger: Ledger, *, is_veiled: bool) -> Iterator[_Load]:
    """Rows and refusals, seated in the order in which they were met; the ledger's lists are emptied on the way."""
    load, seat, num_refused = _Load(), 0, 0

    def refusals() -> Iterator[_Load]:
        nonlocal load, seat, num_refused
        for entry in ledger.rejects:
            seat, num_refused = seat + 1, num_refused + 1
            entry = replace(entry, row=seat, raw=entry.raw if num_refused <= RAW_ROWS else "")
            load.refused.append(veiled(entry) if is_veiled else entry)
            if load.is_full():
                yield load
                load = _Load()
        ledger.rejects.clear()

    for batch in batches:
        yield from refusals()
        if ledger.changes:
            changes = tuple(Mark("read", Fate("change", entry.reason, entry.values)) for entry in ledger.changes)
            load.marks[len(load.samples)] = changes
            ledger.changes.clear()
        num = len(batch.samples)
        load.samples += batch.samples
        load.seats += range(seat + 1, seat + num + 1)
        load.num_chars += batch.num_chars
        seat += num
        if load.is_full():
            yield load
            load = _Load()
    yield from refusals()
    if load.samples or load.refused:
        yield load


def _piece(load: _Load, passing: Passing, facts: ShardFacts) -> Piece:
    reading, *stations = facts.funnel
    reading.rows_in += len(load.samples) + len(load.refused)
    reading.rows_out += len(load.samples)
    reading.dropped.update(entry.reason for entry in load.refused)
    for marks in load.marks.values():
        for mark in marks:
            reading.count(mark.fate)
    texts = Texts(load.samples)
    for stage, station in zip(passing.stages, stations, strict=False):
        _through(load, texts, touched(stage, texts), station)
    alive = [row for row, sample in enumerate(texts.samples) if sample is not None]
    refused = [_refusal(load, row) for row, sample in enumerate(texts.samples) if sample is None]
    original, pairs, folds = texts.alive(), [texts.pairs[row] for row in alive], Folds(texts)
    look = passing.privacy.look(texts) if passing.privacy else None
    if look is not None:
        _through(load, texts, {row: one.outcome for row, one in look.examined.items()}, stations[-1])
        _tag(texts, alive, look)
    rows = _rows(load, texts, alive)
    ids = None
    if passing.has_children:
        ids = [row.id or sample_id(sample) for row, sample in zip(rows, original, strict=True)]
    columns = signatures(original, ids, pairs=pairs, folds=folds)
    records: list[Mapping[str, Any]] = []
    if look is not None:
        records = [dict(record) for one in look.examined.values() for record in one.records]
        changed = [number for number, row in enumerate(alive) if row in look.examined]
        columns = without_originals(columns, original, [row.sample for row in rows], changed)
    refused = sorted([*load.refused, *refused], key=lambda entry: entry.row)
    return Piece(rows, columns | facts_of(rows), refused, records)


def _rows(load: _Load, texts: Texts, numbers: Sequence[int]) -> list[Row]:
    """These rows as they leave the last stage."""
    rows: list[Row] = []
    for number in numbers:
        sample, origin = texts.samples[number], load.samples[number].origin
        packed, name = (None, "") if sample is None else _packed(sample, texts.pairs[number])
        rows.append(Row(sample, origin, name, load.marks.get(number, ()), load.seats[number], packed))
    return rows


def _packed(sample: Sample, is_pair: bool) -> tuple[bytes, str]:
    if is_pair and type(sample) is Conversation:
        asked, answered = sample.messages
        if packed := pack_pair(asked.content, answered.content):
            return packed
    return pack_content(sample)


def _tag(texts: Texts, rows: Sequence[int], look: Look) -> None:
    """Tags of rows that privacy has nothing to say of, and `tags["masked"]` of all: nothing that it looks for stands in
    the text as it is now. Teachers outside ask for it. Rows without tags of their own share one object."""
    clean = look.tags | {"masked": True}
    for row in rows:
        sample = texts.samples[row]
        if sample is None:
            continue
        if row in look.examined:
            texts.samples[row] = with_tags(sample, _told_masked(sample.tags))
        elif type(sample) is Conversation and not sample.tools:
            tags = _told_masked(sample.tags | look.tags) if sample.tags else clean
            texts.samples[row] = plain_conversation(sample.messages, sample.origin, sample.group, tags)
        else:
            texts.samples[row] = with_tags(sample, _told_masked(sample.tags | look.tags))


def _told_masked(tags: dict[str, Any]) -> dict[str, Any]:
    if "privacy_found" not in tags.get("flags", ()):
        return tags | {"masked": True}
    return {name: value for name, value in tags.items() if name != "masked"}


def _through(load: _Load, texts: Texts, outcomes: Mapping[int, Outcome], station: Passed) -> None:
    """Put what a stage did into the rows, and count it."""
    station.rows_in += texts.num_alive
    station.rows_out += texts.num_alive
    for row, (sample, fates) in outcomes.items():
        if sample is None:
            station.rows_out -= 1
        load.marks[row] = (*load.marks.get(row, ()), *(Mark(station.name, fate) for fate in fates))
        for fate in fates:
            station.count(fate)
        flags = [fate.reason for fate in fates if fate.action == "flag"]
        if sample is not None and flags:
            known = list(sample.tags.get("flags", ()))
            fresh = [flag for flag in dict.fromkeys(flags) if flag not in known]
            sample = with_tags(sample, sample.tags | {"flags": known + fresh}) if fresh else sample
        texts.put(row, sample)


def _refusal(load: _Load, row: int) -> Entry:
    """A row that a stage dropped before it was signed, as the ledger says it."""
    fate, origin = load.marks[row][-1].fate, load.samples[row].origin
    assert fate.action == "drop", "a row is dropped with a reason"
    return Entry(origin.file, origin.line, fate.reason, fate.values, row=load.seats[row])
