"""What each stage of a chain added: every stage's checkpoint answers the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from danlu.core.progress import Progress
from danlu.evaluation.report import Report
from danlu.pipeline.evaluate import evaluate_checkpoint
from danlu.pipeline.run_all import Summary
from danlu.run.run import Run


def climb(run: Run, summary: Summary, *, progress: Progress) -> list[dict[str, Any]]:
    """One row per rung: the base, then each stage."""
    rows: list[dict[str, Any]] = []
    for index, stage in enumerate(summary.stages):
        is_last = index == len(summary.stages) - 1
        report = summary.report if is_last else evaluate_checkpoint(run, stage.folder, progress=progress)
        if index == 0:
            rows.append(_row(Path(run.recipe.model.base).name, report, "base"))
        rows.append(_row(stage.name, report, "tuned"))
    return rows


def _row(stage: str, report: Report, name: Literal["base", "tuned"]) -> dict[str, Any]:
    """`pair_accuracy`: share of held-out pairs in which the better answer is likelier, per token."""
    side = report.base if name == "base" else report.tuned
    pairs = (report.preference or {}).get(name, {}).get("normalised", {})
    return {
        "stage": stage,
        "accuracy": side.get("accuracy"),
        "interval": side.get("interval"),
        "pair_accuracy": pairs.get("value"),
        "pair_interval": pairs.get("interval"),
        "perplexity": (report.forgetting or {}).get(name, {}).get("perplexity"),
    }
