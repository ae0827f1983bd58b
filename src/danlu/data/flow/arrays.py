"""The columns of a piece in one file: mapped as a whole, no descriptor stays open however many pieces are in use.

8 bytes (little-endian) length of the header, the header as JSON ({name: [dtype, shape, first byte]}), then the arrays,
each from a multiple of 64 bytes on. Plain dtypes alone: nothing in such a file runs code.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import orjson

from danlu.data.flow.batches import arrow

_ALIGNED = 64


def write_arrays(file: BinaryIO | io.RawIOBase, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    header: dict[str, list[Any]] = {}
    at = 0
    for name, array in arrays.items():
        assert not array.dtype.hasobject and array.dtype.names is None, f"column {name} is of plain numbers or text"
        header[name] = [array.dtype.str, list(array.shape), at]
        at += _padded(array.nbytes)
    told = orjson.dumps(header)
    told += b" " * (_padded(8 + len(told)) - 8 - len(told))
    file.write(len(told).to_bytes(8, "little") + told)
    for array in arrays.values():
        file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
        file.write(bytes(_padded(array.nbytes) - array.nbytes))


def open_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read-only views of the mapped file."""
    with arrow().memory_map(str(path)) as file:  # pyarrow's mapping outlives its descriptor; numpy's and mmap's keep it
        content = memoryview(file.read_buffer())
    begin = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for name, (kind, shape, at) in orjson.loads(content[8:begin]).items():
        dtype = np.dtype(kind)
        num = int(np.prod(shape, dtype=np.int64))
        whole = np.frombuffer(content, dtype, num, begin + at) if num and dtype.itemsize else np.zeros(num, dtype)
        arrays[name] = whole.reshape(shape)
    return arrays


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
