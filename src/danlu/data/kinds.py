"""What a file is, from its first bytes and only then from its suffix: the reader to use, or the name of what it is not.

`kind_of_file` answers with the name of a reader (`json`, `csv`, `xlsx`, ...) or with a refusal: a format that is
known but not read yet is refused by its own name, never as "unreadable".
"""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass, field
from typing import Any

from danlu.data import columns
from danlu.data.opening import Source
from danlu.data.tables import is_delimited

ROW_SUFFIXES = {".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".tab", ".parquet", ".xlsx"}
NOT_READ_YET = {
    ".ppt": "ppt", ".doc": "doc", ".xls": "xls", ".msg": "msg",
    ".ipynb": "ipynb", ".xml": "xml", ".rss": "rss", ".sqlite": "sqlite", ".sqlite3": "sqlite",
    ".db": "sqlite", ".odt": "odt", ".ods": "ods", ".odp": "odp", ".wps": "wps", ".et": "et", ".arrow": "arrow",
    ".feather": "arrow", ".yaml": "yaml", ".yml": "yaml", ".tex": "tex",
}  # fmt: skip
OLD_OFFICE = {
    ".doc": "docx",
    ".dot": "docx",
    ".wps": "docx",
    ".xls": "xlsx",
    ".et": "xlsx",
    ".ppt": "pptx",
    ".dps": "pptx",
}
MAX_UNPACKED_BYTES = 512 << 20
MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"SQLite format 3\x00", "sqlite"), (b"GIF8", "gif image"),
    (b"RIFF", "media"), (b"ID3", "audio"), (b"OggS", "media"), (b"fLaC", "audio"), (b"\x1aE\xdf\xa3", "video"),
    (b"Rar!", "rar archive"), (b"7z\xbc\xaf", "7z archive"), (b"GGUF", "gguf model"), (b"ARROW1", "arrow"),
    (b"\x7fELF", "program"), (b"MZ", "program"), (b"\x93NUMPY", "numpy array"), (b"\x80\x02", "pickle"),
    (b"\x80\x03", "pickle"), (b"\x80\x04", "pickle"), (b"\x80\x05", "pickle"),
)  # fmt: skip
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*")
_TEXTUAL_MAGIC = {"media", "program", "audio", "gif image"}
"""Signs that a plain text may begin with; believed only over bytes that are no text."""
_HTML = re.compile(
    r"^\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body|meta|script|title)\b", re.IGNORECASE | re.DOTALL
)
_LETTER = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9-]*:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*)*"
    r"(?:Received|Return-Path|Message-ID|MIME-Version|DKIM-Signature):",
    re.IGNORECASE,
)
"""Header lines, one of which only letters have."""
_MBOX = re.compile(r"From \S+ [^\n]*\d{4}\s*\n[A-Za-z-]+:")
_XML = re.compile(r"^\s*<(?:\?xml|rss|feed|svg)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Kind:
    """`reader` names the reader, or is None with the ledger reason and its values."""

    reader: str | None
    reason: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def kind_of_file(source: Source) -> Kind:
    """Content decides; the suffix decides between readings of the same text."""
    if source.broken:
        return Kind(None, "compressed_cut")
    if not source.head[source.mark_bytes :].strip(b"\x00 \t\r\n"):
        return Kind(None, "empty_file")
    return _binary_kind(source) or _text_kind(source)


def _not_yet(name: str) -> Kind:
    return Kind(None, "not_read_yet", {"format": name})


def _binary_kind(source: Source) -> Kind | None:
    head, suffix = source.head, source.suffix
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(source)
    if b"%PDF-" in head[:1024]:
        return Kind("pdf")
    if head.startswith(b"{\\rtf"):
        return Kind("rtf")
    if head.startswith(b"PAR1"):
        return Kind("parquet")
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):  # Microsoft's container of the nineties
        if "EncryptedPackage".encode("utf-16-le") in head:
            return Kind(None, "encrypted")
        if suffix in OLD_OFFICE:
            return Kind(None, "old_office", {"format": suffix.lstrip("."), "better": OLD_OFFICE[suffix]})
        return _not_yet("msg" if suffix == ".msg" else "ole")
    if head[257:262] == b"ustar":
        return Kind("archive")
    for sign in PICTURES:
        if head.startswith(sign) and _looks_binary(source):
            return Kind("picture")
    for sign, name in MAGIC:
        if head.startswith(sign) and (name not in _TEXTUAL_MAGIC or _looks_binary(source)):
            return _not_yet(name)
    if _looks_binary(source):
        return _not_yet(NOT_READ_YET[suffix]) if suffix in NOT_READ_YET else Kind(None, "binary_file")
    return None


def _zip_kind(source: Source) -> Kind:
    """Office formats are zip archives; their parts tell them apart."""
    try:
        with source.seekable() as file, zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            unpacked = sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return Kind(None, "broken_archive", {"format": source.suffix.lstrip(".") or "zip"})
    is_office = "[Content_Types].xml" in names
    if is_office and unpacked > MAX_UNPACKED_BYTES:  # parsers of Office files hold a part in memory as a whole
        return Kind(None, "document_too_large", {"limit": MAX_UNPACKED_BYTES >> 20})
    for part, reader in (("word/", "docx"), ("xl/", "xlsx"), ("ppt/", "pptx")):
        if is_office and any(name.startswith(part) for name in names):
            return Kind(reader)
    if "META-INF/container.xml" in names:
        return Kind("epub")
    if "mimetype" in names and "content.xml" in names:
        return _not_yet(source.suffix.lstrip(".") if source.suffix in NOT_READ_YET else "odt")
    return Kind("archive")


def _looks_binary(source: Source) -> bool:
    """Control bytes all over: no text in any encoding that is not 16 bits wide."""
    if source.decoder.wide:
        return False
    part = source.head[:8192]
    strange = sum(byte < 32 and byte not in (9, 10, 12, 13, 27) for byte in part)
    return strange > max(8, len(part) * 0.05)


def _text_kind(source: Source) -> Kind:
    text = head_text(source)
    suffix = source.suffix
    if _HTML.match(text):
        return Kind(None, "html_page", {"suffix": suffix}) if suffix in ROW_SUFFIXES else Kind("html")
    if suffix in (".mbox", ".mbx") or (_MBOX.match(text) and suffix in ("", ".txt")):
        return Kind("mbox")
    if suffix in (".eml", ".mht", ".mhtml") or (_LETTER.match(text) and suffix in ("", ".txt", ".email")):
        return Kind("mail")
    if suffix in NOT_READ_YET:
        return _not_yet(NOT_READ_YET[suffix])
    if _XML.match(text) and suffix not in (".md", ".markdown"):
        return _not_yet("rss" if "<rss" in text[:2000] else "svg" if "<svg" in text[:2000] else "xml")
    if suffix in (".jsonl", ".json", ".ndjson") or _looks_like_json(text):
        return Kind("json")
    if suffix in (".csv", ".tsv", ".tab"):
        return Kind("csv")
    if suffix in (".html", ".htm", ".xhtml"):
        return Kind("html")
    lines = text.splitlines()[:20]
    prose = suffix in (".txt", ".text", ".md", ".markdown", ".log", "")
    if is_delimited(lines) and (not prose or _has_known_header(lines)):
        return Kind("csv")
    return Kind("text")


def head_text(source: Source, limit: int = 1 << 14) -> str:
    """The beginning as text, as well as it goes."""
    head = source.head[source.mark_bytes : source.mark_bytes + limit]
    if source.decoder.wide:
        return head.decode(source.decoder.wide, "ignore")
    return (
        head.decode(source.decoder.legacy or "utf-8", "ignore")
        if source.decoder.legacy != "windows-1252"
        else head.decode("latin-1")
    )


def _looks_like_json(text: str) -> bool:
    """An object or an array of objects at the very beginning: prose never opens like that."""
    return bool(re.match(r'^[\s\ufeff]*(?:\[\s*)?\{\s*(?:"(?:[^"\\\n]|\\.){1,80}"\s*:|\})', text))


def _has_known_header(lines: list[str]) -> bool:
    """A text whose first line names the columns of training rows is a table: Excel's "Unicode text" is one."""
    for delimiter in "\t,;|":
        names = dict.fromkeys((cell.strip().strip('"') for cell in lines[0].split(delimiter)), "")
        for parts in (("question", "answer"), ("instruction", "output"), ("text", "label"), ("chosen", "rejected")):
            if len(names) > 1 and columns.has(names, *parts):
                return True
    return False
