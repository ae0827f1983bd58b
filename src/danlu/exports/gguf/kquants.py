"""Rows of numbers in blocks of few bits: Q8_0 and Q5_0/1 by the package `gguf` (numpy), k-quants by ggml's own code.

ggml is llama.cpp's tensor library; its public C function `ggml_quantize_chunk` (ggml.h) is in the shared library that
the wheel `xllamacpp` ships. The result is read back by `gguf`'s own decoder in the proof, so neither is taken on trust.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from danlu.core.errors import ExportError

_CHUNK_ROWS = 4096


def quantize_rows(rows_ND: np.ndarray[Any, Any], type_name: str) -> np.ndarray[Any, Any]:
    """fp32 rows as bytes, [N, bytes of a row]."""
    gguf = package()
    kind = gguf.GGMLQuantizationType[type_name]
    if not type_name.endswith("_K"):
        coded: np.ndarray[Any, Any] = gguf.quants.quantize(rows_ND, kind)
        return coded
    return _by_ggml(rows_ND, int(kind), gguf.GGML_QUANT_SIZES[kind])


def _by_ggml(rows_ND: np.ndarray[Any, Any], kind: int, sizes: tuple[int, int]) -> np.ndarray[Any, Any]:
    rows_ND = np.ascontiguousarray(rows_ND, dtype=np.float32)
    num_rows, width = rows_ND.shape
    block, num_bytes = sizes
    out = np.empty((num_rows, width // block * num_bytes), dtype=np.uint8)
    quantize = _library().ggml_quantize_chunk
    for start in range(0, num_rows, _CHUNK_ROWS):
        some = rows_ND[start : start + _CHUNK_ROWS]
        written = quantize(kind, some.ctypes.data, out[start:].ctypes.data, 0, len(some), width, None)
        assert written == len(some) * out.shape[1], "ggml wrote rows of another length than the format has"
    return out


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        import xllamacpp  # optional: the extra `export`

        library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
        library.ggml_quantize_chunk.restype = ctypes.c_size_t
    except (ImportError, OSError, AttributeError) as error:
        raise ExportError("gguf.needs_ggml", where="exports: quantize", said=str(error)) from error
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def package() -> Any:
    try:
        import gguf  # optional: the extra `export`
    except ImportError as error:
        raise ExportError("gguf.needs_package", where="exports: gguf", said=str(error)) from error
    return gguf
