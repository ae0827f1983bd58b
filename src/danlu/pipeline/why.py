"""why: where a sample came from and where it went.

Back: item of a dataset, sample, what stages did to it, document, page and characters, the samples and evidence it was
made from. Forward: every run, checkpoint and artefact of the datasets that hold it. A sample is named by its id (or the
beginning of it), by `file:line`, or by a fragment of its text. Only what prepare kept is read: text that privacy masked
is shown masked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.core.files import read_json, sha256_file
from danlu.core.messages import listed, say
from danlu.data.certificate import TEST, TRAIN, UNUSED, VALIDATION
from danlu.data.flow.account import DROPPED, DUPLICATE, LIKE_HELD_OUT, NEAR_DUPLICATE, STAYS, UNWANTED
from danlu.data.flow.kept import Kept, open_kept, rows_gone
from danlu.data.flow.marks import Mark
from danlu.data.flow.piece import Row
from danlu.data.flow.store import Store
from danlu.data.identity import DIGITS, PREFIX
from danlu.data.ledger import Entry
from danlu.data.sample import Origin, Sample
from danlu.data.texts import texts_of
from danlu.pipeline.furnace import STORE
from danlu.pipeline.parts import REPLAY
from danlu.pipeline.provenance import MANIFEST, changed_manifests
from danlu.run.run import Run, list_runs

MOST = 20
"""Samples that are told of; a fragment such as "the" is in too many."""
SHOWN_CHARS = 600
_PARTS = {TRAIN: "train", VALIDATION: "validation", TEST: "test", REPLAY: "replay", UNUSED: ""}
_TWINS = {
    DUPLICATE: ("duplicate", "flow.why_twin"),
    NEAR_DUPLICATE: ("near_duplicate", "flow.why_twin"),
    LIKE_HELD_OUT: ("like_held_out", "flow.why_like_held_out"),
}


@dataclass(slots=True)
class Answer:
    """What is known of everything that fits: one JSON object per sample and run, and how many more there are."""

    wanted: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    num_more: int = 0
    rows_gone: list[str] = field(default_factory=list)
    """Runs that could not be looked through: the shards of their rows have been removed."""
    changed: list[dict[str, Any]] = field(default_factory=list)
    """Manifests that are not as they were written: what is told of these runs cannot be relied on."""

    def to_json(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted, "samples": self.samples, "more": self.num_more, "rows_gone": self.rows_gone,
            "changed": self.changed,
        }  # fmt: skip


def why(wanted: str, runs: Path, *, only: Sequence[Path] = ()) -> Answer:
    """Look through all prepared runs, newest first, or `only` these. RunError when nothing fits, or when
    nothing does in those whose rows are still there, or for nothing at all, which would fit every row."""
    if not wanted.strip():
        raise RunError("flow.nothing_asked")
    answer = Answer(wanted)
    digests: dict[Path, str] = {}  # of sources, which many runs may share
    folders = list(only) or list_runs(runs)
    for folder in folders:
        run = Run.open(folder)
        store = Store(run.folder.parent / STORE)
        if rows_gone(run.path("dataset"), store):
            answer.rows_gone.append(run.name)
            continue
        kept = open_kept(run.path("dataset"), store)
        if kept is not None and run.outcome("prepare") is not None:
            _Tracing(run, kept, folders, digests).collect(answer)
    if not answer.samples and answer.rows_gone:
        raise RunError("flow.rows_gone", where=str(runs / STORE), runs=listed(answer.rows_gone))
    if not answer.samples:
        raise RunError("flow.nothing_fits", where=str(runs), given=wanted, runs=len(folders))
    return answer


class _Tracing:
    """One run's rows, and what was made of them."""

    def __init__(self, run: Run, kept: Kept, folders: Sequence[Path], digests: dict[Path, str]) -> None:
        self.run, self.kept, self.folders = run, kept, folders
        self.digests = digests

    def collect(self, answer: Answer) -> None:
        is_meant = _name_test(answer.wanted)
        found = list(self.kept.rows(is_meant)) if is_meant else list(_holding(answer.wanted, self.kept))
        entries = [entry for piece in self.kept.pieces for entry in piece.refused if _is_place(answer.wanted, entry)]
        room = max(0, MOST - len(answer.samples))
        answer.num_more += max(0, len(found) - room)
        if not found and not entries:
            return
        answer.changed += [error.to_json() for error in changed_manifests(self.run)]
        chosen = found[:room]
        ids = {row.id for _, row in chosen}
        twins = {int(self.kept.columns["twin"][number]) for number, _ in chosen}
        names = {parent for _, row in chosen if row.sample for parent in row.sample.tags.get("parents", ())}
        related = self._related(twins, names)
        items = self._items(ids)
        for number, row in chosen:
            answer.samples.append(self._tell(number, row, related, items.get(row.id, [])))
        answer.samples += [self._tell_refused(entry) for entry in entries[: max(0, room - len(chosen))]]

    def _tell(self, number: int, row: Row, related: _Related, items: list[dict[str, Any]]) -> dict[str, Any]:
        sample = row.sample
        parents = [str(parent) for parent in sample.tags.get("parents", ())] if sample else []
        return {
            "run": self.run.name,
            "id": row.id or None,
            "kind": sample.kind if sample else None,
            "text": shown_text(sample) if sample else None,
            "part": _PARTS[int(self.kept.columns["part"][number])],
            "made_by": sample.tags.get("made_by") if sample else None,
            "level": sample.tags.get("level") if sample else None,
            "flags": list(sample.tags.get("flags", ())) if sample else [],
            "stages": [_told_mark(mark) for mark in row.marks],
            "left_out": self._left_out(number, row, related),
            "origin": self._origin(row.origin),
            "parents": [{"id": name, **related.by_id.get(name, {})} for name in parents],
            "evidence": [self._evidence(proof) for proof in sample.tags.get("evidence", ())] if sample else [],
            "items": items,
            "used_by": self._used_by if items else [],
        }

    def _tell_refused(self, entry: Entry) -> dict[str, Any]:
        reason = {"reason": entry.reason, "text": say(f"ledger.{entry.reason}", **entry.values)}
        return {
            "run": self.run.name, "id": None, "kind": None, "text": None, "part": "", "made_by": None, "level": None,
            "flags": [], "stages": [], "left_out": reason, "origin": self._origin(Origin(entry.file, entry.line)),
            "parents": [], "evidence": [], "items": [], "used_by": [],
        }  # fmt: skip

    def _left_out(self, number: int, row: Row, related: _Related) -> dict[str, Any] | None:
        verdict = int(self.kept.columns["left_out"][number])
        if verdict == STAYS:
            return None
        if verdict == DROPPED:
            mark = row.marks[-1]
            return {"reason": mark.fate.reason, "text": say(f"ledger.{mark.fate.reason}", **mark.fate.values)}
        if verdict == UNWANTED:
            kind = row.sample.kind if row.sample else ""
            text = say("ledger.no_stage_wants_it", kind=kind, wanted=self.kept.wanted)
            return {"reason": "no_stage_wants_it", "text": text}
        reason, words = _TWINS[verdict]
        twin = related.by_number.get(int(self.kept.columns["twin"][number]), {})
        return {"reason": reason, "twin": twin, "text": say(words, where=twin.get("where", "?"))}

    def _origin(self, origin: Origin) -> dict[str, Any]:
        """Where it was read, and whether the file still is what it was."""
        listed = {one["file"]: one["sha256"] for one in self._inputs}
        name = next((file for file in listed if origin.file == file or origin.file.startswith(f"{file}#")), None)
        path = Path(name) if name else None
        state = "unknown"
        if name and path:
            state = "missing" if not path.is_file() else "same" if self._digest(path) == listed[name] else "changed"
        return {
            "file": origin.file, "line": origin.line, "page": origin.page, "start": origin.start, "end": origin.end,
            "document": origin.document or (listed[name] if name else None), "state": state,
        }  # fmt: skip

    def _digest(self, path: Path) -> str:
        if path not in self.digests:
            self.digests[path] = sha256_file(path)
        return self.digests[path]

    @cached_property
    def _inputs(self) -> list[dict[str, Any]]:
        path = self.run.path("dataset", MANIFEST)
        return list(read_json(path)["parts"]["inputs"]) if path.is_file() else []

    def _evidence(self, proof: dict[str, Any]) -> dict[str, Any]:
        names = {one["sha256"]: one["file"] for one in self._inputs}
        return {**proof, "file": names.get(str(proof.get("document")))}

    def _related(self, numbers: set[int], names: set[str]) -> _Related:
        """Twins and parents of the samples found, in one more walk over the rows."""
        related = _Related()
        if not numbers and not names:
            return related
        known = {int(number) for number in numbers}
        for number, row in self._rows_of(known, names):
            if number in known or row.id in names:
                told = {"id": row.id, "where": str(row.origin), "page": row.origin.page, "start": row.origin.start,
                        "end": row.origin.end, "text": shown_text(row.sample) if row.sample else None}  # fmt: skip
                related.by_number[number] = told
                related.by_id.setdefault(row.id, told)
        return related

    def _rows_of(self, numbers: set[int], names: set[str]) -> Iterator[tuple[int, Row]]:
        """Rows by number or id, only they being opened."""
        counted = itertools.count()
        return self.kept.rows(lambda name, _file, _line: next(counted) in numbers or name in names)

    def _items(self, ids: set[str]) -> dict[str, list[dict[str, Any]]]:
        """Items of the run's datasets that were made of these samples."""
        found: dict[str, list[dict[str, Any]]] = {}
        for stage in (self.run.outcome("prepare") or {}).get("stages", ()):
            folder = self.run.path("dataset", stage)
            manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else {}
            for part in ("train", "validation"):
                for number, name in _samples_in(folder / part / "rows.jsonl", ids):
                    found.setdefault(name, []).append(
                        {"stage": stage, "part": part, "item": number, "dataset": manifest.get("id")}
                    )
        return found

    @cached_property
    def _used_by(self) -> list[dict[str, Any]]:
        """Checkpoints and artefacts of every run that has the same datasets."""
        own = _dataset_digests(self.run)
        found: list[dict[str, Any]] = []
        for folder in self.folders:
            run = Run.open(folder)
            if not own & _dataset_digests(run):
                continue
            checkpoints = [str(path) for path in sorted(run.path("checkpoints").glob("*")) if path.is_dir()]
            artifacts = [
                {"kind": path.parent.name, "folder": str(path.parent), "digest": read_json(path).get("digest")}
                for path in sorted(run.path("artifacts").glob("*/artifact.json"))
            ]
            found.append({"run": run.name, "checkpoints": checkpoints, "artifacts": artifacts})
        return found


@dataclass(slots=True)
class _Related:
    """Rows that others speak of: by number (twins) and by id (parents)."""

    by_number: dict[int, dict[str, Any]] = field(default_factory=dict)
    by_id: dict[str, dict[str, Any]] = field(default_factory=dict)


def shown_text(sample: Sample) -> str:
    """The sample's texts, cut."""
    text = "\n".join(text for text in texts_of(sample) if text)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"


def _name_test(wanted: str) -> Callable[[str, str, int], bool] | None:
    """Whether a row of this id, file and line is meant; None where a piece of text is looked for."""
    if wanted.startswith(PREFIX) and 6 <= len(wanted) <= len(PREFIX) + DIGITS and wanted[2:].isalnum():
        return lambda name, _file, _line: name.startswith(wanted)
    file, colon, line = wanted.rpartition(":")
    if colon and line.isdigit():
        number = int(line)
        return lambda _name, stands, at: at == number and _is_file(file, stands)
    return None


def _holding(wanted: str, kept: Kept) -> Iterator[tuple[int, Row]]:
    for number, row in kept.rows():
        if row.sample is not None and any(wanted in text for text in texts_of(row.sample)):
            yield number, row


def _is_place(wanted: str, entry: Entry) -> bool:
    file, colon, line = wanted.rpartition(":")
    return bool(colon) and line.isdigit() and entry.line == int(line) and _is_file(file, entry.file)


def _is_file(given: str, stands: str) -> bool:
    """The whole path, or as much of its end as was given."""
    return stands == given or stands.endswith(f"/{given}")


def _samples_in(path: Path, ids: set[str]) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        return
    wanted = [name.encode() for name in ids if name]
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if any(name in line for name in wanted) and (name := orjson.loads(line).get("sample")) in ids:
                yield number, name


def _dataset_digests(run: Run) -> set[str]:
    """Digests of the run's datasets."""
    stages = (run.outcome("prepare") or {}).get("stages", ())
    paths = [run.path("dataset", stage, "format.json") for stage in stages]
    return {str(read_json(path)["digest"]) for path in paths if path.is_file()}


def _told_mark(mark: Mark) -> dict[str, Any]:
    return {"stage": mark.stage, "action": mark.fate.action, "reason": mark.fate.reason,
            "text": say(f"ledger.{mark.fate.reason}", **mark.fate.values)}  # fmt: skip
