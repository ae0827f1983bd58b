"""A zip archive of XML parts (ECMA-376 part 2, EPUB OCF): parts by name, relations between them, and no surprises.

XML that declares entities is refused: Office writes none, and they are how XML bombs are built.
"""

from __future__ import annotations

import posixpath
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO
from xml.etree import ElementTree

from danlu.data.opening import Source

MAX_PART_BYTES = 256 << 20
_RELATION = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"


class BrokenPartError(ValueError):
    """A part that is missing, damaged, too large, or XML that no office program writes; the argument says which."""


@dataclass(frozen=True, slots=True)
class Package:
    """An opened archive. Names are as the archive has them, without a leading slash."""

    archive: zipfile.ZipFile
    names: dict[str, str]
    """Lower-case name to the archive's own: Office compares without case."""

    def has(self, name: str) -> bool:
        return name.lower() in self.names

    def bytes(self, name: str) -> bytes:
        """Raises BrokenPartError."""
        own = self.names.get(name.lower())
        if own is None:
            raise BrokenPartError(f"{name} is missing")
        if self.archive.getinfo(own).flag_bits & 0x1:
            raise BrokenPartError(f"{name} is encrypted")
        try:
            with self.archive.open(own) as file:
                content = file.read(MAX_PART_BYTES + 1)
        except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, EOFError, ValueError) as error:
            raise BrokenPartError(f"{name}: {error}") from error
        if len(content) > MAX_PART_BYTES:
            raise BrokenPartError(f"{name} is larger than {MAX_PART_BYTES >> 20} MB")
        return content

    def xml(self, name: str) -> ElementTree.Element:
        """The part's root element. Raises BrokenPartError."""
        content = self.bytes(name)
        plain = content.replace(b"\x00", b"") if b"\x00" in content[:64] else content  # UTF-16
        if b"<!ENTITY" in plain:
            raise BrokenPartError(f"{name} declares entities")
        try:
            return ElementTree.fromstring(content)  # noqa: S314  see above
        except (ElementTree.ParseError, ValueError, LookupError) as error:
            raise BrokenPartError(f"{name}: {error}") from error

    def relations(self, name: str) -> dict[str, tuple[str, str]]:
        """What a part refers to: id to (kind, the part's name); links to the outside are left out."""
        folder, file = posixpath.split(name)
        rels = posixpath.join(folder, "_rels", f"{file}.rels")
        if not self.has(rels):
            return {}
        found = {}
        for relation in self.xml(rels).iter(_RELATION):
            if relation.get("TargetMode") != "External":
                target = resolved(folder, relation.get("Target", ""))
                found[relation.get("Id", "")] = (relation.get("Type", "").rpartition("/")[2], target)
        return found

    def related(self, name: str, kind: str) -> str | None:
        """The first part of this kind that a part refers to, where it is there."""
        return next((to for what, to in self.relations(name).values() if what == kind and self.has(to)), None)


def resolved(folder: str, target: str) -> str:
    """A reference inside the package as a part's name."""
    path = urllib.parse.unquote(target.partition("#")[0])
    return posixpath.normpath(path if path.startswith("/") else posixpath.join(folder, path)).lstrip("/")


@contextmanager
def open_package(source: Source) -> Iterator[Package]:
    """Raises BrokenPartError for an archive without a readable directory."""
    file: IO[bytes]
    with source.seekable() as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise BrokenPartError(str(error)) from error
        with archive:
            yield Package(archive, {name.lstrip("/").lower(): name for name in archive.namelist()})


def local(element: ElementTree.Element) -> str:
    """An element's name without its namespace: files of other makers use the strict or the transitional one."""
    tag = element.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def child_of(element: ElementTree.Element | None, name: str) -> ElementTree.Element | None:
    """The first child of this name."""
    return next((child for child in element if local(child) == name), None) if element is not None else None


def attribute(element: ElementTree.Element, name: str) -> str | None:
    """An attribute by its name without namespace."""
    return next((value for key, value in element.items() if key.rpartition("}")[2] == name), None)
