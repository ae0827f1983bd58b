"""`danlu inspect`: files as a run would read them, with the first samples as tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import typer

from danlu.cli.lines import cells, terminal_cells
from danlu.cli.preparing import show_previews
from danlu.cli.voice import FIX, Voice
from danlu.core.errors import DanluError, RecipeError
from danlu.core.messages import listed, say
from danlu.core.shelf import unknown_name
from danlu.data.columns import PARTS
from danlu.data.encode import Encoder
from danlu.data.formats import FORMATS
from danlu.data.inspect import inspect
from danlu.data.ledger import Ledger
from danlu.data.sample import Sample
from danlu.data.sources import READERS, SourceSpec
from danlu.pipeline.base import Base, open_base
from danlu.pipeline.desk import preview
from danlu.recipe.model import ModelSection

MOST_FILES = 60
OTHER_COLUMNS = 60
"""Cells that format, encoding and the counts want beside a name; a name that leaves them less is folded."""


def sources_of(paths: Sequence[Path], form: str | None, columns: Sequence[str]) -> list[SourceSpec]:
    """Paths as a recipe's `data.sources` would name them; `columns` are `question=问题`.

    Raises RecipeError for a format or a pair that is none, DataError for a part that no row has."""
    known = [*FORMATS.names(), *READERS.names()]
    if form is not None and form not in known:
        raise unknown_name(form, known, of="formats", where="--format")
    named = {}
    for pair in columns:
        part, equals, column = pair.partition("=")
        if not (part and equals and column):
            raise RecipeError("cli.bad_column", where="--columns", given=pair)
        named[part] = column
    return [SourceSpec(path, form, named or None) for path in paths]


def show_inspection(sources: Sequence[SourceSpec], voice: Voice, *, base: str, num_samples: int, context: int) -> None:
    """Print (and with --json return) the account; exit 2 when nothing is usable."""
    eye = _Eye(base, context)
    found = inspect(sources, num_samples=num_samples, show=eye.show, progress=voice.progress)
    if len(found["files"]) > 1:
        voice.say(say("cli.inspect_rows", **found["rows"]), "bold")
        _show_files(found["files"], voice)
    else:
        voice.say(f"{found['format'] or '-'} · {found['encoding'] or '-'}", "bold")
        voice.say(say("cli.inspect_rows", **found["rows"]))
        if found["columns"]:
            voice.say(_columns(found["columns"]), "dim")
    if found["usable"]:
        voice.say(say("cli.inspect_longest", chars=found["lengths"]["longest"], duplicates=found["duplicates"]))
    for note in [*found["notes"], *eye.notes]:
        voice.say(note, "yellow")
    if found["rejects"]:
        voice.say(say("cli.inspect_rejects"), "bold")
        for entry in found["rejects"][:10]:
            where = f"{entry['file']}:{entry['line']}" if entry["line"] else entry["file"]
            voice.say(f"  {where}: {entry['reason']}", "yellow")
    show_previews([sample["rendered"] for sample in found["samples"] if sample.get("rendered")], voice)
    if found["usable"]:
        voice.say(say("cli.next", command="danlu new NAME"))
    voice.result(found)
    if not found["usable"]:
        if not voice.as_json:
            voice.fail(say("cli.unusable", given=listed(str(source.path) for source in sources)).partition("\n")[0])
        raise typer.Exit(2)


def _show_files(files: Sequence[Mapping[str, Any]], voice: Voice) -> None:
    """A row each; the folder that all are in stands once above them, for a name that is cut in two helps nobody."""
    parents = [PurePath(file["file"]).parts[:-1] for file in files]
    shared = [
        level[0] for level in itertools.takewhile(lambda level: len(set(level)) == 1, zip(*parents, strict=False))
    ]
    folder = str(PurePath(*shared)) if shared else ""
    shown = files[:MOST_FILES]
    names = [file["file"].removeprefix(folder).lstrip("/") for file in shown]
    voice.table(
        [say(f"cli.col_{name}") for name in ("file", "format", "encoding", "used", "changed", "rejected")],
        [
            (name, _format(file), file["encoding"], *(file["rows"][fate] for fate in ("used", "changed", "rejected")))
            for name, file in zip(names, shown, strict=True)
        ],
        title=f"{folder}/" if folder else None,
        num_whole=1 if max(map(cells, names)) <= terminal_cells() - OTHER_COLUMNS else 0,
    )
    if len(files) > MOST_FILES:
        voice.say(say("cli.and_more", num=len(files) - MOST_FILES), FIX)


def _format(file: Mapping[str, Any]) -> str:
    """The rows' format, and the columns of other names that it was found in; Alpaca's `output` is no other name."""
    renamed = {part: column for part, column in file["columns"].items() if column not in (part, *PARTS)}
    return " · ".join(filter(None, [file["format"] or file["container"], _columns(renamed)]))


def _columns(columns: Mapping[str, str]) -> str:
    """Which column is taken for what."""
    return " · ".join(f"{part} ← {column}" for part, column in columns.items())


class _Eye:
    """Shows samples as tokens, if a tokenizer can be found; says once why not."""

    def __init__(self, base: str, context: int) -> None:
        self.notes: list[str] = []
        self.base: Base | None = None
        try:
            self.base = open_base(ModelSection(base=base, init="random"))
            self.encoder = Encoder(self.base.tokenizer, self.base.template, context, "split")
        except DanluError as error:
            self.notes.append(error.text)

    def show(self, sample: Sample) -> dict[str, Any] | None:
        if self.base is None:
            return None
        try:
            encoded = self.encoder.encode(sample, Ledger())
        except DanluError as error:
            self.notes.append(error.text)
            return None
        if not encoded:
            return None
        return preview(encoded[0].ids.tolist(), encoded[0].weights.tolist(), self.encoder, str(sample.origin))
