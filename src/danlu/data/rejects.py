"""What becomes of refused rows: a file that holds each of them, and the threshold above which a run does not start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import orjson

from danlu.core.errors import DataError
from danlu.core.files import printable, writing
from danlu.core.messages import say
from danlu.data.excerpts import veil
from danlu.data.ledger import Entry, Ledger


def write_rejects(rejects: Ledger | Iterable[Entry], path: Path) -> None:
    """One JSON object a line: file, line, reason, the reason's code and values, and the row as it stood, capped.

    The file is written whole or not at all, also when nothing was refused: an empty file says so. Entries are written
    as they come, however many.
    """
    with writing(path) as file:
        for entry in rejects.rejects if isinstance(rejects, Ledger) else rejects:
            file.write(orjson.dumps({**entry.to_json(), "row": printable(entry.raw)}, default=str) + b"\n")


def check_threshold(ledger: Ledger, max_rejected_ratio: float, rejects_file: Path | str = "rejects.jsonl") -> None:
    """Raises DataError when nothing can be used, or when more than the allowed share (0-1) of rows was refused."""
    reasons = "; ".join(f"{count} × {_reason(entry)}" for _, count, entry in ledger.top_reasons())
    if ledger.num_used == 0:
        raise DataError(
            "data.no_usable_rows", read=ledger.num_read, reasons=reasons or "-", rejects_file=str(rejects_file)
        )
    if ledger.rejected_ratio > max_rejected_ratio:
        raise DataError(
            "data.too_many_rejected", read=ledger.num_read, rejected=ledger.num_rejected, ratio=ledger.rejected_ratio,
            allowed=max_rejected_ratio, reasons=reasons, rejects_file=str(rejects_file),
        )  # fmt: skip


def _reason(entry: Entry) -> str:
    where = f"{entry.file}:{entry.line}" if entry.line else entry.file
    return f"{say(f'ledger.{entry.reason}', **entry.values)} ({where})"


def veiled(entry: Entry) -> Entry:
    """A refused row never came to privacy: its text is not kept, and excerpts in the reason are hidden coarsely."""
    values = {name: veil(value, 200) if isinstance(value, str) else value for name, value in entry.values.items()}
    return replace(entry, raw="", values=values)
