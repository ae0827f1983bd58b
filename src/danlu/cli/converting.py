"""`danlu convert`: rows of any format and file as rows of one format in a JSONL file.

What the other format cannot hold (tools in Alpaca, documents as conversations) is left out and named by file and line;
what reading mended (control characters, mojibake) is told as `danlu prepare` tells it. Of other columns the short ones
come along, as tags do everywhere; long texts and objects beside the format's own do not, which is said at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import typer

from danlu.cli.preparing import show_changes
from danlu.cli.voice import FIX, Voice
from danlu.core.errors import RunError
from danlu.core.files import writing
from danlu.core.messages import listed, say
from danlu.core.shelf import unknown_name
from danlu.data.formats import FORMATS, convert
from danlu.data.ledger import Ledger
from danlu.data.rows import RowError
from danlu.data.sources import FileReport, SourceSpec, read

MOST_TOLD = 10
SUFFIXES = (".jsonl", ".ndjson", "")
"""What is written is JSON lines; a name that promises something else would mislead whoever opens it."""


def convert_files(sources: Sequence[SourceSpec], out: Path, to: str, voice: Voice) -> None:
    """Write `out`; exit 1 where rows were left out, 2 where none is left. A file that is there is not replaced."""
    if to not in FORMATS.names():
        raise unknown_name(to, FORMATS.names(), of="formats", where="--to")
    if out.suffix.lower() not in SUFFIXES:
        raise RunError("cli.convert_suffix", where="-o", given=out.suffix, instead=out.with_suffix(".jsonl").name)
    if out.exists():
        raise RunError("cli.file_exists", given=str(out))
    ledger, left_out, reports = Ledger(), list[dict[str, str]](), list[FileReport]()
    num_written = 0

    def rows() -> Iterator[bytes]:
        nonlocal num_written
        for sample in read(sources, ledger, progress=voice.progress, reports=reports):
            try:
                row = convert(sample, to)
            except RowError as error:
                left_out.append({"where": str(sample.origin), "reason": error.text})
                continue
            num_written += 1
            yield orjson.dumps(row) + b"\n"

    with writing(out) as file:
        file.writelines(rows())
    if not num_written:
        out.unlink()
    left_out += [{"where": entry.where, "reason": entry.text} for entry in ledger.rejects]
    changed = [{"where": entry.where, "reason": entry.text} for entry in ledger.changes]
    voice.say(say("cli.converted", num=num_written, path=out if num_written else "–", left_out=len(left_out)), "bold")
    for note in ledger.notes:
        voice.say(note, FIX)
    show_changes(ledger.to_json(), voice)
    for one in left_out[:MOST_TOLD]:
        voice.say(f"  {one['where']}: {one['reason']}", FIX)
    if len(left_out) > MOST_TOLD:
        voice.say(say("cli.and_more", num=len(left_out) - MOST_TOLD), FIX)
    dropped = sum((report.dropped or Counter() for report in reports), Counter[str]())
    if dropped:
        names = listed(f"{name} × {num:,}" for name, num in dropped.most_common(MOST_TOLD))
        voice.say(say("cli.dropped_columns", names=names), FIX)
    path = str(out) if num_written else None
    voice.result({"written": num_written, "path": path, "left_out": left_out, "changed": changed,
                  "dropped_columns": dict(dropped)})  # fmt: skip
    if left_out:
        raise typer.Exit(1 if num_written else 2)
