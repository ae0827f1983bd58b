"""The bilingual message catalogue: `say("data.no_rows", path=p)` in the reader's language.

One JSON file per room and language (`en/data.json`, `zh/data.json`); a key is `room.name`. An entry is a string with
`{placeholders}`, or `{"text": ..., "fix": ...}` for an error and its remedy. Tests hold both languages to the same keys
and placeholders. Not a translation framework: plural forms and dates do not occur in what danlu says.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import locale
import os
from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any, Literal

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")

_current: Language | None = None
_asker: contextvars.ContextVar[Language | None] = contextvars.ContextVar("asker", default=None)


def set_language(language: Language | None) -> None:
    """Fix the language of everything said from now on; None returns to the locale's."""
    global _current
    _current = language


@contextlib.contextmanager
def spoken_in(language: Language | None) -> Iterator[None]:
    """What is said inside is for somebody who asked in that language; None changes nothing. Threads that are started
    inside go by it too (`asyncio.to_thread`)."""
    before = _asker.set(language)
    try:
        yield
    finally:
        _asker.reset(before)


def current_language() -> Language:
    chosen = _asker.get() or _current
    if chosen is not None:
        return chosen
    # LC_ALL/LC_MESSAGES/LANG are the operating system's own way to say it; locale.getlocale() covers Windows.
    name = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    name = name or (locale.getlocale()[0] or "")
    return "zh" if name.lower().startswith(("zh", "chinese")) else "en"


@functools.cache
def load_room(room: str, language: Language) -> dict[str, str | dict[str, str]]:
    """All entries of one room in one language."""
    path = resources.files(__name__) / language / f"{room}.json"
    entries: dict[str, str | dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def lookup(key: str, language: Language | None = None) -> tuple[str, str]:
    """The (text, fix) pattern of a key, placeholders unfilled; fix is "" where none is given."""
    room, _, name = key.partition(".")
    entry = load_room(room, language or current_language())[name]
    if isinstance(entry, str):
        return entry, ""
    return entry["text"], entry.get("fix", "")


def say(key: str, language: Language | None = None, /, **values: Any) -> str:
    """The message of a key with its placeholders filled; the fix, where there is one, follows on a line of its own."""
    text, fix = lookup(key, language)
    filled = text.format(**values)
    return f"{filled}\n  → {fix.format(**values)}" if fix else filled


def listed(names: Iterable[object], language: Language | None = None) -> str:
    """Names in a row, as the reader's language has them: `a, b` or `a、b`."""
    return ("、" if (language or current_language()) == "zh" else ", ").join(map(str, names))
