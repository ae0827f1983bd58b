"""A GGUF file's header, read with suspicion: what llama.cpp would read with less of it.

Every count and length is held against the file's own size before it is believed, every tensor's place against the
file's end; types, names and shapes are those that we know. CVE-2025-53630 and CVE-2026-27940 were sums that overflowed
there; CVE-2026-7482 read past the end. Format: GGUF version 3 (ggml's docs/gguf.md), little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.core.errors import EngineError

MAX_TENSORS, MAX_KEYS, MAX_ITEMS = 100_000, 4096, 4_000_000
MAX_NAME, MAX_TEMPLATE = 64, 512 * 1024
"""Bytes: of a tensor's name (llama.cpp keeps 64), of a chat template."""
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 24: (1, 1), 25: (1, 2), 26: (1, 4),
    30: (1, 2),
}  # fmt: skip
"""ggml's number of a type: weights in a block, bytes of it."""
_F32 = 0


@dataclass(frozen=True, slots=True)
class Header:
    """`kind` is `model` or `adapter`; `context` what the model was made for (0: not told)."""

    kind: str
    architecture: str
    context: int
    num_tensors: int
    is_f32: bool
    keys: dict[str, Any]


class _FaultError(Exception):
    """What is wrong; becomes an EngineError with the file's name."""


def check_gguf(path: Path) -> Header:
    """The header of a file that holds together. EngineError says what does not."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content).header()
    except (_FaultError, ValueError, OSError) as fault:  # ValueError: an empty file cannot be mapped
        raise EngineError("drivers.bad_gguf", where=str(path), said=str(fault)) from fault


class _Reader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._size, self._at = content, len(content), 0

    def header(self) -> Header:
        if self._take(4) != b"GGUF":
            raise _FaultError("no GGUF file")
        if (version := self._number("<I")) != 3:
            raise _FaultError(f"version {version}, expected 3")
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise _FaultError(f"{num_tensors} tensors, {num_keys} keys")
        keys: dict[str, Any] = {}
        for _ in range(num_keys):
            name = self._text(MAX_NAME * 4)
            if name in keys:
                raise _FaultError(f"{name} twice")
            keys[name] = self._value(self._number("<I"))
        types = self._tensors(num_tensors, keys)
        architecture = str(keys.get("general.architecture", ""))
        if not architecture.isascii() or not architecture.replace("-", "").replace("_", "").isalnum():
            raise _FaultError("no architecture")
        if len(str(keys.get("tokenizer.chat_template", "")).encode()) > MAX_TEMPLATE:
            raise _FaultError("the chat template is too long")
        context = keys.get(f"{architecture}.context_length", 0)
        kind = str(keys.get("general.type", "model"))
        is_f32 = all(kind == _F32 for kind in types)
        return Header(kind, architecture, context if isinstance(context, int) else 0, num_tensors, is_f32, keys)

    def _tensors(self, num_tensors: int, keys: dict[str, Any]) -> list[int]:
        places: list[tuple[int, int]] = []
        names: set[str] = set()
        types: list[int] = []
        for _ in range(num_tensors):
            name = self._text(MAX_NAME - 1)
            if name in names:
                raise _FaultError(f"tensor {name} twice")
            names.add(name)
            size, kind = self._tensor(name)
            types.append(kind)
            places.append((self._number("<Q"), size))
        alignment = keys.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 8 <= alignment <= 65_536 or alignment & (alignment - 1):
            raise _FaultError(f"alignment {alignment!r}")
        start = -(-self._at // alignment) * alignment
        end = 0
        for offset, size in sorted(places):
            if offset % alignment or offset < end or start + offset + size > self._size:
                raise _FaultError(f"a tensor of {size} bytes at {offset}, in a file of {self._size}")
            end = offset + size
        return types

    def _tensor(self, name: str) -> tuple[int, int]:
        """(bytes, type)."""
        if not 1 <= (num_axes := self._number("<I")) <= 4:
            raise _FaultError(f"{name}: {num_axes} axes")
        shape = [self._number("<Q") for _ in range(num_axes)]
        kind = self._number("<I")
        if kind not in _TYPES:
            raise _FaultError(f"{name}: type {kind}")
        block, block_bytes = _TYPES[kind]
        if not all(0 < length <= self._size * 64 for length in shape) or shape[0] % block:
            raise _FaultError(f"{name}: shape {shape}")
        return math.prod(shape) // block * block_bytes, kind

    def _value(self, kind: int, *, is_inner: bool = False) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._text(self._size)
        if kind != _ARRAY or is_inner:
            raise _FaultError(f"a value of type {kind}")
        inner, num_items = self._number("<I"), self._number("<Q")
        if num_items > MAX_ITEMS or num_items > self._size - self._at:
            raise _FaultError(f"an array of {num_items} items")
        if inner in _NUMBERS:
            length = struct.calcsize(_NUMBERS[inner])
            content = self._take(length * num_items)
            return [value for (value,) in struct.iter_unpack(_NUMBERS[inner], content)]
        return [self._value(inner, is_inner=True) for _ in range(num_items)]

    def _text(self, most: int) -> str:
        length = self._number("<Q")
        if length > most:
            raise _FaultError(f"a text of {length} bytes")
        try:
            return self._take(length).decode("utf-8", errors="strict" if most <= MAX_NAME * 4 else "replace")
        except UnicodeDecodeError as fault:
            raise _FaultError("a name that is no UTF-8") from fault

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, length: int) -> bytes:
        if length > self._size - self._at:
            raise _FaultError(f"it ends within its header ({self._size} bytes)")
        self._at += length
        return self._content[self._at - length : self._at]
