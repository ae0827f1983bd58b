"""`danlu compare A B`: runs, artefacts or versions of the registry, question by question, as a table and a page;
`danlu compare RUN`: the variants of one run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import danlu
from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.files import write_text
from danlu.core.messages import current_language, say
from danlu.evaluation.compare import SideBySide, side_by_side
from danlu.evaluation.compare_html import render_comparison, task_rows
from danlu.evaluation.gate import percent
from danlu.evaluation.report import Report
from danlu.pipeline.variants_html import (
    NARROW,
    NOTHING,
    is_busy,
    pruned_text,
    render_variants,
    right_text,
    variant_rows,
)
from danlu.run.kept import read_kept
from danlu.run.registry import Registry
from danlu.run.run import Run


def compare_variants(target: str, runs: Path, voice: Voice, *, num_questions: int | None, html: Path | None) -> None:
    """Every artefact of one run, measured here."""
    run = _run_of(target, runs)
    table = danlu.compare_variants(run, num_questions=num_questions, progress=voice.progress)
    voice.table(*variant_rows(table, columns=NARROW), num_whole=1)
    trained = right_text(table["trained"])
    voice.say(
        say("variants.told", hardware=table["hardware"], questions=table["num_questions"], trained=trained), "dim"
    )
    readers = ", ".join(f"{row['name']}: {row['reader']}" for row in table["variants"] if row["measured"])
    voice.say(say("variants.read_by", readers=readers or NOTHING), "dim")
    if table["pruned"]:
        voice.say(pruned_text(table), "dim")
    if is_busy(table):
        voice.say(say("variants.busy"), "yellow")
    for row in table["variants"]:
        if row["why_not"]:
            voice.say(say("variants.row_unmeasured", name=row["name"], why=row["why_not"]), "yellow")
        elif row["verdict"] != "pass":
            verdict = say(f"variants.verdict_{row['verdict']}")
            voice.say(say("variants.row_unproven", name=row["name"], verdict=verdict), "yellow")
    page = run.path(f"variants.{current_language()}.html")
    if html is not None:
        write_text(html, render_variants(table, current_language()))
        page = html
    voice.say(say("compare.wrote", path=page))
    voice.result(table | {"page": str(page)})


def compare(first: str, second: str, runs: Path, voice: Voice, *, html: Path | None) -> None:
    found_runs = [_run_of(name, runs) for name in (first, second)]
    paths = [run.path("report.json") for run in found_runs]
    reports = [Report.from_json(read_kept(path), where=str(path)) for path in paths]
    found = side_by_side(reports[0], reports[1], names=_names(found_runs, (first, second)))
    head = found.headline.comparison
    voice.say(say(f"compare.{head.direction}", first=found.names[0], second=found.names[1]), "bold")
    voice.table(*task_rows(found), title=" → ".join(percent(report.tuned.get("accuracy")) for report in reports))
    for change in found.changes:
        voice.say(f"{say(f'compare.what_{change.what}')}: {change.first[:16]} → {change.second[:16]}", "dim")
    page = html or found_runs[1].path(f"compare-{found_runs[0].name}.html")
    voice.result(found.to_json() | {"page": _written(page, found, voice, is_asked=html is not None)})


def _written(page: Path, found: SideBySide, voice: Voice, *, is_asked: bool) -> str | None:
    """The page's path; None where nobody named one and the run's folder takes none."""
    try:
        write_text(page, render_comparison(found))
    except OSError as error:
        if is_asked:
            raise
        voice.say(say("compare.no_page", path=page, why=error.strerror or type(error).__name__))
        return None
    voice.say(say("compare.wrote", path=page))
    return str(page)


def _names(runs: Sequence[Run], said: tuple[str, str]) -> tuple[str, str]:
    """Versions as they were named, runs by their own names; whatever was said where that is the same twice."""
    first, second = (name if _is_version(name) else run.name for name, run in zip(said, runs, strict=True))
    return (first, second) if first != second else said


def _run_of(name: str, runs: Path) -> Run:
    """A version's run, or whatever else a target may be."""
    if _is_version(name):
        return Run.open(runs / Registry(runs).resolve(name).run)
    return open_target(name, (), runs)


def _is_version(name: str) -> bool:
    return ("@" in name or ":" in name) and not Path(name).exists()
