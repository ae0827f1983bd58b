"""`danlu compare A B`: runs, artefacts or versions of the registry, question by question, as a table and a page."""

from __future__ import annotations

from pathlib import Path

from danlu.cli.targets import open_target
from danlu.cli.voice import Voice
from danlu.core.files import write_text
from danlu.core.messages import say
from danlu.evaluation.compare import side_by_side
from danlu.evaluation.compare_html import render_comparison
from danlu.evaluation.gate import percent, points
from danlu.evaluation.report import Report
from danlu.run.kept import read_kept
from danlu.run.registry import Registry
from danlu.run.run import Run


def compare(first: str, second: str, runs: Path, voice: Voice, *, html: Path | None) -> None:
    found_runs = [_run_of(name, runs) for name in (first, second)]
    paths = [run.path("report.json") for run in found_runs]
    reports = [Report.from_json(read_kept(path), where=str(path)) for path in paths]
    found = side_by_side(*reports)
    head = found.headline.comparison
    voice.say(say(f"compare.{head.direction}", first=first, second=second), "bold")
    heads = [say(f"compare.col_{name}") for name in ("task", "change", "interval", "p", "items", "sides")]
    rows = [
        (
            one.task, points(one.comparison.value), f"{points(one.comparison.low)} … {points(one.comparison.high)}",
            f"{one.p_holm:.3g}", str(one.num_shared), f"+{len(one.gained)} −{len(one.lost)}",
        )
        for one in found.tasks
    ]  # fmt: skip
    voice.table(heads, rows, title=f"{_accuracy(reports[0])} → {_accuracy(reports[1])}")
    for change in found.changes:
        voice.say(f"{say(f'compare.what_{change.what}')}: {change.first[:16]} → {change.second[:16]}", "dim")
    page = html or found_runs[1].path(f"compare-{found_runs[0].name}.html")
    write_text(page, render_comparison(found))
    voice.say(say("compare.wrote", path=page))
    voice.result(found.to_json() | {"page": str(page)})


def _run_of(name: str, runs: Path) -> Run:
    """A version's run, or whatever else a target may be."""
    if ("@" in name or ":" in name) and not Path(name).exists():
        return Run.open(runs / Registry(runs).resolve(name).run)
    return open_target(name, (), runs)


def _accuracy(report: Report) -> str:
    value = report.tuned.get("accuracy")
    return "-" if value is None else percent(value)
