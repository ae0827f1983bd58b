"""Acts on the audit log and on keys: note what runs have finished, move findings to a new key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import DataError
from danlu.core.files import read_json, sha256_json
from danlu.data.privacy.forgotten import Forgotten
from danlu.data.privacy.keys import Keyring
from danlu.data.privacy.records import FOLDER, read_records, write_records
from danlu.recipe.privacy import PrivacySection
from danlu.run.audit import NAME, AuditLog, Problem, facts_of
from danlu.run.run import list_runs

FORGET = "forget"
"""The folder beside the runs that holds lists to forget."""
DEFAULT_KEYS = Path(str(PrivacySection.model_fields["key_file"].default))


@dataclass(frozen=True, slots=True)
class Rotation:
    """`moved` and `lost` count findings by run; `keys` are the gone keys that seal the lost ones."""

    key: str
    moved: dict[str, int]
    lost: dict[str, int]
    keys: tuple[str, ...]
    destroyed: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"key": self.key, "moved": self.moved, "lost": self.lost, "gone": list(self.keys),
                "destroyed": list(self.destroyed)}  # fmt: skip


@dataclass(slots=True)
class _Count:
    moved: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    gone: set[str] = field(default_factory=set)


def log_of(runs: Path) -> AuditLog:
    """The audit log of a folder of runs."""
    return AuditLog(runs / NAME)


def note_acts(runs: Path) -> AuditLog:
    """Enter every finished act of every run that the log has never heard of, by the digest of its record. A record
    other than the one it holds is not entered: that is for `check_acts` to tell."""
    log = log_of(runs)
    missing = {(folder.name, path.stem): path for folder, path in _acts(runs)}
    for entry in log.newest() if missing else ():
        if "record" in entry.object:
            missing.pop((str(entry.object.get("run")), entry.action), None)
        if not missing:  # asked at once: the next entry may be far off
            break
    for (run, act), path in missing.items():
        log.append(act, facts_of(run, read_json(path)))
    return log


def check_acts(runs: Path) -> list[Problem]:
    """What is wrong with the records of finished acts: each must be the one that the log holds last."""
    known = _logged(log_of(runs))
    acts = list(_acts(runs))
    if acts and not known:
        return [Problem(0, "missing_log", {"count": len(acts)})]
    found = []
    for folder, path in acts:
        told = {"run": folder.name, "act": path.stem}
        if (folder.name, path.stem) not in known:
            found.append(Problem(0, "act_unknown", told))
        elif _digest_of(path) != known[folder.name, path.stem]:
            found.append(Problem(0, "act_changed", told))
    return found


def _acts(runs: Path) -> Iterator[tuple[Path, Path]]:
    return ((folder, path) for folder in sorted(list_runs(runs)) for path in sorted((folder / "acts").glob("*.json")))


def _logged(log: AuditLog) -> dict[tuple[str, str], str]:
    """The digest that the log holds last, by run and act."""
    return {
        (str(entry.object["run"]), entry.action): str(entry.object["record"])
        for entry in log.entries()
        if {"run", "record"} <= entry.object.keys()
    }


def _digest_of(path: Path) -> str | None:
    try:
        return sha256_json(read_json(path))
    except (OSError, orjson.JSONDecodeError):
        return None


def check_outside(keys: Path, runs: Path) -> None:
    """DataError when the key file lies among what may be handed on."""
    if keys.expanduser().resolve().is_relative_to(runs.resolve()):
        raise DataError("privacy.key_inside", where=str(keys), given=str(runs))


def rotate_keys(keys: Path, runs: Path, *, destroy: bool = False, reason: str = "") -> Rotation:
    """A new key for all findings under `runs`; old keys stay in the file unless `destroy`, and nothing needs them.

    Findings under a key that is gone cannot be moved: they are counted, and never again can they be looked up.
    """
    check_outside(keys, runs)
    keyring = Keyring.open(keys, create=False)
    log = note_acts(runs)
    old = keyring.ids
    fresh = keyring.rotate()
    count = _Count()
    for folder in sorted(list_runs(runs)):
        _move_run(folder, keyring, count)
    for path in lists_of(runs):
        forgotten = Forgotten.read(path)
        if keyring.has(forgotten.key):
            forgotten.under_current(keyring).write(path)
    destroyed = tuple(key for key in old if destroy)
    for key in destroyed:
        keyring.destroy(key)
    rotation = Rotation(fresh, dict(count.moved), dict(count.lost), tuple(sorted(count.gone)), destroyed)
    log.append("rotate-key", rotation.to_json(), reason=reason)
    return rotation


def lists_of(runs: Path) -> list[Path]:
    """The lists to forget beside the runs, plans left out."""
    return [path for path in sorted((runs / FORGET).glob("*.json")) if not path.name.endswith(".plan.json")]


def _move_run(folder: Path, keyring: Keyring, count: _Count) -> None:
    """File by file, each replaced whole: a rotation that is killed goes on where it stood."""
    for path in sorted(folder.joinpath(*FOLDER).glob("*.jsonl")):
        records = list(read_records(path.parent, name=path.name))
        changed = False
        for record in records:
            key = record.get("key")
            if key is None or key == keyring.current:
                continue
            if keyring.has(key):
                record |= {"mac": keyring.resealed(record["mac"], key), "key": keyring.current}
                count.moved[folder.name] += 1
                changed = True
            else:
                count.lost[folder.name] += 1
                count.gone.add(key)
        if changed:
            write_records(path, records)
