"""Whether journals can be believed: each line follows from the one before, each file from the worker's file before it,
and both from heads that were written down elsewhere (`danlu audit head --anchor`).

A chain shows that a line was changed, taken out or put in, and that a file between two others is gone. That the last
lines or the last file were cut off is seen by anchors alone. A line without its end is a crash, not a crime.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from danlu.serving.journal import START, chained, journals, parted, tail

Fault = Literal["broken", "chain", "headless", "gone", "cut_off", "rewritten"]
Pins = Mapping[str, Mapping[int, str]]
"""Hashes that must stand at a line, by journal."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """`line` counts from 1, 0 is the file as a whole; `n` is the number that its line has or should have."""

    journal: str
    what: Fault
    line: int = 0
    n: int = 0


@dataclass(frozen=True, slots=True)
class Chain:
    """One file: what it holds and where it ends. `is_torn`: its last line has no end."""

    journal: str
    num_lines: int
    head: str
    is_torn: bool
    flaws: tuple[Flaw, ...]


@dataclass(slots=True)
class _Walk:
    journal: str
    pins: Mapping[int, str]
    n: int = -1
    head: str = START
    flaws: list[Flaw] = field(default_factory=list)

    def step(self, number: int, line: bytes) -> None:
        try:
            body, claimed = parted(line)
            told = orjson.loads(body)
            n, what = int(told["n"]), told["what"]
        except (ValueError, KeyError, TypeError):
            self.flaws.append(Flaw(self.journal, "broken", number, self.n + 1))
            self.n += 1
            return
        if n != self.n + 1:
            self.flaws.append(Flaw(self.journal, "chain", number, n))
        elif chained(self.head, body) != claimed:
            self.flaws.append(Flaw(self.journal, "broken", number, n))
        if number == 1 and (n, what) != (0, "began"):
            self.flaws.append(Flaw(self.journal, "headless", number, n))
        if self.pins.get(n, claimed) != claimed:
            self.flaws.append(Flaw(self.journal, "rewritten", number, n))
        self.n, self.head = n, claimed


def verify(folder: Path, anchored: Pins | None = None) -> list[Chain]:
    """All journals of a folder, in order; those that are named but gone have a flaw and nothing else."""
    pins = _merged(anchored or {}, _links(folder))
    found = [_verified(path, pins.get(path.stem, {})) for path in journals(folder)]
    gone = sorted(pins.keys() - {chain.journal for chain in found})
    return found + [Chain(name, 0, START, False, (Flaw(name, "gone"),)) for name in gone]


def heads(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(journal, number, hash) of the last whole line of each."""
    for path in journals(folder):
        n, head = tail(path)
        if n >= 0:
            yield path.stem, n, head


def _verified(path: Path, pins: Mapping[int, str]) -> Chain:
    walk, is_torn, number = _Walk(path.stem, pins), False, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                walk.step(number, line[:-1])
            else:
                is_torn = True
    walk.flaws += [Flaw(path.stem, "cut_off", 0, n) for n in pins if n > walk.n]
    return Chain(path.stem, number - is_torn, walk.head, is_torn, tuple(walk.flaws))


def _links(folder: Path) -> dict[str, dict[int, str]]:
    """What first lines say of the files before them. A broken one says nothing here: the walk tells of it."""
    found: dict[str, dict[int, str]] = {}
    for path in journals(folder):
        with path.open("rb") as file:
            line = file.readline().removesuffix(b"\n")
        try:
            after = orjson.loads(parted(line)[0]).get("after")
            if after is not None:
                name, n, head = after
                if int(n) >= 0:
                    found.setdefault(str(name), {})[int(n)] = str(head)
        except (ValueError, AttributeError, TypeError):
            continue
    return found


def _merged(*all_pins: Pins) -> dict[str, dict[int, str]]:
    """Where two disagree the first stands: an anchor weighs more than what a file says of another."""
    merged: dict[str, dict[int, str]] = {}
    for pins in reversed(all_pins):
        for name, known in pins.items():
            merged.setdefault(name, {}).update(known)
    return merged


def flaws_of(chains: Sequence[Chain]) -> list[Flaw]:
    return [flaw for chain in chains for flaw in chain.flaws]


def to_json(chain: Chain) -> dict[str, Any]:
    told = [{"what": flaw.what, "line": flaw.line, "n": flaw.n} for flaw in chain.flaws]
    return {"journal": chain.journal, "lines": chain.num_lines, "head": chain.head, "torn": chain.is_torn,
            "problems": told}  # fmt: skip
