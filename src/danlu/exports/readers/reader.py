"""The contract of a reader: open a folder that was written, then say what it makes of it.

A Reading is a `parity.Witness` (greedy continuations and logits of ready token ids) that also renders questions with
the folder's own tokenizer and template. Closing it gives its memory, or its process, back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from danlu.engines.engine import Question

Rounding = Literal["f32", "f16", "bf16", "q8_0"]
"""Numbers that files hold, or that a program multiplies in. Coarser ones have no rule of ours: see `rounding.py`."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is opened: the written folder, the base that an adapter needs beside it (None: it needs none), and with
    which precision and where a program that leaves the choice is to compute."""

    folder: Path
    beside: Path | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    context: int = 2048
    """Tokens of the longest text that will be asked for."""
    python: str | None = None
    """Of an environment of its own, for a program that lives in one; None: the program is looked for on the path."""
    threads: int = 1
    """Of a program that computes in threads of its own; a proof wants one order of sums."""


class Reading(Protocol):
    name: str
    is_partial: bool
    """Logits that the program does not tell are NaN, and rows before those that were asked for are missing."""

    def prompt_ids(self, question: Question, *, enable_thinking: bool = True) -> list[int]:
        """What the program makes of a conversation, generation prompt included."""
        ...

    def continue_ids(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Greedy, with the program's own stopping; the stop token included."""
        ...

    def logits(self, sequences: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """logits_TV (or log-probabilities) in fp32, rows up to each sequence's last."""
        ...

    def close(self) -> None: ...


class Reader(Protocol):
    """`name` is its name on the shelf, `packages` what must be installed."""

    name: str
    packages: tuple[str, ...]
    halves_gelu: bool
    """It looks GELU up in a table of half-precision numbers."""

    def open(self, place: Place) -> Reading:
        """ExportError or EngineError when the program refuses the folder: that is a finding."""
        ...

    def arithmetic(self, files: Rounding) -> Rounding:
        """In what the program rounds the inputs of products with weights that lie in `files`, when asked for fp32."""
        ...
