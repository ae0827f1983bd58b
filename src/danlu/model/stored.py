"""A checkpoint folder's tensors by the names of the weights they hold, whether a weight is one tensor or packed in
several. Files are mapped, tensors read when asked for. Safetensors only.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import safe_open
from torch import Tensor

from danlu.core.errors import ModelError
from danlu.model import bnb
from danlu.model.shards import Entry, find_shards, read_header
from danlu.ops.nf4 import NF4, reference_dequantise

LOADABLE = {"F64", "F32", "F16", "BF16"}


def is_quantized(folder: Path) -> bool:
    """Whether a checkpoint holds codes; False for a folder without weights."""
    return any(folder.glob("*.safetensors")) and Stored(folder).is_quantized


class Stored:
    """`names` are the weights' names in the files' order. Use it in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, tuple[Path, Entry]] = {}
        for path in find_shards(folder):
            for name, entry in read_header(path).items():
                self._entries[name] = (path, entry)
        self._stack = ExitStack()
        self._open: dict[Path, Any] = {}
        self.is_quantized = any(name.endswith(bnb.STATE) for name in self._entries)
        self.names = [name for name in self._entries if not self._is_part(name)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.clear()
        self._stack.close()

    def path(self, name: str) -> Path:
        return self._entries[name][0]

    def is_packed(self, name: str) -> bool:
        return name + bnb.STATE in self._entries

    def read(self, name: str) -> Tensor | NF4:
        """As it lies in the file. ModelError for a format that is not known here."""
        if self.is_packed(name):
            return bnb.read_packed(name, self._find, self.path(name))
        path, entry = self._entries[name]
        if entry.dtype not in LOADABLE:
            raise ModelError("model.quantized", where=str(path), tensor=name, dtype=entry.dtype)
        return self._tensor(name)

    def read_plain(self, name: str) -> Tensor:
        """The same, dequantised in fp32 where it is packed."""
        found = self.read(name)
        return reference_dequantise(found) if isinstance(found, NF4) else found

    def shape(self, name: str) -> tuple[int, ...]:
        if self.is_packed(name):
            packed = self.read(name)
            assert isinstance(packed, NF4), "a packed weight"
            return packed.shape
        return self._entries[name][1].shape

    def _is_part(self, name: str) -> bool:
        stem = next((name.removesuffix(part) for part in bnb.PARTS if name.endswith(part)), None)
        return stem is not None and stem in self._entries

    def _find(self, name: str) -> Tensor | None:
        return self._tensor(name) if name in self._entries else None

    def _tensor(self, name: str) -> Tensor:
        path = self.path(name)
        if path not in self._open:
            self._open[path] = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        tensor: Tensor = self._open[path].get_tensor(name)
        return tensor
