"""Opening a file by what it is, not by what it is called: compression and container from magic bytes, then the suffix.

A `Source` gives its bytes decompressed and in order, its lines decoded with their numbers, or the whole as a seekable
file for containers that need one. A compressed file that ends too early gives all bytes before the cut and says so
(`cut`). Compressions: gzip, zstandard (any window), bzip2, xz. Knows nothing of rows or formats.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, cast

from danlu.core.errors import DataError
from danlu.data.encoding import Decoder, detect
from danlu.data.suspects import suspect_lines

HEAD_BYTES = 1 << 18
CHUNK_BYTES = 1 << 16
ZSTD_CHUNK_BYTES = 1 << 12  # a block of four bytes may stand for 128 KiB: small bites keep a bomb small
MAX_LINE_BYTES = 64 << 20
PIECE_BYTES = 1 << 20
MAX_CONTAINER_BYTES = 2 << 30

COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}


@dataclass(frozen=True, slots=True)
class Line:
    """One physical line without its end. `text` is None where no encoding reads it; `legacy` names an encoding that is
    not the file's main one.
    `fault` is "cut" (compression ended inside or before it) or "long"; `raw` is what can be shown of a bad line."""

    number: int
    text: str | None
    legacy: str | None = None
    fault: str | None = None
    raw: str = ""
    ended: bool = True
    """False for a piece of a long line that goes on in the next one."""
    clean: bool = False
    """Known to hold nothing that `mend` looks for, neither plainly nor behind a backslash."""


@dataclass(frozen=True, slots=True)
class Span:
    """Whole lines out of a plain file: bytes from `start` to before `end`, the first of which is line `line`."""

    start: int
    end: int
    line: int


@dataclass(slots=True)
class Source:
    """One opened file. `name` is the file as the user named it; `suffix` is lower-case, compression suffixes taken
    off."""

    path: Path
    name: str
    suffix: str
    compression: str | None
    head: bytes
    """The first bytes, decompressed."""
    size_bytes: int
    decoder: Decoder = field(default_factory=Decoder)
    mark_bytes: int = 0
    cut: bool = False
    """True once the bytes were read to a premature end."""
    broken: bool = False
    """Compressed, and not one byte can be got out."""
    span: Span | None = None
    """Only these whole lines of the file are read; what the file is was still told from its own beginning."""

    def chunks(self) -> Iterator[bytes]:
        """All bytes, decompressed, in bounded pieces; sets `cut` where the compressed stream ends early or breaks."""
        with self.path.open("rb") as file:
            if self.compression is None:
                yield from _plain_chunks(file, self.span)
                return
            try:
                yield from _decompress(file, self.compression)
            except _CutError:
                self.cut = True

    def lines(self, *, in_pieces: bool = False) -> Iterator[Line]:
        """Decoded lines with 1-based numbers; the last one carries the fault "cut" when the stream broke off.

        `in_pieces` gives long lines in parts (`ended` is False for all but the last) instead of refusing those that are
        too long: a JSON array of any size may stand on one line.
        """
        if in_pieces and not self.decoder.wide:
            yield from self._pieces()
            return
        number = self.first_line - 1
        for group, complete in self._groups():
            quick = self._decoded_together(group)
            if quick is not None:
                for text, is_suspect in zip(*quick, strict=True):
                    number += 1
                    yield Line(number, text, clean=not is_suspect)
                continue
            for content in group:
                number += 1
                if self.cut and not complete:
                    yield Line(number, None, None, "cut", _shown(content))
                    return
                yield self._decoded(number, content)
        if self.cut:
            yield Line(number + 1, None, None, "cut")

    def raw_lines(self) -> Iterator[list[bytes] | Line]:
        """For readers that decode `is_plain` files themselves: runs of lines as they stand, in whatever state, from
        `first_line` on; of a file that is cut the last one comes as refused."""
        number = self.first_line
        for group, complete in self._byte_lines():
            if self.cut and not complete:
                yield Line(number, None, None, "cut", _shown(group[0]))
                return
            number += len(group)
            yield group
        if self.cut:
            yield Line(number, None, None, "cut")

    @property
    def is_plain(self) -> bool:
        """Told to be UTF-8 by its beginning; single lines may be anything all the same."""
        return self.decoder.wide is None and self.decoder.main == "utf-8"

    @property
    def first_line(self) -> int:
        """Number of the first line that is read."""
        return self.span.line if self.span else 1

    def line_of(self, number: int, content: bytes) -> Line:
        """A raw line, decoded."""
        return self._decoded(number, content)

    def saw(self, lines: Sequence[bytes | str]) -> None:
        """These were valid UTF-8."""
        if "utf-8" not in self.decoder.seen and not all(line.isascii() for line in lines):
            self.decoder.seen["utf-8"] += 1

    def _groups(self) -> Iterator[tuple[list[bytes] | list[str], bool]]:
        """Raw lines, some at a time, and whether the last one is ended by a line break or the file."""
        return self._wide_lines() if self.decoder.wide else self._byte_lines()

    def _decoded_together(self, group: list[bytes] | list[str]) -> tuple[list[str], list[bool]] | None:
        """Lines of a UTF-8 file decoded in one go, and which are suspect; None where each has to be decoded alone."""
        if self.cut or self.decoder.wide or self.decoder.main != "utf-8":
            return None
        whole = b"\n".join(cast("list[bytes]", group))
        if len(whole) >= MAX_LINE_BYTES:
            return None
        try:
            text = whole.decode("utf-8")
        except UnicodeDecodeError:
            return None
        texts = text.split("\n")
        if len(texts) != len(group):
            return None
        if not text.isascii():
            self.decoder.seen["utf-8"] += 1
        return texts, suspect_lines(text, len(texts))

    def _pieces(self) -> Iterator[Line]:
        """Lines cut where no character of any encoding here can be cut in two: behind a comma, a quote or a space."""
        number, rest, skip = 1, b"", self.mark_bytes
        for chunk in self.chunks():
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            *whole, rest = (rest + chunk).split(b"\n")
            for part in whole:
                yield self._decoded(number, part.removesuffix(b"\r"))
                number += 1
            place = max(rest.rfind(sign) for sign in (b",", b'"', b" ")) + 1
            if len(rest) > PIECE_BYTES and place:
                yield replace(self._decoded(number, rest[:place]), ended=False)
                rest = rest[place:]
        if self.cut:
            yield Line(number, None, None, "cut", _shown(rest))
        elif rest:
            yield self._decoded(number, rest.removesuffix(b"\r"))

    def _decoded(self, number: int, content: bytes | str) -> Line:
        if isinstance(content, str):
            return Line(number, content) if "�" not in content else Line(number, None, raw=content)
        if len(content) >= MAX_LINE_BYTES:
            return Line(number, None, None, "long", _shown(content))
        text, legacy = self.decoder.decode(content)
        return Line(number, text, legacy, raw=_shown(content) if text is None else "")

    def _byte_lines(self) -> Iterator[tuple[list[bytes], bool]]:
        """(lines, the last one ended by a line break) with LF, CRLF or, in files without LF, CR; over-long lines are
        cut to the limit."""
        end = b"\r" if b"\n" not in self.head and b"\r" in self.head.rstrip(b"\r") else b"\n"
        rest: list[bytes] = []
        rest_bytes, skip = 0, self.mark_bytes if self.span is None or not self.span.start else 0
        for chunk in self.chunks():
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            lines = chunk.split(end)
            if rest_bytes < MAX_LINE_BYTES:
                rest.append(lines[0])
                rest_bytes += len(lines[0])
            if len(lines) > 1:
                lines[0] = b"".join(rest)
                last = lines.pop()
                if b"\r" in chunk or lines[0].endswith(b"\r"):
                    lines = [line.removesuffix(b"\r") for line in lines]
                rest, rest_bytes = [last], len(last)
                yield lines, True
        if rest_bytes:
            yield [b"".join(rest).removesuffix(b"\r")], False

    def _wide_lines(self) -> Iterator[tuple[list[str], bool]]:
        """The same for UTF-16 and UTF-32, where bytes cannot be split; a wrong unit becomes U+FFFD and is refused
        later."""
        assert self.decoder.wide, "only for wide encodings"
        decoder = codecs.getincrementaldecoder(self.decoder.wide)(errors="replace")
        rest, skip = "", self.mark_bytes
        for chunk in self.chunks():
            if skip:
                chunk, skip = chunk[skip:], max(0, skip - len(chunk))
            *whole, rest = (rest + decoder.decode(chunk)).split("\n")
            if whole:
                yield [line.removesuffix("\r") for line in whole], True
            if len(rest) > MAX_LINE_BYTES:
                yield [rest], False
                rest = ""
        rest += decoder.decode(b"", final=True)
        if rest:
            yield [rest.removesuffix("\r")], False

    def seekable(self) -> IO[bytes]:
        """The decompressed file for a reader that jumps about (zip, PDF, Parquet). The caller closes it."""
        if self.compression is None:
            return self.path.open("rb")
        spool = tempfile.SpooledTemporaryFile(max_size=64 << 20)  # noqa: SIM115  the caller closes it
        size = 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > MAX_CONTAINER_BYTES:
                spool.close()
                raise DataError("data.too_large", where=self.name, limit=MAX_CONTAINER_BYTES >> 20)
            spool.write(chunk)
        spool.seek(0)
        return spool


def _plain_chunks(file: IO[bytes], span: Span | None) -> Iterator[bytes]:
    if span is None:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
        return
    file.seek(span.start)
    left = span.end - span.start
    while left > 0 and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def open_source(path: Path, name: str, span: Span | None = None) -> Source:
    """Look at the first bytes. Raises DataError when the file cannot be opened or a package for it is missing.

    With a `span` the file is told by its own beginning all the same, so that its parts are read as the whole would be.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        size = path.stat().st_size
    except OSError as error:
        raise DataError("data.cannot_open", where=name, detail=error.strerror or type(error).__name__) from error
    compression = next((kind for sign, kind in COMPRESSIONS.items() if magic.startswith(sign)), None)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz"):
        suffixes.pop()
    source = Source(path, name, suffixes[-1] if suffixes else "", compression, b"", size)
    head = b""
    for chunk in source.chunks():
        head += chunk
        if len(head) >= HEAD_BYTES:
            break
    source.broken, source.cut = source.cut and not head, False
    source.head = head[:HEAD_BYTES]
    source.decoder, source.mark_bytes = detect(source.head, whole=len(head) < HEAD_BYTES)
    assert span is None or (compression is None and not source.decoder.wide), "only plain files are read in part"
    source.span = span
    return source


class _CutError(Exception):
    """The compressed stream ended early or is damaged from here on."""


def _decompress(file: IO[bytes], compression: str) -> Iterator[bytes]:
    """Decompressed pieces; several streams may follow one another, as `cat a.gz b.gz` makes them."""
    fresh, broken = _decompressor(compression)
    chunk_bytes = ZSTD_CHUNK_BYTES if compression == "zstd" else CHUNK_BYTES
    stream, begun = fresh(), False
    data = file.read(chunk_bytes)
    while data:
        try:
            out: bytes = stream.decompress(data)
        except broken as error:
            raise _CutError from error
        begun = True
        if out:
            yield out
        if stream.eof:
            data = bytes(stream.unused_data) or file.read(chunk_bytes)
            data = data.lstrip(b"\x00")  # tape padding after the last stream is no fault
            stream, begun = fresh(), False
        else:
            data = file.read(chunk_bytes)
    if begun:
        raise _CutError


def _decompressor(compression: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    if compression == "gzip":
        return lambda: zlib.decompressobj(31), (zlib.error,)
    if compression == "bzip2":
        return bz2.BZ2Decompressor, (OSError, ValueError)
    if compression == "xz":
        return lzma.LZMADecompressor, (lzma.LZMAError,)
    try:
        import zstandard  # lazy: only zstandard files need the package
    except ImportError as error:
        raise DataError("data.missing_package", package="zstandard", what="zstandard") from error
    big = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return big.decompressobj, (zstandard.ZstdError,)


def _shown(content: bytes | str) -> str:
    """What a person can see of bytes that no encoding reads."""
    return content if isinstance(content, str) else content[:4000].decode("utf-8", "backslashreplace")
