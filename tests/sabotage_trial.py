"""One trained model on trial: what its exports promise, as they are and spoilt, before the program that reads them.

`bench/sabotage.py` counts over families and kinds of harm; `tests/numerics/test_sabotage.py` looks at a few closely.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path

from danlu.exports.parity import Check
from danlu.exports.proof import Bench, ask_all, prove_reader, set_up
from danlu.exports.readers import READERS
from danlu.exports.readers.reader import Place
from sabotage_harms import HARMS
from sabotage_kit import (
    Harm,
    Pupil,
    base_gguf,
    draft_of,
    make_pupil,
    promise_of,
    write,
    write_honestly,
)


class Trial:
    """A pupil of a family, and for each kind what its reader is held to, measured once."""

    def __init__(self, family: str, folder: Path, *, seed: int = 0) -> None:
        self.folder = folder
        self.pupil: Pupil = make_pupil(family, folder / "pupil", seed=seed)
        self._benches: dict[str, Bench] = {}

    def bench(self, kind: str) -> Bench:
        if kind not in self._benches:
            self._benches[kind] = set_up(self.pupil.subject, promise_of(self.pupil, kind, self.folder))
        return self._benches[kind]

    def prove(self, folder: Path, bench: Bench, *, until_failed: bool = False) -> list[Check]:
        """The reader's checks alone; with `until_failed` the first that fails is the last."""
        reader = READERS.load(bench.promise.readers[0])()
        if not until_failed:
            return prove_reader(reader, self.pupil.subject, folder, bench)
        checks: list[Check] = []
        with contextlib.closing(reader.open(Place(folder, bench.promise.beside))) as reading:
            for check in ask_all(reader, reading, self.pupil.subject, bench):
                checks.append(check)
                if check.verdict == "fail":
                    break
        return checks

    def honest(self, kind: str) -> list[Check]:
        folder = self.folder / "honest" / kind
        try:
            return self.prove(write_honestly(self.pupil, kind, folder), self.bench(kind))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def spoilt(self, kind: str, harm: Harm, *, until_failed: bool = False) -> list[Check] | None:
        """None where there is nothing to spoil in this family. An adapter on another base is what it always was: what
        lies beside it is spoilt."""
        draft, bench, folder = draft_of(self.pupil), self.bench(kind), self.folder / "spoilt"
        if harm(draft) is False:
            return None
        if harm is HARMS["another base"] and not bench.promise.is_merged:
            stranger = self.pupil.stranger
            if kind == "lora gguf":
                stranger = base_gguf(self.pupil, stranger, self.folder / "stranger.gguf")
            bench = replace(bench, promise=replace(bench.promise, beside=stranger))
        try:
            return self.prove(write(draft, kind, folder), bench, until_failed=until_failed)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
