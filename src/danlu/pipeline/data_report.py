"""The data report of a run: facts as JSON, one HTML page in each language, and a sheet of rows for a person to judge.

`prepare` gathers the facts while it works (`prepared_facts.py`) and calls `write_report`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.files import write_json, write_text
from danlu.core.messages import LANGUAGES, Language
from danlu.data.dataset import Dataset
from danlu.data.excerpts import veil, without_findings
from danlu.data.quality import DataFacts
from danlu.data.quality.facts import AuditRow
from danlu.data.quality.gather import with_silent_files
from danlu.data.quality.lengths import histogram_of
from danlu.data.quality.lights import lights_of
from danlu.pipeline.data_report_html import render_data_report
from danlu.pipeline.data_report_words import Words
from danlu.run.run import Run

FACTS = "data_report.json"
AUDIT = "audit_sheet.csv"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for a formula at the beginning of a cell."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """Where the report of a run lies; `pages` by language."""

    facts: Path
    pages: dict[Language, Path]
    audit: Path


def write_report(run: Run, facts: DataFacts) -> DataReport:
    """data_report.json, data_report.{en,zh}.html and audit_sheet.csv in the run's folder, each whole or not at all."""
    facts = _settled(run, facts)
    write_text(run.path(AUDIT), audit_sheet(facts.audit))
    facts = veiled_facts(facts)
    pages = {language: run.path(f"data_report.{language}.html") for language in LANGUAGES}
    lights = [{"name": light.name, "tone": light.tone, "value": light.value} for light in lights_of(facts)]
    write_json(run.path(FACTS), {**facts.to_json(), "lights": lights})
    for language in LANGUAGES:
        (other,) = (page.name for one, page in pages.items() if one != language)
        write_text(pages[language], render_data_report(facts, language=language, other=other))
    return DataReport(run.path(FACTS), pages, run.path(AUDIT))


def veiled_facts(facts: DataFacts) -> DataFacts:
    """The facts as pages and JSON show them: texts of rows veiled, and values in names of files, columns and classes
    hidden. The sheet, which a person judges rows by, shows rows as they are trained on."""
    audit = tuple(
        replace(row, prompt=one, answer=two) for row, (one, two) in zip(facts.audit, _texts(facts), strict=True)
    )
    tree = replace(facts, audit=audit).to_json()
    named = list(dict.fromkeys(_strings(tree)))
    shown = dict(zip(named, without_findings(named), strict=True))
    return DataFacts.from_json(_renamed(tree, {name: to for name, to in shown.items() if name != to}))


def _texts(facts: DataFacts) -> Iterator[tuple[str, str]]:
    for row in facts.audit:
        yield veil(row.prompt, len(row.prompt) + 1), veil(row.answer, len(row.answer) + 1)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from value
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """With other names; two files that are shown alike stay two."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    if not isinstance(value, Mapping):
        return value
    fresh: dict[str, Any] = {}
    for name, inner in value.items():
        shown = names.get(name, name)
        while shown in fresh:
            shown += "\u2032"
        fresh[shown] = _renamed(inner, names)
    return fresh


def _settled(run: Run, facts: DataFacts) -> DataFacts:
    """What the run's own files know better than any shard: files without a row, questions of the project, and tokens of
    all stages together, of which replay has its share."""
    if run.path("ledger.json").is_file():
        facts = with_silent_files(facts, run.read("ledger.json")["rejects"])
    told = replace(facts.told, has_questions=run.recipe.evaluation.questions is not None)
    stages = [Dataset.open(path.parent, verify=False) for path in sorted(run.path("dataset").glob("*/format.json"))]
    lengths = [stage.part("train").lengths for stage in stages if "train" in stage.names]
    num_tokens = sum(int(one.sum()) for one in lengths)
    if told.replay is not None and num_tokens:
        told = replace(told, replay=replace(told.replay, share=told.replay.num_tokens / num_tokens))
    if told.lengths is not None and len(lengths) > 1:
        supervised = sum(
            int(stage.card.parts["train"]["supervised_tokens"]) for stage in stages if "train" in stage.names
        )
        tokens = histogram_of(np.concatenate(lengths))
        every = replace(told.lengths, tokens=tokens, num_tokens=num_tokens, num_supervised=supervised)
        told = replace(told, lengths=every)
    return replace(facts, told=told)


def audit_sheet(rows: tuple[AuditRow, ...]) -> str:
    """CSV for any spreadsheet: UTF-8 with its mark, heads in both languages, two empty columns to fill in.

    A text that begins like a formula gets an apostrophe, so that opening the sheet computes nothing."""
    names = ("id", "where", "kind", "asked", "answered", "flags", "scores", "verdict", "remark")
    english, chinese = Words("en"), Words("zh")
    keys = [name if name in ("asked", "answered") else f"audit_{name}" for name in names]
    sheet = io.StringIO()
    writer = csv.writer(sheet)
    writer.writerow([f"{english(key)} / {chinese(key)}" for key in keys])
    for row in rows:
        scores = " ".join(f"{name}={value:g}" for name, value in row.scores.items())
        cells = (row.id, row.where, row.kind, row.prompt, row.answer, " ".join(row.flags), scores, "", "")
        writer.writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells])
    return "\ufeff" + sheet.getvalue()
