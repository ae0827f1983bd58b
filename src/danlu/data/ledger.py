"""What happened to every input row. Nothing is read without ending here: used, changed or rejected.

`read = used + rejected`; `changed` rows are used rows whose text was touched (decoded with replacement, trimmed, ...).
Later counts (cut, EOS lost, double BOS, fully masked) are added when rows become tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from danlu.core.files import printable
from danlu.core.messages import say

RAW_CHARACTERS = 2000
RAW_ROWS = 20_000
CHOSEN = frozenset({"duplicate", "near_duplicate", "like_held_out", "no_stage_wants_it", "contaminated"})
"""Reasons that are the recipe's choice and no fault of the data, whoever gives them."""
FAULTFINDERS = frozenset({"read", "encode"})
"""Stages whose refusals speak of damage; what cleaners, privacy and twins leave out, the recipe asked them to."""


def is_fault(stage: str, reason: str) -> bool:
    """Whether a row refused so counts towards `data.max_rejected` and against the data in the report."""
    return stage in FAULTFINDERS and reason not in CHOSEN


@dataclass(frozen=True, slots=True)
class Entry:
    """One row's fate: `reason` is a catalogue key of the room `ledger` (without the room), `values` fill it."""

    file: str
    line: int
    reason: str
    values: dict[str, Any] = field(default_factory=dict)
    raw: str = ""
    """The refused row as it stood, capped; for the rejects file only."""
    row: int = 0
    """Tells rows apart that stand on one line: a count that differs from row to row."""

    @property
    def where(self) -> str:
        """`file:line`; line 0 speaks of the file as a whole."""
        return f"{self.file}:{self.line}" if self.line else self.file

    @property
    def text(self) -> str:
        """The reason as a sentence, in the reader's language."""
        return say(f"ledger.{self.reason}", **self.values)

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "line": self.line,
            "code": self.reason,
            "reason": self.text,
            "values": self.values,
        }


@dataclass(slots=True)
class Ledger:
    """Counts and entries of one reading; `counts` are the later stages' (names are documented in docs/reference.md)."""

    num_read: int = 0
    num_used: int = 0
    rejects: list[Entry] = field(default_factory=list)
    changes: list[Entry] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    remarks: list[Entry] = field(default_factory=list)
    """What is worth knowing of a source as a whole; each once. Kept as keys, for whoever reads may speak another
    language than whoever read."""
    flags: Counter[str] = field(default_factory=Counter)
    """Rows that stay and are worth a look, by reason."""
    most: int | None = None
    """Most entries of either list; those beyond it are counted by reason alone, but for the first of a reason."""
    unlisted_rejects: Counter[str] = field(default_factory=Counter)
    unlisted_changes: Counter[str] = field(default_factory=Counter)
    num_unlisted_changed: int = 0
    """Rows of which no change is listed."""

    def use(self, num_rows: int = 1) -> None:
        self.num_read += num_rows
        self.num_used += num_rows

    def reject(self, file: str, line: int, reason: str, *, raw: str = "", **values: Any) -> None:
        """A row that was read but cannot be used; `raw` is kept for the rejects file while there are few."""
        self.num_read += 1
        keep = RAW_CHARACTERS if len(self.rejects) < RAW_ROWS else 0
        self.list_reject(Entry(file, line, reason, _printable(values), raw[:keep]))

    def revoke(self, file: str, line: int, reason: str, **values: Any) -> None:
        """A row counted as used that a later stage has to refuse (over-length, fully masked, ...)."""
        self.num_used -= 1
        self.list_reject(Entry(file, line, reason, values))

    def change(self, file: str, line: int, reason: str, *, row: int = 0, **values: Any) -> None:
        """A used row whose content was touched; one row may have several changes."""
        self.list_changes([Entry(file, line, reason, _printable(values), row=row)])

    def list_reject(self, entry: Entry) -> None:
        """An entry whose row is counted elsewhere."""
        if _is_listed(self.rejects, self.unlisted_rejects, entry.reason, self.most):
            self.rejects.append(entry)
        else:
            self.unlisted_rejects[entry.reason] += 1

    def list_changes(self, entries: Sequence[Entry]) -> None:
        """All changes of one row."""
        num_listed = len(self.changes)
        for entry in entries:
            if _is_listed(self.changes, self.unlisted_changes, entry.reason, self.most):
                self.changes.append(entry)
            else:
                self.unlisted_changes[entry.reason] += 1
        if entries and len(self.changes) == num_listed:
            self.num_unlisted_changed += 1

    def remark(self, file: str, reason: str, **values: Any) -> None:
        """Something of a whole source that no count tells."""
        entry = Entry(file, 0, reason, _printable(values))
        if entry not in self.remarks:
            self.remarks.append(entry)

    @property
    def notes(self) -> list[str]:
        """The remarks, in the reader's language."""
        return [str(entry) for entry in self.remarks]

    @property
    def num_rejected(self) -> int:
        return len(self.rejects) + self.unlisted_rejects.total()

    @property
    def num_changed(self) -> int:
        return len({(entry.file, entry.line, entry.row) for entry in self.changes}) + self.num_unlisted_changed

    @property
    def rejected_ratio(self) -> float:
        return self.num_rejected / self.num_read if self.num_read else 0.0

    @property
    def reasons(self) -> Counter[str]:
        """How often each reason led to a rejection."""
        return Counter(entry.reason for entry in self.rejects) + self.unlisted_rejects

    def top_reasons(self, num: int = 3) -> list[tuple[str, int, Entry]]:
        """The most frequent reasons for rejection: (reason, how often, the first entry)."""
        first = {entry.reason: entry for entry in reversed(self.rejects)}
        return [(reason, count, first[reason]) for reason, count in self.reasons.most_common(num)]

    def merge(self, other: Ledger) -> None:
        self.num_read += other.num_read
        self.num_used += other.num_used
        self.rejects += other.rejects
        self.changes += other.changes
        self.counts.update(other.counts)
        self.remarks += [entry for entry in other.remarks if entry not in self.remarks]
        self.flags.update(other.flags)
        self.unlisted_rejects.update(other.unlisted_rejects)
        self.unlisted_changes.update(other.unlisted_changes)
        self.num_unlisted_changed += other.num_unlisted_changed

    def check(self) -> None:
        assert self.num_read == self.num_used + self.num_rejected, "a row was neither used nor rejected"

    def to_json(self) -> dict[str, Any]:
        self.check()
        return {
            "rows": {
                "read": self.num_read,
                "used": self.num_used,
                "changed": self.num_changed,
                "rejected": self.num_rejected,
            },
            "reasons": dict(self.reasons.most_common()),
            "flags": dict(self.flags.most_common()),
            "rejects": [entry.to_json() for entry in self.rejects],
            "changes": [entry.to_json() for entry in self.changes],
            "counts": dict(self.counts),
            "notes": self.notes,
            "omitted": {"rejects": self.unlisted_rejects.total(), "changes": self.unlisted_changes.total()},
        }


def _is_listed(listed: list[Entry], unlisted: Counter[str], reason: str, most: int | None) -> bool:
    """Whether there is room, or nobody has heard of this reason yet."""
    if most is None or len(listed) < most:
        return True
    return reason not in unlisted and all(entry.reason != reason for entry in listed)


def _printable(values: dict[str, Any]) -> dict[str, Any]:
    """Excerpts of broken text may hold half surrogates."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in values.items()}
