"""The registry: versions of what passed its gate, and the names (`prod`, `candidate`) that point at them.

One append-only file, `registry.jsonl`, beside the runs: a line a deed (`added`, `pointed`, `returned`, `withdrawn`),
folded from the top each time it is asked. So who pointed what at which version, and when, stays readable; a line torn
by a crash is no line. The audit log (`audit.jsonl`) is told of each deed before it takes effect; one that a crash kept
from doing so is told as `registry.not_done` by the next writer, so that the log and the file agree.

A version's files stand under `registry/<name>/<number>/`, as hard links where the disk knows them: danlu replaces files
and never writes into them, so a run that goes on takes nothing from a version. A version holds their digest, and is not
opened once that does not fit.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from danlu.core.errors import RunError
from danlu.core.files import dump_json, sync_folder
from danlu.core.messages import listed
from danlu.run.artifact import Manifest
from danlu.run.audit import NAME as AUDIT_LOG
from danlu.run.audit import AuditLog, now, who
from danlu.run.lock import in_turn

NAME = "registry.jsonl"
KEPT = "registry"
"""Folder of the versions' files."""
_ACTIONS = "registry."
NOT_DONE = f"{_ACTIONS}not_done"
_ALIAS = re.compile(r"[a-z][a-z0-9_\-]{0,31}")
_NAMED = re.compile(r"(?P<name>[\w][\w.\-]{0,63})(?:@(?P<alias>[a-z][a-z0-9_\-]{0,31})|:(?P<number>[1-9]\d{0,8}))?")


@dataclass(frozen=True, slots=True)
class Version:
    """What shipped under one number. `artifact` is relative to the registry's folder."""

    name: str
    number: int
    artifact: str
    digest: str
    kind: str
    run: str
    created: str
    actor: str
    parents: dict[str, str] = field(default_factory=dict)
    """Digests of recipe, dataset, base, report and checkpoint, by role: where it came from."""
    measured: dict[str, Any] = field(default_factory=dict)
    """What its gate saw: accuracy, gain with its interval, parity."""
    reason: str = ""
    is_withdrawn: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}:{self.number}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Deed:
    """A line of the file."""

    time: str
    actor: str
    deed: str
    name: str
    number: int
    alias: str = ""
    reason: str = ""
    version: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """All deeds folded: versions by name, aliases by (name, alias)."""

    versions: dict[str, list[Version]]
    aliases: dict[tuple[str, str], int]
    deeds: tuple[Deed, ...]

    def aliases_of(self, version: Version) -> list[str]:
        return sorted(
            a for (name, a), number in self.aliases.items() if (name, number) == (version.name, version.number)
        )

    def way_back(self, name: str, alias: str) -> list[int]:
        """Versions the alias left and was not taken back from, the oldest first: going back twice goes back two."""
        past: list[int] = []
        for deed in self.deeds:
            if (deed.name, deed.alias) != (name, alias):
                continue
            if deed.deed == "returned":
                while past and past.pop() != deed.number:
                    pass
            past.append(deed.number)
        return past[:-1]

    def has_pointed(self, version: Version, alias: str) -> bool:
        """Whether the alias ever meant this version."""
        return any((deed.name, deed.number, deed.alias) == (version.name, version.number, alias) for deed in self.deeds)


@dataclass(frozen=True, slots=True)
class Registry:
    """The registry in the folder of runs. Several processes may use it: writers take turns."""

    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / NAME

    def read(self) -> State:
        """All of it; a torn last line is left out. RunError where a line before the last cannot be read."""
        versions: dict[str, list[Version]] = {}
        aliases: dict[tuple[str, str], int] = {}
        deeds = tuple(self._deeds())
        for line, deed in enumerate(deeds, start=1):
            known = versions.setdefault(deed.name, [])
            if deed.deed == "added" and deed.version is not None:
                known.append(Version(**deed.version))
            if deed.number != len(known) if deed.deed == "added" else not 1 <= deed.number <= len(known):
                raise RunError("registry.damaged", where=f"{self.path}:{line}", given=f"{deed.name}:{deed.number}")
            if deed.deed in ("pointed", "returned"):
                aliases[deed.name, deed.alias] = deed.number
            elif deed.deed == "withdrawn":
                known[deed.number - 1] = replace(known[deed.number - 1], is_withdrawn=True)
        return State(versions, aliases, deeds)

    def add(self, version: Version) -> Version:
        """Give it the next number and keep its files. Who called has seen that it passed; the same artefact twice keeps
        its number."""
        with self._alone():
            state = self.read()
            for known in state.versions.get(version.name, []):
                if known.digest == version.digest and not known.is_withdrawn:
                    return known
            number = len(state.versions.get(version.name, [])) + 1
            kept = self._keep(self.folder / version.artifact, f"{KEPT}/{version.name}/{number}")
            fresh = replace(version, number=number, artifact=kept, created=now(), actor=who())
            self._write("added", fresh.name, number, reason=version.reason, version=fresh.to_json())
        return fresh

    def point(self, name: str, alias: str, number: int, *, reason: str = "") -> Version:
        """Let `alias` mean this version from now on."""
        check_alias(alias)
        with self._alone():
            version = self._version(self.read(), name, number)
            if version.is_withdrawn:
                raise RunError("registry.is_withdrawn", where=version.label, given=version.label)
            self._write("pointed", name, number, alias=alias, reason=reason)
        return version

    def before(self, name: str, alias: str) -> Version:
        """What `alias` meant before; versions withdrawn since are passed over."""
        state = self.read()
        now = state.aliases.get((name, alias))
        for number in reversed(state.way_back(name, alias)):
            version = self._version(state, name, number)
            if number != now and not version.is_withdrawn:
                return version
        raise RunError("registry.nothing_before", where=f"{name}@{alias}", given=f"{name}@{alias}")

    def roll_back(self, name: str, alias: str, *, reason: str = "") -> Version:
        """Let `alias` mean what it meant before."""
        with self._alone():
            version = self.before(name, alias)
            self._write("returned", name, version.number, alias=alias, reason=reason)
        return version

    def withdraw(self, name: str, number: int, *, reason: str) -> Version:
        """It is not to be used any more. Refused while an alias points at it."""
        with self._alone():
            state = self.read()
            version = self._version(state, name, number)
            if used := state.aliases_of(version):
                raise RunError("registry.in_use", where=version.label, given=version.label, aliases=listed(used))
            if not version.is_withdrawn:
                self._write("withdrawn", name, number, reason=reason)
        return replace(version, is_withdrawn=True)

    def resolve(self, named: str) -> Version:
        """The version of `name@alias`, `name:number`, or the newest of `name`."""
        match = _NAMED.fullmatch(named)
        if match is None:
            raise RunError("registry.bad_name", where=named, given=named)
        state, name = self.read(), match["name"]
        if match["number"]:
            return self._version(state, name, int(match["number"]))
        if match["alias"]:
            number = state.aliases.get((name, match["alias"]))
            if number is None:
                known = listed(f"{n}@{a}" for n, a in sorted(state.aliases)) or "-"
                raise RunError("registry.no_alias", where=named, given=named, known=known)
            return self._version(state, name, number)
        usable = [version for version in state.versions.get(name, []) if not version.is_withdrawn]
        if not usable:
            raise RunError("registry.no_version", where=named, given=named, known=_known(state))
        return usable[-1]

    def open(self, version: Version) -> Path:
        """The artefact's folder, its files being those that were registered."""
        if version.is_withdrawn:
            raise RunError("registry.is_withdrawn", where=version.label, given=version.label)
        folder = self.folder / version.artifact
        manifest = Manifest.read(folder)
        if manifest.digest != version.digest:
            raise RunError(
                "registry.changed", where=str(folder), given=manifest.digest[:12], expected=version.digest[:12]
            )
        manifest.check_files(folder)
        return folder

    def _keep(self, folder: Path, place: str) -> str:
        """The artefact's files at `place`, there whole or not at all."""
        target = self.folder / place
        fresh = target.with_name(f".{target.name}")
        for leftover in (target, fresh):  # of a kill before the line was written
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(folder, fresh, copy_function=_link)
        fresh.rename(target)
        sync_folder(target.parent)
        return place

    # ---- the file

    def _version(self, state: State, name: str, number: int) -> Version:
        known = state.versions.get(name, [])
        if not 1 <= number <= len(known):
            raise RunError(
                "registry.no_version", where=f"{name}:{number}", given=f"{name}:{number}", known=_known(state)
            )
        return known[number - 1]

    def _deeds(self) -> Iterator[Deed]:
        if not self.path.is_file():
            return
        *lines, _torn = self.path.read_bytes().split(b"\n")  # what has no end was never said
        for number, line in enumerate(lines, start=1):
            try:
                yield Deed(**orjson.loads(line))
            except (orjson.JSONDecodeError, TypeError) as error:
                raise RunError("registry.damaged", where=f"{self.path}:{number}", given=str(error)) from error

    def _write(self, deed: str, name: str, number: int, **rest: Any) -> None:
        log = AuditLog(self.folder / AUDIT_LOG)
        num_lines = self._mend()
        _tell_undone(log, num_lines)
        entry = Deed(time=now(), actor=who(), deed=deed, name=name, number=number, **rest)
        told = {"name": name, "number": number, "line": num_lines + 1}
        told |= {"alias": entry.alias} if entry.alias else {}
        if entry.version is not None:
            told["digest"] = entry.version["digest"]
        log.append(f"{_ACTIONS}{deed}", told, reason=entry.reason)
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write(dump_json(asdict(entry), indent=False) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self.folder)

    def _mend(self) -> int:
        """Cut off what a crash has torn, so that the next line begins at its beginning. How many lines there are."""
        if not self.path.is_file():
            return 0
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        return content.count(b"\n")

    def _alone(self) -> AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return in_turn(self.folder / f".{NAME}.lock")


def check_alias(alias: str) -> None:
    """RunError where a word cannot be an alias."""
    if not _ALIAS.fullmatch(alias):
        raise RunError("registry.bad_alias", where=alias, given=alias)


def _tell_undone(log: AuditLog, num_lines: int) -> None:
    """A deed that the log was told of and that has no line was not done: whoever did it was killed in between."""
    last = next((entry for entry in log.newest() if entry.action.startswith(_ACTIONS)), None)
    if last is not None and last.action != NOT_DONE and last.object.get("line", 0) > num_lines:
        log.append(NOT_DONE, {"n": last.n} | {key: last.object[key] for key in ("name", "number", "line")})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _known(state: State) -> str:
    return listed(f"{name} (1–{len(found)})" for name, found in sorted(state.versions.items()) if found) or "-"
