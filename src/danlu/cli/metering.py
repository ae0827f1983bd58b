"""`danlu usage`: requests, tokens and their cost, by key, model, version or day."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from danlu.cli.keying import Place
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.files import write_text
from danlu.core.messages import listed, say
from danlu.serving.usage import BYS, By, JournalReader, ReportRow, csv_lines, report, total


def show_usage(
    by: Sequence[str], since: str | None, until: str | None, file: Path | None, place: Place, voice: Voice
) -> None:
    """What journals say up to now, this month's unless told otherwise."""
    groups = _groups(by)
    today = datetime.datetime.now(datetime.UTC).date()
    first = _day(since) if since else today.replace(day=1)
    last = _day(until) if until else today
    with place.store() as store:
        folded = JournalReader(place.home, store).fold()
        rows = report(store, by=groups, since=f"{first}", until=f"{last}", prices=place.section().prices)
        names = {sealed.key.id: sealed.key.name for sealed in store.keys_since(-1)[1]}
    rows = [replace(row, of=_with_name(row.of, names)) for row in rows]
    columns = tuple(rows[0].of) if rows else groups
    whole = total(rows)
    for journal, line in folded.broken[:5]:
        voice.say(say("keys.usage_broken", journal=journal, n=line), "red")
    if not rows:
        voice.say(say("keys.usage_none", since=first, until=last))
    else:
        heads = [say(f"keys.by_{name}") for name in columns]
        heads += [say(f"keys.col_{name}") for name in ("requests", "prompt", "answer", "cost", "rest")]
        shown = [(*row.of.values(), *_cells(row)) for row in rows]
        shown.append((say("keys.total"), *[""] * (len(columns) - 1), *_cells(whole)))
        filled = [at for at in range(len(heads)) if any(row[at] not in ("", "-") for row in shown)]
        table = [[row[at] for at in filled] for row in shown]
        title = say("keys.usage_title", since=first, until=last)
        voice.table([heads[at] for at in filled], table, title=title, num_whole=1)
    if file is not None:
        text = io.StringIO()
        csv.writer(text).writerows(csv_lines(rows, columns))
        write_text(file, text.getvalue())
        voice.say(say("keys.usage_written", path=file, rows=len(rows)))
    voice.result({
        "since": str(first), "until": str(last), "by": list(groups), "rows": [row.to_json() for row in rows],
        "total": whole.to_json(),
    })  # fmt: skip


def _with_name(of: Mapping[str, str], names: Mapping[str, str]) -> dict[str, str]:
    """The key's name behind its id."""
    named: dict[str, str] = {}
    for column, value in of.items():
        named[column] = value
        if column == "key":
            named["name"] = names.get(value, "")
    return named


def _groups(by: Sequence[str]) -> tuple[By, ...]:
    found = [known for word in by for name in word.split(",") for known in BYS if known == name]
    if len(found) != sum(len(word.split(",")) for word in by) or len(set(found)) != len(found):
        raise RunError("keys.bad_by", where="--by", given=" ".join(by), known=listed(BYS))
    return tuple(found)


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise RunError("keys.bad_day", where=text) from None


def _cells(row: ReportRow) -> tuple[str, ...]:
    rest = [
        f"{say(f'keys.{name}')} {num:,}"
        for name, num in (
            ("aborted", row.aborted), ("failed", row.failed), ("lost", row.lost), ("open", row.open),
            ("uncounted", row.uncounted),
        )
        if num
    ]  # fmt: skip
    cost = "-" if row.cost is None else f"{row.cost:,.4f}"
    return f"{row.requests:,}", f"{row.prompt_tokens:,}", f"{row.answer_tokens:,}", cost, " ".join(rest)
