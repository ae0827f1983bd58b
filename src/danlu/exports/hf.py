"""Export `merged`: a Hugging Face folder that needs nothing beside it; transformers loads it unchanged.

A low-rank adapter is folded into the base's own files, read anew and checked against the digest it was trained on:
added in fp32, rounded once to the files' dtype. The living model stays as it is. For encoders see `classes.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from danlu.engines.classes import ClassEngine
from danlu.exports.classes import prove_classes, write_classes
from danlu.exports.export import Proof, Subject
from danlu.exports.merging import prove_merged, write_merged
from danlu.exports.reload import stored_dtype
from danlu.model.build import DTYPES
from danlu.model.quantized import num_params


class MergedExport:
    kind: Literal["merged"] = "merged"

    def __init__(self, dtype: str = "auto") -> None:
        """`dtype` of the files; "auto" is that of the base's."""
        self.dtype = dtype

    def size_bytes(self, subject: Subject) -> int:
        model = subject.engine.model
        return num_params(model) * self.stored(subject).itemsize + 2**24

    def stored(self, subject: Subject) -> torch.dtype:
        return stored_dtype(subject.engine.model) if self.dtype == "auto" else DTYPES[self.dtype]

    def write(self, subject: Subject, folder: Path) -> None:
        if isinstance(subject.engine, ClassEngine):
            write_classes(subject.engine, folder, self.stored(subject))
        else:
            write_merged(subject, folder, self.stored(subject))

    def prove(self, subject: Subject, folder: Path) -> Proof:
        if isinstance(subject.engine, ClassEngine):
            return prove_classes(subject, subject.engine, folder, self.stored(subject))
        return prove_merged(subject, folder, self.stored(subject), ("danlu", "transformers"))
