"""What is in these files? The facts behind `danlu inspect`, as one JSON value; printing is the CLI's.

Streams once over the data. Tokens are not known here: the caller may hand in `show`, which renders one sample (text,
ids, loss mask) for the preview.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from danlu.core.progress import Progress
from danlu.data.ledger import Entry, Ledger
from danlu.data.sample import Message, Sample
from danlu.data.sources import FileReport, SourceSpec, read
from danlu.data.split import fold_finely

LENGTH_EDGES = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
"""Upper edges (characters, exclusive) of the length histogram; the last bar is open."""
MAX_LISTED = 10_000
PREVIEW_CHARS = 600


def inspect(
    paths: Sequence[SourceSpec | Path | str],
    *,
    num_samples: int = 3,
    show: Callable[[Sample], Any] | None = None,
    progress: Progress | None = None,
    ledger: Ledger | None = None,
) -> dict[str, Any]:
    """The JSON of `danlu inspect`: format, encoding, rows, rejects, files, columns, kinds, lengths, duplicates,
    samples.

    Raises DataError for paths that do not exist. `usable` is False when not one row can be used (the command's exit 2).
    """
    ledger = ledger if ledger is not None else Ledger()
    reports: list[FileReport] = []
    kinds: Counter[str] = Counter()
    chars: Counter[str] = Counter()
    bars = [0] * (len(LENGTH_EDGES) + 1)
    seen: set[int] = set()
    preview: list[dict[str, Any]] = []
    longest = 0
    for sample in read(paths, ledger, progress=progress, reports=reports):
        text = flat_text(sample)
        kinds[sample.kind] += 1
        bars[next((i for i, edge in enumerate(LENGTH_EDGES) if len(text) < edge), len(LENGTH_EDGES))] += 1
        chars[sample.kind] += len(text)
        longest = max(longest, len(text))
        key = f"{sample.kind} {fold_finely(text)}".encode("utf-8", "surrogatepass")  # what a run drops duplicates by
        seen.add(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()))
        if len(preview) < num_samples:
            preview.append(preview_of(sample) | ({"rendered": show(sample)} if show else {}))
    account = ledger.to_json()
    return {
        "format": _common(report.format for report in reports if report.num_used),
        "container": _common(report.container for report in reports if report.num_used),
        "encoding": _common(report.encoding for report in reports if report.encoding != "binary") or "binary",
        "rows": account["rows"],
        "rejects": [_entry(entry) for entry in ledger.rejects[:MAX_LISTED]],
        "changes": [_entry(entry) for entry in ledger.changes[:MAX_LISTED]],
        "omitted": {part: max(0, len(getattr(ledger, part)) - MAX_LISTED) for part in ("rejects", "changes")},
        "reasons": dict(Counter(entry.reason for entry in ledger.rejects).most_common()),
        "usable": ledger.num_used > 0,
        "files": [report.to_json() for report in reports],
        "columns": next((report.columns for report in reports if report.columns), {}),
        "kinds": dict(kinds),
        "lengths": {
            "unit": "characters", "total": chars.total(), "longest": longest, "by_kind": dict(chars),
            "histogram": [{"below": edge, "rows": num} for edge, num in zip([*LENGTH_EDGES, None], bars, strict=True)],
        },
        "duplicates": ledger.num_used - len(seen),
        "notes": ledger.notes,
        "samples": preview,
    }  # fmt: skip


def flat_text(sample: Sample) -> str:
    """All text of a sample in one string: what lengths are measured on and duplicates compared by."""
    if sample.kind == "document":
        return sample.text
    if sample.kind == "label":
        return f"{sample.text}\x1f{sample.label}"
    if sample.kind == "preference":
        return "\x1e".join(_flat(part) for part in (sample.prompt, sample.chosen, sample.rejected))
    judged = f"\x1e{sample.desirable}" if sample.kind == "feedback" else ""
    return _flat(sample.messages) + judged


def _flat(messages: Iterable[Message]) -> str:
    parts = []
    for message in messages:
        calls = "".join(str(call) for call in message.tool_calls)
        parts.append(f"{message.role}\x1f{message.reasoning or ''}{message.content}{calls}")
    return "\x1f".join(parts)


def preview_of(sample: Sample) -> dict[str, Any]:
    """The first samples as a person reads them, long texts cut."""
    out: dict[str, Any] = {"kind": sample.kind, "file": sample.origin.file, "line": sample.origin.line}
    if sample.kind == "document":
        return out | {"title": sample.title, "text": _short(sample.text)}
    if sample.kind == "label":
        return out | {"text": _short(sample.text), "label": sample.label}
    if sample.kind == "preference":
        return out | {part: _turns(getattr(sample, part)) for part in ("prompt", "chosen", "rejected")}
    return (
        out
        | {"messages": _turns(sample.messages)}
        | ({"desirable": sample.desirable} if sample.kind == "feedback" else {})
    )


def _turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": _short(message.content)}
        | ({"reasoning": _short(message.reasoning)} if message.reasoning else {})
        | ({"tool_calls": list(message.tool_calls)} if message.tool_calls else {})
        | ({"train": message.train} if message.train is not None else {})
        for message in messages
    ]


def _short(text: str) -> str:
    return text if len(text) <= PREVIEW_CHARS else f"{text[:PREVIEW_CHARS]}…"


def _entry(entry: Entry) -> dict[str, Any]:
    shown = entry.to_json()
    return {key: shown[key] for key in ("file", "line", "reason", "code")}


def _common(values: Iterable[str]) -> str:
    """The one value that all have, "mixed", or "" of nothing."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else "mixed" if distinct else ""
