"""Files inside files: how much may be unpacked, what their names are, and where they lie meanwhile.

An archive of a few kilobytes can hold petabytes. Each file the user names has one `Room` for all that is unpacked out
of it, at any depth; what does not fit is refused by name, and what came before it stays used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

MAX_DEPTH = 4
MAX_FILES = 20_000
MAX_FILE_BYTES = 512 << 20
MAX_BYTES = 4 << 30
MAX_RATIO = 500
"""More than this many bytes out of one, from HONEST_BYTES on, is a bomb: text packs 3 to 20 times, logs up to 100."""
HONEST_BYTES = 16 << 20


class NoRoomError(Exception):
    """Unpacking would go over a limit. `reason` is in the room `ledger`, `limit` in the unit that its text has."""

    def __init__(self, reason: str, limit: int) -> None:
        super().__init__(reason)
        self.reason, self.limit = reason, limit


@dataclass(slots=True)
class Room:
    """What is left for one file named by the user; shared by everything found inside it."""

    num_files: int = MAX_FILES
    num_bytes: int = MAX_BYTES

    def enter(self) -> None:
        """One file more. Raises NoRoomError."""
        if self.num_files <= 0:
            raise NoRoomError("too_many_files", MAX_FILES)
        self.num_files -= 1

    def unpack(self, pieces: Iterable[bytes], path: Path, packed_bytes: int) -> int:
        """Write the pieces to `path`; how many bytes there were. Raises NoRoomError as soon as a limit is passed."""
        size = 0
        with path.open("wb") as file:
            for piece in pieces:
                size += len(piece)
                self.num_bytes -= len(piece)
                if size > MAX_FILE_BYTES:
                    raise NoRoomError("document_too_large", MAX_FILE_BYTES >> 20)
                if size > HONEST_BYTES and size > MAX_RATIO * max(packed_bytes, 1):
                    raise NoRoomError("archive_bomb", MAX_RATIO)
                if self.num_bytes < 0:
                    raise NoRoomError("archive_too_large", MAX_BYTES >> 20)
                file.write(piece)
        return size


def place_for(folder: Path, name: str, number: int) -> Path:
    """Where a file out of an archive is unpacked: its own suffixes, which say what it is, and nothing else of its
    name."""
    suffixes = [part for part in PurePosixPath(name).suffixes[-2:] if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", part)]
    return folder / f"{number}{''.join(suffixes)}"


def safe_name(name: str) -> str:
    """A name out of an archive or a letter as it is shown: no way up, no root, no control characters. Never a path
    to write to."""
    printable = "".join(char if char.isprintable() else "�" for char in name.replace("\\\\", "/"))
    parts = [part for part in PurePosixPath(printable).parts if part not in ("/", "..", ".")]
    return "/".join(parts)[:240] or "unnamed"
