"""What a worker writes down about each request: one line before the first byte of an answer, one after the last.

Each line is hashed together with the one before (as `run/audit.py` does), a file a worker and start. A line is written
with one system call, so a killed process loses nothing that was answered; what the machine loses is bounded by the
`sync` interval. Usage is folded from these lines and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["done", "aborted", "failed", "refused", "lost"]


@dataclass(frozen=True, slots=True)
class Opening:
    """What is known before the first byte."""

    id: str
    time: float
    key: str
    model: str
    lens: str
    """The immutable name that answers."""
    replica: str
    reserved_tokens: int
    kind: str


@dataclass(frozen=True, slots=True)
class Closing:
    """What is known after the last byte. `is_counted` is False where the engine gave no usage and tokens were counted
    from its events."""

    id: str
    time: float
    outcome: Outcome
    status: int
    prompt_tokens: int
    answer_tokens: int
    is_counted: bool
    first_s: float
    whole_s: float
    error: str = ""


class Journal(Protocol):
    def opened(self, opening: Opening) -> None: ...

    def closed(self, closing: Closing) -> None: ...
