"""From paths, folders and globs to files, in an order that is the same on every machine."""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import DataError
from danlu.core.files import sha256_file, sha256_json
from danlu.core.messages import listed, say
from danlu.core.shelf import nearest
from danlu.data.columns import PARTS
from danlu.data.ledger import Entry
from danlu.data.opening import Span

HIDDEN = ("~$", ".")
OF_THE_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}
NUM_NAMED = 5
"""Names of what was left out that a remark gives; the others are counted."""

LeftOut = defaultdict[str, list[Path]]
"""What lies below a folder and is not read, by reason."""


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
                guess = nearest(part, PARTS)
                raise DataError(
                    "data.unknown_part", where=str(self.path), given=part, nearest=guess, known=listed(PARTS)
                )


@dataclass(frozen=True, slots=True)
class Found:
    """One file to read, as the user would name it, with the spec that led to it."""

    path: Path
    name: str
    spec: SourceSpec
    span: Span | None = None
    """Only a part of the file, where it is read in several."""


def find_files(specs: Sequence[SourceSpec | Path | str], remarks: list[Entry] | None = None) -> list[Found]:
    """Files in the order of the specs, folders walked by name; a file reached twice counts once.

    `remarks` is told what lies below the folders and is not read. Raises DataError when a path does not exist, a glob
    matches nothing, or a folder holds no file.
    """
    found: dict[Path, Found] = {}
    for given in specs:
        spec = given if isinstance(given, SourceSpec) else SourceSpec(given)
        left_out: LeftOut = defaultdict(list)
        files = list(_files(str(spec.path), left_out))
        if not files:
            raise DataError("data.no_files", where=str(spec.path))
        for path in files:
            found.setdefault(path.resolve(), Found(path, _shown(path), spec))
        if remarks is not None:
            remarks += [_remark(spec, why, paths) for why, paths in left_out.items()]
    return list(found.values())


def mark_of(specs: Sequence[SourceSpec | Path | str]) -> str:
    """Twelve hexadecimal digits of these files, of their names and of what is in them (`round.mark` of a recipe)."""
    return sha256_json([[file.name, sha256_file(file.path)] for file in find_files(specs)])[:12]


def _remark(spec: SourceSpec, why: str, paths: Sequence[Path]) -> Entry:
    """One remark for all that was left out of a source for one reason."""
    names = ", ".join(_shown(path) for path in paths[:NUM_NAMED]) + (", …" if len(paths) > NUM_NAMED else "")
    return Entry(_shown(Path(spec.path)), 0, f"note_{why}", {"num": len(paths), "names": names})


def _shown(path: Path) -> str:
    """The path as text. Names out of old Chinese archives are GB18030 bytes, which Python holds as half surrogates."""
    name = path.as_posix()
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("gb18030", "backslashreplace")
    return name


def _files(given: str, left_out: LeftOut) -> Iterator[Path]:
    path = Path(given).expanduser()
    if path.is_dir():
        yield from _walk(path, left_out)
    elif path.is_file():
        yield path
    elif glob.has_magic(given):
        matches = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207  absolute patterns too
        for match in map(Path, matches):
            if match.is_file():
                yield match
            elif not match.is_dir():
                left_out["dead_links" if match.is_symlink() else "no_files"].append(match)
            elif not any(other.startswith(f"{match}{os.sep}") for other in matches):
                yield from _walk(match, left_out)
    elif given == "-" or path.exists():
        raise DataError("data.no_plain_file", where=given)
    else:
        here = path.parent if path.parent.is_dir() else Path()
        guess = nearest(path.name, [entry.name for entry in here.iterdir()]) if path.parent.is_dir() else None
        hint = say("data.near_path", nearest=here / guess) if guess else say("data.seen_from", folder=Path.cwd())
        raise DataError("data.no_such_path", where=given, hint=hint)


def _walk(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """Files below a folder; hidden ones and what editors and systems leave behind are no data. Links to folders are not
    followed, so there is no circle. Pipes and devices are no files."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith(HIDDEN) or entry.name.lower() in OF_THE_SYSTEM:
            left_out["hidden_files"].append(entry)
        elif entry.is_dir():
            if entry.is_symlink():
                left_out["linked_folders"].append(entry)
            else:
                yield from _walk(entry, left_out)
        elif entry.is_file():
            yield entry
        else:
            left_out["dead_links" if entry.is_symlink() else "no_files"].append(entry)
