"""Archives (zip, tar): every file inside is read as if it lay in a folder, under `archive.zip#folder/file.docx`.

Nothing is ever written where an archive says; limits stand in `danlu/data/enclosed.py`. Names without a Unicode mark
are GB18030 or UTF-8, as Chinese Windows and everything else write them.
"""

from __future__ import annotations

import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from lzma import LZMAError
from pathlib import Path
from typing import IO

from danlu.data.enclosed import NoRoomError, place_for, safe_name
from danlu.data.encoding import Decoder
from danlu.data.finding import HIDDEN, NUM_NAMED, OF_THE_SYSTEM
from danlu.data.opening import Source
from danlu.data.sources.source import Context, Enclosed, Fault, Item

BROKEN = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
UTF8_NAME, ENCRYPTED = 0x800, 0x1
PIECE_BYTES = 1 << 16


def read_archive(source: Source, context: Context) -> Iterator[Item]:
    """Files inside, one at a time, each unpacked only while it is read."""
    if source.head[257:262] == b"ustar":
        yield from _tar(source, context)
    else:
        yield from _zip(source, context)


def _zip(source: Source, context: Context) -> Iterator[Item]:
    with source.seekable() as file, zipfile.ZipFile(file) as archive:
        members = sorted(((_name(info), info) for info in archive.infolist()), key=lambda member: member[0])
        _tell(context, "note_hidden_files", [name for name, info in members if _is_hidden(name) and not info.is_dir()])
        for number, (name, info) in enumerate(members):
            if info.is_dir() or _is_hidden(name):
                continue
            if info.flag_bits & ENCRYPTED:
                yield Fault(0, "encrypted", {}, place=name)
                continue
            is_full = yield from _unpacked(partial(archive.open, info), name, number, info.compress_size, context)
            if is_full:
                return


def _tar(source: Source, context: Context) -> Iterator[Item]:
    hidden: list[str] = []
    linked: list[str] = []
    with source.seekable() as file:
        try:
            archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115  closed with the file below it
            for number, info in enumerate(archive):
                name = safe_name(info.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
                if _is_hidden(name) or not info.isfile():
                    if not info.isdir():
                        (hidden if _is_hidden(name) else linked).append(name)
                    continue
                is_full = yield from _unpacked(partial(_member, archive, info), name, number, info.size, context)
                if is_full:
                    return
        except (tarfile.TarError, *BROKEN) as error:
            yield Fault(0, "broken_archive", {"format": "tar"}, raw=str(error))
        finally:
            _tell(context, "note_hidden_files", hidden)
            _tell(context, "note_links_inside", linked)


def _tell(context: Context, reason: str, names: list[str]) -> None:
    """Once, what of an archive is no data."""
    if names:
        told = ", ".join(names[:NUM_NAMED]) + (", …" if len(names) > NUM_NAMED else "")
        context.note(reason, num=len(names), names=told)


def _member(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None, "only files are asked for"
    return file


def _unpacked(
    begin: Callable[[], IO[bytes]], name: str, number: int, packed_bytes: int, context: Context
) -> Generator[Item, None, bool]:
    """One member; true when there is no room for any more."""
    with tempfile.TemporaryDirectory(prefix="danlu-unpacked-") as folder:
        path = place_for(Path(folder), name, number)
        try:
            context.room.enter()
            with begin() as packed:
                context.room.unpack(iter(lambda: packed.read(PIECE_BYTES), b""), path, packed_bytes)
        except NoRoomError as error:
            yield Fault(0, error.reason, {"limit": error.limit}, place=name)
            return error.reason in ("too_many_files", "archive_too_large")
        except BROKEN as error:
            yield Fault(0, "broken_member", {"detail": f"{type(error).__name__}: {error}"[:120]}, place=name)
            return False
        yield Enclosed(name, path)
    return False


def _name(info: zipfile.ZipInfo) -> str:
    """zipfile reads unmarked names as the code page of 1981; back to bytes, and as they were meant."""
    if info.flag_bits & UTF8_NAME:
        return safe_name(info.filename)
    raw = info.filename.encode("cp437", "replace")
    return safe_name(Decoder(legacy="gb18030", main="gb18030").decode(raw)[0] or info.filename)


def _is_hidden(name: str) -> bool:
    """What editors and systems leave behind, as in folders."""
    return any(part.startswith(HIDDEN) or part.lower() in OF_THE_SYSTEM for part in name.split("/"))
