"""One file, from bytes to Samples: sniff, read, mend, find the format, parse, account.

Called by `danlu.data.sources.read`. This is where a row's fate is decided; readers only say what stands in a file,
formats only what a row means.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, cast

from danlu.core.errors import DanluError, DataError
from danlu.core.files import sha256_file
from danlu.core.shelf import Shelf
from danlu.data import columns
from danlu.data.enclosed import MAX_DEPTH, Room
from danlu.data.finding import Found
from danlu.data.formats import FORMATS, Format, choose, load_format
from danlu.data.formats.format import Plan, kept_out, other_answers
from danlu.data.kinds import Kind, kind_of_file
from danlu.data.ledger import Ledger
from danlu.data.mend import MojibakeError, mend
from danlu.data.ocr.recogniser import Recogniser
from danlu.data.opening import Source, open_source
from danlu.data.plans import num_chars_of, plan_of, put_back_suspects
from danlu.data.rows import Changes, RowError, kind_of
from danlu.data.sample import BETWEEN, Document, Origin, Sample, line_origin
from danlu.data.sources.source import Context, Enclosed, Fault, Item, Passage, Reader, Row, Rows, Shape

OWN_READERS = ("json", "csv", "text")
"""Readers of ours, which raise nothing; the others stand on parsers of other people."""
NESTING = ("archive", "mail", "mbox")
"""Readers that find whole files inside a file."""


@dataclass(slots=True)
class FileReport:
    """What became of one file."""

    file: str
    container: str = ""
    """How the file is written: json, csv, xlsx, ..."""
    compression: str | None = None
    encoding: str = ""
    size_bytes: int = 0
    columns: dict[str, str] = field(default_factory=dict)
    """Part to the file's own column name, of the first row that was used."""
    formats: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    num_read: int = 0
    num_used: int = 0
    num_changed: int = 0
    num_rejected: int = 0
    dropped: Counter[str] | None = None
    """Columns that come along with no sample, in how many rows; None where nobody asks."""

    @property
    def format(self) -> str:
        """The row format: one name, "mixed", or "" where no row was used."""
        return next(iter(self.formats)) if len(self.formats) == 1 else "mixed" if self.formats else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file, "format": self.format, "container": self.container, "compression": self.compression,
            "encoding": self.encoding, "bytes": self.size_bytes, "columns": self.columns, "kinds": dict(self.kinds),
            "rows": {
                "read": self.num_read, "used": self.num_used, "changed": self.num_changed,
                "rejected": self.num_rejected,
            },
        }  # fmt: skip


@dataclass(slots=True)
class Shared:
    """What one named file and all files inside it share."""

    readers: Shelf[Reader]
    ledger: Ledger
    report: FileReport
    recogniser: Recogniser | None = None
    room: Room = field(default_factory=Room)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples in their order. Of several the ledger has nothing to say: no row before or among them was refused or
    changed."""

    samples: Sequence[Sample]
    num_chars: int
    """About how much text they hold."""


def read_file(
    found: Found,
    readers: Shelf[Reader],
    ledger: Ledger,
    report: FileReport,
    recogniser: Recogniser | None = None,
) -> Iterator[Sample]:
    """The samples of one file. `report` is complete once the iterator has ended, whatever happened inside."""
    for batch in read_batches(found, readers, ledger, report, recogniser):
        yield from batch.samples


def read_batches(
    found: Found,
    readers: Shelf[Reader],
    ledger: Ledger,
    report: FileReport,
    recogniser: Recogniser | None = None,
) -> Iterator[Batch]:
    """The same for whoever can take many at once. The ledger is ahead of the samples by one batch at most."""
    before = (ledger.num_read, ledger.num_used, len(ledger.rejects), len(ledger.changes))
    try:
        yield from _opened(found, Shared(readers, ledger, report, recogniser), 0)
    finally:
        _close(report, ledger, before)


def _opened(found: Found, shared: Shared, depth: int) -> Iterator[Batch]:
    """The samples of a file, or of one that lies `depth` files deep."""
    ledger, report, num_before = shared.ledger, shared.report, shared.ledger.num_read
    fixed, container = _format_of(found.spec.format, shared.readers, found.name)
    try:
        source = open_source(found.path, found.name, found.span)
    except DataError as error:
        if error.key == "data.missing_package":
            raise
        ledger.reject(found.name, 0, "cannot_open", detail=error.values["detail"])
        return
    kind = kind_of_file(source)
    if container and kind.reader not in NESTING:
        kind = Kind(container)
    if depth == 0:
        report.container, report.compression = kind.reader or "", source.compression
        report.size_bytes = source.size_bytes
    try:
        if kind.reader is None:
            ledger.reject(found.name, 0, kind.reason, **kind.values)
        elif kind.reader in NESTING and depth >= MAX_DEPTH:
            ledger.reject(found.name, 0, "too_deep_inside", limit=MAX_DEPTH)
        else:
            reader = shared.readers.load(kind.reader)
            yield from _FileReading(found, shared, fixed, depth).batches(source, reader, kind.reader)
            if ledger.num_read == num_before and found.span is None:  # blank lines, comments, a header alone
                ledger.reject(found.name, 0, "no_rows")
    finally:
        if depth == 0:
            textual = kind.reader in OWN_READERS or kind.reader == "html"
            report.encoding = source.decoder.name if textual else "binary"
            if kind.reader is None and kind.reason in ("html_page", "empty_file"):
                report.encoding = source.decoder.name


def _close(report: FileReport, ledger: Ledger, before: tuple[int, int, int, int]) -> None:
    """Fill in the counts: what the ledger has more than before."""
    report.num_read = ledger.num_read - before[0]
    report.num_used = ledger.num_used - before[1]
    report.num_rejected = len(ledger.rejects) - before[2]
    report.num_changed = len({(entry.file, entry.line, entry.row) for entry in ledger.changes[before[3] :]})


def _format_of(given: str | None, readers: Shelf[Reader], name: str) -> tuple[Format | None, str | None]:
    """An explicit `format`: a row format, or how the file is written."""
    if given is None:
        return None, None
    aliases = {"jsonl": "json", "ndjson": "json", "tsv": "csv", "txt": "text", "md": "text", "markdown": "text"}
    if aliases.get(given, given) in readers.names() and given != "text":
        return None, aliases.get(given, given)
    FORMATS.places.get(given) or FORMATS.load(given, where=name)  # raises with the nearest name
    return load_format(given), None


@dataclass(slots=True)
class _FileReading:
    """The state of reading one file: which format its rows have had so far, and what was said already."""

    found: Found
    shared: Shared
    fixed: Format | None
    depth: int = 0
    current: Format | None = None
    shape: Shape = ((), ())
    """Columns and types of values of the row that `current` was chosen for: rows of one shape have one format."""
    plans: dict[tuple[str, Shape], Plan | None] = field(default_factory=dict)
    digest: str = ""
    """Of the file's bytes, once a passage needed it."""
    num_chars: int = 0
    """Of the file's extracted text so far: where the next passage begins."""

    @property
    def ledger(self) -> Ledger:
        return self.shared.ledger

    @property
    def report(self) -> FileReport:
        return self.shared.report

    def batches(self, source: Source, reader: Reader, reader_name: str) -> Iterator[Batch]:
        columns_named = tuple((self.found.spec.columns or {}).values())
        context = Context(
            self._fits,
            self._note,
            columns_named,
            bool(self.fixed or columns_named),
            self.shared.recogniser,
            self.shared.room,
        )
        for item in _guarded(reader(source, context), reader_name in OWN_READERS):
            if isinstance(item, Enclosed):
                name = f"{self.found.name}#{item.name}"
                yield from _opened(Found(item.path, name, self.found.spec), self.shared, self.depth + 1)
                continue
            if isinstance(item, Rows):
                yield from self._together(item)
                continue
            file = f"{self.found.name}#{item.place}" if item.place else self.found.name
            if isinstance(item, Fault):
                self.ledger.reject(file, item.line, item.reason, raw=item.raw, **item.values)
                continue
            sample = self._document(item, file) if isinstance(item, Passage) else self._row(item, file)
            if sample is not None:
                yield self._used([sample])

    def _used(self, samples: Sequence[Sample], num_chars: int | None = None) -> Batch:
        self.ledger.use(len(samples))
        self.report.kinds[samples[0].kind] += len(samples)
        return Batch(samples, num_chars_of(samples[0]) if num_chars is None else num_chars)

    def _together(self, rows: Rows) -> Iterator[Batch]:
        """Rows of one shape. Until their plan is known, and where it or a second look at their letters does not let
        one pass, they go the way of single rows, in their order."""
        at, plan = 0, None
        while at < len(rows.values) and (plan := self._plan(rows)) is None:
            yield from self._alone(rows, at)
            at += 1
        if plan is None or at == len(rows.values):
            return
        name, values, lines = self.found.name, rows.values[at:], rows.lines[at:]
        made = [plan.make(row, line_origin(name, line)) for row, line in zip(values, lines, strict=True)]
        self._count_dropped([row for row, one in zip(values, made, strict=True) if one is not None], self._format_now)
        num_chars = put_back_suspects(values, made, rows.shape[1], plan)
        begin = 0
        for end in [*(number for number, sample in enumerate(made) if sample is None), len(made)]:
            if end > begin:
                part = cast("list[Sample]", made[begin:end])
                self.report.formats[self._format_now.name] += len(part)
                yield self._used(part, num_chars * len(part) // len(made))
            if end < len(made):
                yield from self._alone(rows, at + end)
            begin = end + 1

    def _alone(self, rows: Rows, at: int) -> Iterator[Batch]:
        sample = self._row(rows.row(at), self.found.name)
        if sample is not None:
            yield self._used([sample])

    @property
    def _format_now(self) -> Format:
        fmt = self.fixed or self.current
        assert fmt is not None, "asked behind the first row"
        return fmt

    def _plan(self, rows: Rows) -> Plan | None:
        """How rows of this shape become samples, where the rows before them settled it."""
        if self.found.spec.columns or not self.report.columns or not (self.fixed or self.shape == rows.shape):
            return None
        known = self._format_now.name, rows.shape
        if known not in self.plans:
            self.plans[known] = plan_of(self._format_now, rows.values[0])
        return self.plans[known]

    def _fits(self, row: dict[str, Any]) -> bool:
        """For readers of tables: are these columns training rows?"""
        row = self._renamed(row)
        fmt = self.fixed or choose(row)
        return fmt is not None and fmt.matches(row) >= (0.1 if self.fixed else 0.3)

    def _note(self, reason: str, **values: Any) -> None:
        self.ledger.remark(self.found.name, reason, **values)

    def _document(self, item: Passage, file: str) -> Sample | None:
        changes: dict[str, int] = {}
        try:
            text = mend(item.text, changes)
        except MojibakeError as error:
            self.ledger.reject(file, item.line, "mojibake", raw=item.text[:2000], near=str(error))
            return None
        self._record(file, item.line, [*item.changes, *((reason, {"num": num}) for reason, num in changes.items())])
        self.report.formats["text"] += 1
        self.digest = self.digest or sha256_file(self.found.path)
        start, end = self.num_chars, self.num_chars + len(text)
        self.num_chars = end + len(BETWEEN)
        origin = Origin(file, item.line, item.page, start, end, self.digest)
        return Document(text, origin, item.title or PurePath(file).stem, self.found.name)

    def _row(self, item: Row, file: str) -> Sample | None:
        try:
            sample, changes = self._parsed(item, Origin(file, item.line))
        except RowError as error:
            self.ledger.reject(file, item.line, error.reason, raw=item.raw, **error.values)
            return None
        except MojibakeError as error:
            self.ledger.reject(file, item.line, "mojibake", raw=item.raw, near=str(error))
            return None
        except RecursionError:
            self.ledger.reject(file, item.line, "too_deep", raw=item.raw[:2000])
            return None
        self._record(file, item.line, [*item.changes, *changes])
        return sample

    def _parsed(self, item: Row, origin: Origin) -> tuple[Sample, Changes]:
        if not isinstance(item.values, dict):
            raise RowError("not_an_object", kind=kind_of(item.values))
        mended: dict[str, int] = {}
        row = self._renamed(item.values if item.clean else mend(item.values, mended), strict=True)
        changes: Changes = [(reason, {"num": num}) for reason, num in mended.items()]
        fmt, row = self._format(row)
        sample = fmt.parse(row, origin, changes)
        for name in kept_out(row, sample):
            self._note("note_reserved_column", column=name)
        if "answer" in fmt.parts and (told := other_answers(row, sample)):
            for left in told[1]:
                self._note("note_other_answer", used=told[0], left=left)
        if not self.report.columns:
            own = {part: columns.find(row, part) for part in fmt.parts}
            self.report.columns = {
                part: (self.found.spec.columns or {}).get(part, name) for part, name in own.items() if name
            }
        self.report.formats[fmt.name] += 1
        self._count_dropped([row], fmt)
        return sample, changes

    def _count_dropped(self, rows: Sequence[dict[str, Any]], fmt: Format) -> None:
        if self.report.dropped is not None:
            self.report.dropped.update(columns.dropped(rows, fmt.parts))

    def _format(self, row: dict[str, Any]) -> tuple[Format, dict[str, Any]]:
        """The format told, else the one of the rows before, else the one that knows the row best."""
        if self.fixed:
            return self.fixed, row
        shape: Shape = tuple(row), tuple(map(type, row.values()))
        if self.current and shape == self.shape:
            return self.current, row
        fmt = choose(row)
        if fmt is None and (plain := columns.without_language(row)):
            row, prefix = plain
            fmt, shape = choose(row), ((), ())
            if fmt:
                self._note("note_language_columns", prefix=prefix)
        if fmt is None:
            raise RowError("unknown_columns", found=", ".join(map(str, row))[:200] or "-")
        self.current, self.shape = fmt, shape
        return fmt, row

    def _renamed(self, row: dict[str, Any], strict: bool = False) -> dict[str, Any]:
        """The row with the user's columns under their parts' names; other columns that claim the same part step
        back."""
        mapping = self.found.spec.columns
        if not mapping:
            return row
        missing = [name for name in mapping.values() if name not in row]
        if missing and strict:
            raise RowError(
                "named_column_missing", missing=", ".join(missing), found=", ".join(map(str, row))[:200] or "-"
            )
        out = {part: row[name] for part, name in mapping.items() if name in row}
        taken = set(mapping.values())
        rest = {
            key: value
            for key, value in row.items()
            if key not in taken and not any(columns.find({key: 0}, part) for part in mapping)
        }
        return out | rest

    def _record(self, file: str, line: int, changes: Changes) -> None:
        for reason, values in changes:
            self.ledger.change(file, line, reason, row=self.ledger.num_read, **values)


def _guarded(items: Iterator[Item], ours: bool) -> Iterator[Item]:
    """Items of a reader. Parsers of other people meet broken and hostile files with any exception there is: each ends
    the file as a fault that names it, and what came before it stays used."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except DanluError:
            raise
        except Exception as error:  # a parser of others may raise anything
            if ours:
                raise
            detail = f"{type(error).__name__}: {error}".strip(": ")[:120]
            yield Fault(0, "unreadable", {"detail": detail})
            return
        yield item
