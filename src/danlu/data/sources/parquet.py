"""Parquet tables, row group by row group; nested columns (messages, tools) come out as lists and objects."""

from __future__ import annotations

from collections.abc import Iterator

from danlu.core.errors import DataError
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Item, Row

BATCH_ROWS = 256


def read_parquet(source: Source, context: Context) -> Iterator[Item]:
    """Rows numbered from 1."""
    try:
        import pyarrow.parquet  # lazy: only Parquet needs the package
    except ImportError as error:
        raise DataError("data.missing_package", where=source.name, package="pyarrow", what="Parquet") from error
    with source.seekable() as file:
        table = pyarrow.parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=BATCH_ROWS):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values, str(values)[:4000])
