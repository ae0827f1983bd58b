"""From paths, folders and globs to files, in an order that is the same on every machine."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import DataError
from danlu.core.registry import nearest
from danlu.data.columns import PARTS
from danlu.data.opening import Span

HIDDEN = ("~$", ".")
OF_THE_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class SourceSpec:
    """One entry of `data.sources`: a file, folder or glob; what its rows are, where sniffing should not decide.

    `format` names a row format (`alpaca`) or a file format (`csv`). `columns` maps a part to the file's own column
    name: `{"question": "问题"}`.
    """

    path: Path | str
    format: str | None = None
    columns: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for part in self.columns or {}:
            if part not in PARTS:
                guess = nearest(part, PARTS) or "-"
                raise DataError(
                    "data.unknown_part", where=str(self.path), given=part, nearest=guess, known=", ".join(PARTS)
                )


@dataclass(frozen=True, slots=True)
class Found:
    """One file to read, as the user would name it, with the spec that led to it."""

    path: Path
    name: str
    spec: SourceSpec
    span: Span | None = None
    """Only a part of the file, where it is read in several."""


def find_files(specs: Sequence[SourceSpec | Path | str]) -> list[Found]:
    """Files in the order of the specs, folders walked by name; a file reached twice counts once.

    Raises DataError when a path does not exist, a glob matches nothing, or a folder holds no file.
    """
    found: dict[Path, Found] = {}
    for given in specs:
        spec = given if isinstance(given, SourceSpec) else SourceSpec(given)
        files = list(_files(str(spec.path)))
        if not files:
            raise DataError("data.no_files", where=str(spec.path))
        for path in files:
            found.setdefault(path.resolve(), Found(path, _shown(path), spec))
    return list(found.values())


def _shown(path: Path) -> str:
    """The path as text. Names out of old Chinese archives are GB18030 bytes, which Python holds as half surrogates."""
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("gb18030", "backslashreplace")
    return name


def _files(given: str) -> Iterator[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        yield from _walk(path)
    elif path.is_file():
        yield path
    elif glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  absolute patterns too
        for match in map(Path, matches):
            if match.is_file():
                yield match
            elif not any(other.startswith(f"{match}{os.sep}") for other in matches):
                yield from _walk(match)
    else:
        here = path.parent if path.parent.is_dir() else Path()
        guess = nearest(path.name, [entry.name for entry in here.iterdir()]) if path.parent.is_dir() else None
        raise DataError("data.no_such_path", where=given, nearest=str(here / guess) if guess else "-")


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden ones and what editors and systems leave behind are no data. Links to folders are not
    followed, so there is no circle."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith(HIDDEN) or entry.name.lower() in OF_THE_SYSTEM:
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(entry)
        elif entry.is_file():
            yield entry
