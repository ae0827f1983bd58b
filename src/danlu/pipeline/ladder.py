"""What each stage of a chain added: every stage's checkpoint answers the same questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from danlu.core.progress import Progress
from danlu.evaluation.report import stage_row
from danlu.pipeline.evaluate import evaluate_checkpoint, save_report
from danlu.pipeline.run_all import Summary
from danlu.run.run import Run


def climb(run: Run, summary: Summary, *, progress: Progress) -> Summary:
    """The summary with one row per rung in its report: the base, then each stage. Saves the report."""
    rows = []
    for index, stage in enumerate(summary.stages):
        is_last = index == len(summary.stages) - 1
        report = summary.report if is_last else evaluate_checkpoint(run, stage.folder, progress=progress)
        if index == 0:
            rows.append(stage_row(Path(run.recipe.model.base).name, report, side="base"))
        rows.append(stage_row(stage.name, report))
    report = replace(summary.report, stages=rows)
    save_report(run, report)
    return replace(summary, report=report)
