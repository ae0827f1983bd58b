"""What each stage of a chain added: every stage's checkpoint answers the same questions."""

from __future__ import annotations

from typing import Any

from danlu.core.progress import Progress
from danlu.pipeline.evaluate import evaluate_checkpoint
from danlu.pipeline.run_all import Summary
from danlu.run.run import Run


def climb(run: Run, summary: Summary, *, progress: Progress) -> list[dict[str, Any]]:
    """One row per rung: the base, then each stage."""
    rows = []
    for index, stage in enumerate(summary.stages):
        report = (
            summary.report
            if index == len(summary.stages) - 1
            else evaluate_checkpoint(run, stage.folder, progress=progress)
        )
        if index == 0:
            rows.append(_row("base", report.base, None, report.forgetting, "base"))
        rows.append(_row(stage.name, report.tuned, report.preference, report.forgetting, "tuned"))
    return rows


def _row(
    stage: str, side: dict[str, Any], preference: dict[str, Any] | None, forgetting: dict[str, Any] | None, name: str
) -> dict[str, Any]:
    reward = (preference or {}).get("implicit_reward", {})
    return {
        "stage": stage,
        "accuracy": side.get("accuracy"),
        "interval": side.get("interval"),
        "pair_accuracy": reward.get("value"),
        "pair_interval": reward.get("interval"),
        "perplexity": (forgetting or {}).get(name, {}).get("perplexity"),
    }
