"""A SentencePiece `.model`, as far as GGUF holds of it: pieces with score and type, and how texts are normalised.

The file is one protobuf message (`sentencepiece_model.proto`); four of its fields are read here, so that no protobuf
package is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import ExportError

_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _BPE = 3, 2
_CHARSMAP, _PREFIX, _SPACES = 2, 3, 4
_NORMAL = 1


@dataclass(frozen=True, slots=True)
class Piece:
    """`kind` is the proto's number, which is GGUF's too."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceFile:
    pieces: list[Piece]
    is_bpe: bool
    adds_prefix: bool
    removes_spaces: bool
    has_charsmap: bool


def read(path: Path) -> SentencePieceFile:
    """ExportError when the file is not such a message."""
    try:
        return _read(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise ExportError("gguf.bad_pieces", where=str(path), said=str(error)) from error


def _read(content: bytes) -> SentencePieceFile:
    pieces = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == _PIECES:
            found = dict(_fields(_bytes(value)))
            score = struct.unpack("<f", _bytes(found.get(_SCORE, bytes(4))))[0]
            kind = found.get(_KIND, _NORMAL)
            assert isinstance(kind, int), "an enum is a varint"
            pieces.append(Piece(_bytes(found.get(_TEXT, b"")).decode("utf-8"), score, kind))
        elif number == _TRAINER:
            trainer = dict(_fields(_bytes(value)))
        elif number == _NORMALIZER:
            normalizer = dict(_fields(_bytes(value)))
    if not pieces:
        raise ValueError("no pieces")
    return SentencePieceFile(
        pieces,
        is_bpe=trainer.get(_MODEL_TYPE, 1) == _BPE,
        adds_prefix=bool(normalizer.get(_PREFIX, 1)),
        removes_spaces=bool(normalizer.get(_SPACES, 1)),
        has_charsmap=bool(normalizer.get(_CHARSMAP, b"")),
    )


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field of a message: a varint as int, what has a length or a fixed size as bytes."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        match key & 7:
            case 0:
                number, at = _varint(content, at)
                yield key >> 3, number
                continue
            case 1:
                size = 8
            case 2:
                size, at = _varint(content, at)
            case 5:
                size = 4
            case other:
                raise ValueError(f"wire type {other}")
        if at + size > len(content):
            raise ValueError("cut off")
        yield key >> 3, content[at : at + size]
        at += size


def _varint(content: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
        shift += 7


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number where bytes belong")
    return value
