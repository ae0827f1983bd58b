"""One e-mail as text and attachments (RFC 5322, MIME). Shared by the readers of single letters and of mailboxes.

The plain version is taken where there is one, else the HTML one as Markdown. Pictures shown inside a letter (logos in
signatures) are counted, not attached.
"""

from __future__ import annotations

import email
import email.errors
import email.header
import email.message
import email.policy
from collections.abc import Iterator
from dataclasses import dataclass, field

from danlu.data.enclosed import safe_name
from danlu.data.encoding import CODECS, detect
from danlu.data.markup import convert_page

SHOWN = ("From", "To", "Cc", "Date")
MAX_HEADER_CHARS = 2000
MAX_PARTS = 2000


@dataclass(slots=True)
class Letter:
    """`num_unreadable` parts of the body are in no known encoding."""

    subject: str
    text: str
    attachments: list[tuple[str, bytes]] = field(default_factory=list)
    num_pictures: int = 0
    num_unreadable: int = 0


def read_letter(content: bytes) -> Letter:
    """Never fails: a damaged letter gives what can be read of it."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    letter = Letter(_header(message, "Subject"), "")
    bodies = list(_bodies(message, letter))
    head = [f"{name}: {value}" for name in SHOWN if (value := _header(message, name))]
    blocks = [f"# {letter.subject}" if letter.subject else "", "\n".join(head), *bodies]
    letter.text = "\n\n".join(block for block in blocks if block.strip())
    if not any(body.strip() for body in bodies):
        letter.text = ""  # headers alone are no text
    return letter


def _bodies(message: email.message.Message, letter: Letter) -> Iterator[str]:
    """Texts of the body in order; attachments and pictures go into the letter."""
    stack: list[email.message.Message] = [message]
    num_parts = 0
    while stack and num_parts < MAX_PARTS:
        part = stack.pop()
        num_parts += 1
        kind, name = part.get_content_type(), _file_name(part)
        if kind == "message/rfc822" and (inner := _messages(part)):
            letter.attachments.append((name or f"letter {num_parts}.eml", inner[0].as_bytes()))
        elif part.is_multipart():
            parts = _messages(part)
            stack += reversed(_preferred(parts) if kind == "multipart/alternative" else parts)
        elif kind.startswith("image/") and (part["Content-ID"] or part.get_content_disposition() == "inline"):
            letter.num_pictures += 1
        elif name or part.get_content_disposition() == "attachment" or not kind.startswith("text/"):
            letter.attachments.append((name or f"part {num_parts}{_suffix(kind)}", _bytes(part)))
        else:
            text = _decoded(_bytes(part), part.get_content_charset())
            if text is None:
                letter.num_unreadable += 1
            elif kind == "text/html":
                yield convert_page(text).text
            else:
                yield text.replace("\r\n", "\n").strip()


def _messages(part: email.message.Message) -> list[email.message.Message]:
    inner = part.get_payload()
    return [one for one in inner if isinstance(one, email.message.Message)] if isinstance(inner, list) else []


def _preferred(parts: list[email.message.Message]) -> list[email.message.Message]:
    """Of several versions of the same the plain one, unless it is empty; with an invitation that comes along."""
    plain = [part for part in parts if part.get_content_type() == "text/plain" and _bytes(part).strip()]
    if plain:
        return [plain[0]]
    rich = [part for part in parts if part.get_content_type() == "text/html" or part.is_multipart()]
    return rich[:1] or parts[:1]


def _bytes(part: email.message.Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


def _suffix(kind: str) -> str:
    return {"application/pdf": ".pdf", "text/calendar": ".ics", "application/zip": ".zip"}.get(kind, "")


def _file_name(part: email.message.Message) -> str:
    """As the sender named it: RFC 2231 and, against the standard but common, encoded words."""
    try:
        name = part.get_filename()
    except (LookupError, ValueError):  # an encoding nobody knows
        return "unnamed"
    return safe_name(_words(name)) if name else ""


def _header(message: email.message.Message, name: str) -> str:
    values = (value for key, value in message.raw_items() if key.lower() == name.lower())
    return " ".join(_words(str(next(values, ""))).split())[:MAX_HEADER_CHARS]


def _words(value: str) -> str:
    """Encoded words, and raw bytes of old programs, as text."""
    out = []
    try:
        words = email.header.decode_header(value)
    except (email.errors.HeaderParseError, ValueError):
        words = [(value, None)]
    for content, charset in words:
        raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        out.append(_decoded(raw, charset) or raw.decode("utf-8", "replace"))
    return "".join(out)


def _decoded(content: bytes, charset: str | None) -> str | None:
    """By what the letter declares, where that can be true, else by what it looks like; None where nothing fits."""
    named = (charset or "utf-8").lower()
    named = "gb18030" if named in ("gb2312", "gbk", "x-gbk") else CODECS.get(named, named)
    for name in (named, "utf-8"):
        try:
            return content.decode(name)
        except (UnicodeDecodeError, LookupError, ValueError):
            continue
    decoder, mark_bytes = detect(content)
    if decoder.wide:
        return content[mark_bytes:].decode(decoder.wide, "replace")
    lines = [decoder.decode(line)[0] for line in content[mark_bytes:].split(b"\n")]
    return None if any(line is None for line in lines) else "\n".join(line or "" for line in lines)
