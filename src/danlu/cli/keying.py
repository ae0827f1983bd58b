"""`danlu keys`: who may ask, what and how much. Works on the store, with or without a server beside it."""

from __future__ import annotations

import contextlib
import datetime
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from danlu.cli.progress import write
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.messages import listed, say
from danlu.recipe.recipe import Recipe
from danlu.recipe.serving import ServingSection
from danlu.run.audit import NAME, AuditLog
from danlu.serving.keys import Key, KeyBook, StoredKey, open_pepper
from danlu.serving.settings import HOME, pepper_of, store_url
from danlu.serving.store import Store, open_store
from danlu.serving.usage import JournalReader, spent_this_month

_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}


@dataclass(frozen=True, slots=True)
class Place:
    """Which store: that of a recipe's chapter `serving`, else the one beside the runs."""

    runs: Path
    config: Path | None

    @property
    def home(self) -> Path:
        return self.runs / HOME

    def section(self) -> ServingSection:
        return Recipe.load(self.config).serving if self.config is not None else ServingSection()

    @contextlib.contextmanager
    def store(self) -> Iterator[Store]:
        opened = open_store(self.home, store_url(self.section()))
        try:
            yield opened
        except opened.errors as error:
            raise RunError("keys.store_bad", where=opened.where, reason=str(error).partition("\n")[0]) from error
        finally:
            opened.close()

    @contextlib.contextmanager
    def book(self) -> Iterator[KeyBook]:
        with self.store() as store:
            yield self.book_of(store)

    def book_of(self, store: Store) -> KeyBook:
        return KeyBook(store, open_pepper(store, pepper_of(self.section(), self.home)))

    def note(self, action: str, key: Key, reason: str) -> None:
        """Into the audit log: who did it, to which key, what it may since then. Never a secret."""
        told = {name: value for name, value in key_json(key).items() if value and name not in ("created", "revoked")}
        AuditLog(self.runs / NAME).append(f"keys.{action}", told, reason=reason)


@dataclass(frozen=True, slots=True)
class Terms:
    """What was said of a key; None: nothing."""

    models: list[str] | None
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    month: int | None
    expires: str | None
    keeps_bodies: bool | None

    def of(self, key: Key, now: float) -> Key:
        """The key with what was said."""

        def said(value: int | None, known: int) -> int:
            return known if value is None else value

        return replace(
            key,
            models=tuple(self.models) if self.models else key.models,
            requests_per_minute=said(self.rpm, key.requests_per_minute),
            tokens_per_minute=said(self.tpm, key.tokens_per_minute),
            concurrency=said(self.concurrency, key.concurrency),
            tokens_per_month=said(self.month, key.tokens_per_month),
            expires=key.expires if self.expires is None else moment(self.expires, now),
            keeps_bodies=key.keeps_bodies if self.keeps_bodies is None else self.keeps_bodies,
        )


def create(name: str, terms: Terms, place: Place, voice: Voice, *, reason: str) -> None:
    now = time.time()
    lent = terms.of(Key("", name, ("*",)), now)
    with place.book() as book:
        key, credential = book.create(name, lent.models, now=now, limits=lent)
    place.note("created", key, reason)
    _show_secret(key, credential, voice)


def change(named: str, terms: Terms, place: Place, voice: Voice, *, reason: str) -> None:
    with place.book() as book:
        key = book.change(named, terms.of(book.find(named).key, time.time()))
    place.note("changed", key, reason)
    voice.say(say("keys.changed", name=key.name, id=key.id), "green")
    voice.result(key_json(key))


def rotate(named: str, overlap: str, place: Place, voice: Voice, *, reason: str) -> None:
    now = time.time()
    overlap_s = span_s(overlap)
    with place.book() as book:
        key, credential = book.rotate(named, now=now, overlap_s=overlap_s)
    place.note("rotated", key, reason)
    voice.say(say("keys.overlap", until=_shown(now + overlap_s)))
    _show_secret(key, credential, voice)


def revoke(named: str, place: Place, voice: Voice, *, reason: str) -> None:
    with place.book() as book:
        key = book.revoke(named, now=time.time())
    place.note("revoked", key, reason)
    voice.say(say("keys.revoked", name=key.name, id=key.id), "green")
    voice.result(key_json(key))


def show(place: Place, voice: Voice) -> None:
    """All keys, with what they used of the month."""
    now = time.time()
    with place.store() as store:
        known = place.book_of(store).all()
        JournalReader(place.home, store).fold()
        spent = spent_this_month(store, now)
    if not known:
        voice.say(say("keys.none"))
    else:
        columns = ("id", "name", "models", "limits", "month", "expires", "state")
        rows = [_row(sealed, spent.get(sealed.key.id, 0), now) for sealed in known]
        voice.table([say(f"keys.col_{column}") for column in columns], rows, num_whole=1)
    voice.result([
        key_json(sealed.key) | {"state": _state(sealed, now), "spent_this_month": spent.get(sealed.key.id, 0)}
        for sealed in known
    ])  # fmt: skip


def key_json(key: Key) -> dict[str, Any]:
    return {
        "id": key.id, "name": key.name, "models": list(key.models), "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute, "concurrency": key.concurrency,
        "tokens_per_month": key.tokens_per_month, "expires": key.expires, "created": key.created,
        "revoked": key.revoked, "keeps_bodies": key.keeps_bodies,
    }  # fmt: skip


def span_s(text: str) -> float:
    """`90d`, `24h`, `30m`, `2w`, `0` in seconds."""
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    if text == "0":
        return 0.0
    if not found:
        raise RunError("keys.bad_span", where=text)
    return int(found[1]) * _UNITS[found[2]]


def moment(text: str, now: float) -> float:
    """A time to come: a span from now, or the end of a day (UTC); `never` is 0."""
    if text == "never":
        return 0.0
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return now + span_s(text)
    end = datetime.datetime.combine(day, datetime.time.min, datetime.UTC) + datetime.timedelta(days=1)
    return end.timestamp()


def _show_secret(key: Key, credential: str, voice: Voice) -> None:
    voice.say(say("keys.created", name=key.name, id=key.id), "green")
    if voice.quiet and not voice.as_json:  # alone on its line, for `KEY=$(danlu keys create -q …)`: it is nowhere else
        write(sys.stdout, credential)
    elif not voice.as_json:  # there it stands in the result, and nowhere else: logs keep what is said beside it
        voice.say(f"  {credential}", "bold")
    voice.say(say("keys.shown_once"), "yellow")
    voice.result(key_json(key) | {"key": credential})


def _row(sealed: StoredKey, spent: int, now: float) -> tuple[str, ...]:
    key = sealed.key
    limits = [
        f"{value:,}/{unit}"
        for value, unit in (
            (key.requests_per_minute, "rpm"), (key.tokens_per_minute, "tpm"), (key.concurrency, "conc"),
        )
        if value
    ]  # fmt: skip
    month = f"{spent:,}" + (f" / {key.tokens_per_month:,}" if key.tokens_per_month else "")
    expires = _shown(key.expires) if key.expires else "-"
    state = say(f"keys.state_{_state(sealed, now)}")
    return key.id, key.name, listed(key.models), " ".join(limits) or "-", month, expires, state


def _state(sealed: StoredKey, now: float) -> str:
    key = sealed.key
    if key.revoked:
        return "revoked"
    if not key.is_good(now):
        return "expired"
    return "rotating" if now < sealed.previous_until else "good"


def _shown(time_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(time_s, datetime.UTC):%Y-%m-%d %H:%M} UTC"
