"""Objects through a pipe between a process and its own children: length, then pickle. Never from anybody else."""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any

_LENGTH = struct.Struct("<Q")


def send(end: IO[bytes], thing: Any) -> None:
    packed = pickle.dumps(thing, protocol=pickle.HIGHEST_PROTOCOL)
    end.write(_LENGTH.pack(len(packed)) + packed)
    end.flush()


def receive(end: IO[bytes]) -> Any:
    """EOFError when the other side is gone."""
    head = end.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    packed = end.read(size)
    if len(packed) < size:
        raise EOFError
    return pickle.loads(packed)  # noqa: S301  from our own child or parent
