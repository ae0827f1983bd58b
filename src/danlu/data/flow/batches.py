"""Rows of a piece as an Arrow record batch, and back. The one file here that needs pyarrow.

Schema version 1, in the metadata (`danlu.rows`). Content, tags and marks are JSON (codec.py); an empty one is null.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from danlu.core.errors import DataError
from danlu.data.flow.codec import pack_content, pack_json, pack_marks, unpack, unpack_json, unpack_marks
from danlu.data.flow.marks import Mark
from danlu.data.flow.piece import Piece, Row
from danlu.data.sample import Origin, line_origin

SCHEMA_VERSION = "1"
_SOME = 2000
_PLACES = ("file", "line", "page", "start", "end", "document")


def arrow() -> Any:
    """pyarrow, or how to get it."""
    try:
        import pyarrow.ipc  # lazy: only data that goes through shards needs it
    except ImportError as error:
        raise DataError("flow.needs_package", engine="local", package="pyarrow", extra="data") from error
    return pyarrow


def schema() -> Any:
    pa = arrow()
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [
        ("id", pa.string()), ("content", pa.large_binary()), ("group", pa.string()), ("tags", pa.binary()),
        ("marks", pa.binary()), ("seat", pa.int64()), ("file", text), ("line", pa.int64()), ("page", pa.int32()),
        ("start", pa.int64()), ("end", pa.int64()), ("document", text),
    ]  # fmt: skip
    return pa.schema(fields, metadata={"danlu.rows": SCHEMA_VERSION})


def to_batch(piece: Piece) -> Any:
    """A record batch of the rows of a piece; content is null where the row was dropped."""
    pa = arrow()
    rows, stands = piece.kept, piece.columns
    packed = [_packed(row) for row in rows]
    origins = [row.origin for row in rows]
    values: dict[str, list[Any]] = {
        "id": [name for _, name in packed],
        "content": [content for content, _ in packed],
        "group": [None if row.sample is None else row.sample.group for row in rows],
        "tags": _tags(rows),
        "marks": [(pack_marks(row.marks) or None) if row.marks else None for row in rows],
        **{place: list(map(attrgetter(place), origins)) for place in _PLACES[2:]},
    }
    form = schema()
    arrays = {name: _array(own, form.field(name).type) for name, own in values.items()}
    arrays |= {"seat": _numbers(stands["row_seat"]), "line": _numbers(stands["row_line"])}
    names = _array(stands["row_files"].tolist(), pa.string())
    arrays["file"] = pa.DictionaryArray.from_arrays(_numbers(stands["row_file"]), names)
    return pa.record_batch([arrays[one.name] for one in form], schema=form)


def _numbers(column: npt.NDArray[Any]) -> Any:
    pa = arrow()
    return pa.Array.from_buffers(pa.from_numpy_dtype(column.dtype), len(column), [None, pa.py_buffer(column)])


def _array(values: list[Any], kind: Any) -> Any:
    """An Arrow array, laid out here: `pa.array` asks of a list whether it is one of pandas', and loads pandas for it,
    where that happens to be installed."""
    pa = arrow()
    if values and values[0] is values[-1] is None and set(map(type, values)) == {type(None)}:
        return pa.nulls(len(values), kind)
    there = [value for value in values if value is not None]
    if pa.types.is_dictionary(kind):
        places = {value: place for place, value in enumerate(dict.fromkeys(there))}
        indices = [None if value is None else places[value] for value in values]
        return pa.DictionaryArray.from_arrays(_array(indices, kind.index_type), _array(list(places), kind.value_type))
    is_there = None
    if len(there) < len(values):
        is_there = pa.py_buffer(np.packbits([value is not None for value in values], bitorder="little"))
    if pa.types.is_integer(kind):
        numbers = np.array([value or 0 for value in values] if is_there else values, kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(values), [is_there, pa.py_buffer(numbers)])
    if pa.types.is_string(kind):
        there = [value.encode() for value in there]
        values = [value and value.encode() for value in values] if is_there else there
    lengths = list(map(len, values)) if is_there is None else [len(value or b"") for value in values]
    ends = np.cumsum([0, *lengths])
    offsets = ends.astype(np.int64 if pa.types.is_large_binary(kind) else np.int32)
    assert offsets[-1] == ends[-1], "more letters than the offsets of this kind can count"
    buffers = [is_there, pa.py_buffer(offsets), pa.py_buffer(b"".join(there))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _packed(row: Row) -> tuple[bytes | None, str | None]:
    if row.sample is None:
        return None, None
    return (row.packed, row.id) if row.packed is not None else pack_content(row.sample)


def _tags(rows: Sequence[Row]) -> list[bytes | None]:
    """As JSON. Most rows bear the very same tags: those are packed once."""
    found: list[bytes | None] = []
    known: dict[str, Any] | None = None
    packed: bytes | None = None
    for row in rows:
        if row.sample is None:
            found.append(None)
            continue
        if row.sample.tags is not known:
            known, packed = row.sample.tags, pack_json(row.sample.tags) or None
        found.append(packed)
    return found


def write_batch(file: BinaryIO | io.RawIOBase, batch: Any) -> None:
    """As it is: to pack it costs more than to write and to map it again."""
    pa = arrow()
    with pa.PythonFile(file, mode="w") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_rows(path: Path, wanted: npt.NDArray[np.bool_] | None = None) -> Iterator[tuple[int, Row]]:
    """(number, row) of the rows wanted, or of all; some at a time are taken out of the mapped file."""
    table = _open(path, None)
    numbers = np.arange(len(table)) if wanted is None else np.flatnonzero(wanted)
    tags: dict[str, Any] = {}
    packed_tags: bytes | None = None
    for at in range(0, len(numbers), _SOME):
        some = numbers[at : at + _SOME]
        columns = _lists(table.take(_places(some)))
        names = ("content", "tags", "marks", "group", "id", "seat", *_PLACES)
        for number, content, packed, marks, group, name, seat, *place in zip(
            some.tolist(), *(columns[one] for one in names), strict=True
        ):
            origin = line_origin(place[0], place[1]) if place[2:] == _NOWHERE else Origin(*place)
            if packed != packed_tags:  # most rows bear the same: those share one object, as when they were stored
                tags, packed_tags = (unpack_json(packed) if packed else {}), packed
            sample = None if content is None else unpack(content, origin, group, tags if packed else {})
            yield number, Row(sample, origin, name or "", unpack_marks(marks) if marks else (), seat)


_NOWHERE = [None] * 4
"""No page, characters or document: a row of a table."""


def read_marks(path: Path, wanted: npt.NDArray[np.int64]) -> Iterator[tuple[Mark, ...]]:
    """Marks of these rows; all else stays closed. Equal ones are one object."""
    column = _open(path, ["marks"]).column("marks")
    if column.null_count == len(column):
        yield from [()] * len(wanted)
        return
    for packed in column.take(_places(wanted)).to_pylist():
        yield _marks(packed) if packed else ()


_marks = functools.lru_cache(1 << 12)(unpack_marks)


def read_names(path: Path) -> Iterator[tuple[str, str, int]]:
    """(id, file, line) of all rows: what they are looked up by."""
    columns = _lists(_open(path, ["id", "file", "line"]))
    return zip((name or "" for name in columns["id"]), columns["file"], columns["line"], strict=True)


def _places(numbers: npt.NDArray[np.int64]) -> Any:
    """For `take`, which would load pandas for an array of numpy's, where that happens to be installed."""
    pa = arrow()
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers.astype(np.int64))])


def _lists(table: Any) -> dict[str, list[Any]]:
    """Columns as Python's own values."""
    pa = arrow()
    found = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count == len(column):
            found[name] = [None] * len(column)
        elif pa.types.is_dictionary(column.type):
            found[name] = column.cast(column.type.value_type).to_pylist()
        else:
            found[name] = column.to_pylist()
    return found


def _open(path: Path, names: list[str] | None) -> Any:
    """The table, mapped: what nobody asks for is not read. No descriptor stays open."""
    pa = arrow()
    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_file(file)
        if reader.schema.metadata.get(b"danlu.rows") != SCHEMA_VERSION.encode():
            raise DataError("flow.foreign_rows", where=str(path), expected=SCHEMA_VERSION)
        if names is not None:
            fields = [reader.schema.get_field_index(name) for name in names]
            reader = pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))
        return reader.read_all()
