"""The learning curve: the same recipe trained on 25 and 50 % of the rows, asked the same questions as the whole.

Does more data help? The honest answer is to train on less and look. Each share is a small run of its own in the run's
folder `curve/`, with a nested part of the train rows (what 25 % holds, 50 % holds too), the same epochs, the same
validation rows. An interrupted curve goes on where it stood; finished shares are found again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from danlu.core.errors import DataError, EvaluationError
from danlu.core.files import write_json
from danlu.core.messages import say
from danlu.core.progress import Progress, Silent
from danlu.data.contract import Contract
from danlu.data.dataset import Dataset
from danlu.data.tokens import Item
from danlu.evaluation.report import Report, with_curve
from danlu.evaluation.stats import compare
from danlu.pipeline.evaluate import CURVE, evaluate_checkpoint, save_report
from danlu.pipeline.open_engine import last_checkpoint, trained_digest
from danlu.pipeline.prepare import Prepared, StageData
from danlu.pipeline.train import train
from danlu.recipe import Recipe
from danlu.run.run import Run

RATIOS = (0.25, 0.5)
FEWEST_ROWS = 8
"""A share with fewer rows than this teaches nothing about data."""


def learning_curve(
    run: Run, *, ratios: Sequence[float] = RATIOS, device: str = "auto", progress: Progress | None = None
) -> dict[str, Any]:
    """Train on shares of the data, ask each the domain questions, write curve.json and put the curve into the report.

    EvaluationError where the recipe asks no domain questions, or a share would hold next to nothing.
    """
    progress = progress or Silent()
    if "domain" not in run.recipe.evaluation.tasks:
        raise EvaluationError("evaluation.no_items", where="evaluation.tasks")
    last = last_checkpoint(run)
    reports: dict[float, Report] = {}
    sizes = {1.0: _num_rows(run)}
    for ratio in sorted(ratios):
        progress.note(say("proof.curve_share", share=f"{100 * ratio:g} %"))
        child = _child(run, ratio)
        prepared = _share(run, child, ratio)
        sizes[ratio] = len(prepared.stages[-1].dataset.part("train"))
        checkpoint = train(child, prepared, device=device, progress=progress)[-1].folder
        reports[ratio] = evaluate_checkpoint(run, checkpoint, tasks=("domain",), device=device, progress=progress)
    reports[1.0] = evaluate_checkpoint(run, last, tasks=("domain",), device=device, progress=progress)
    curve = _curve(reports, sizes) | {"trained": trained_digest(run)}
    write_json(run.path(CURVE), curve)
    if run.path("report.json").is_file():
        save_report(run, with_curve(Report.from_json(run.read("report.json")), curve))
    return curve


def _curve(reports: dict[float, Report], sizes: dict[float, int]) -> dict[str, Any]:
    """Points from no data (the base) to all of it, and what the last doubling brought, paired by question."""
    whole = reports[1.0]
    points: list[dict[str, Any]] = [_point(0.0, 0, whole.base)]
    points += [_point(ratio, sizes[ratio], report.tuned) for ratio, report in sorted(reports.items())]
    most = max(ratio for ratio in reports if ratio < 1.0)
    half, full = _rights(reports[most]), _rights(whole)
    shared = [name for name in full if name in half]
    doubling = compare(
        [half[name][0] for name in shared], [full[name][0] for name in shared], [full[name][1] for name in shared]
    )
    return {"points": points, "doubling": doubling.to_json() | {"from": most}}


def _point(ratio: float, num_rows: int, totals: dict[str, Any]) -> dict[str, Any]:
    kept = {key: totals[key] for key in ("accuracy", "interval", "num_items", "num_groups")}
    return {"ratio": ratio, "num_rows": num_rows} | kept


def _rights(report: Report) -> dict[str, tuple[bool, str]]:
    rows = [row for row in report.items if row["task"] == "domain"]
    return {row["id"]: (bool(row["tuned"]["right"]), row["group"]) for row in rows}


def _child(run: Run, ratio: float) -> Run:
    """The run of a share: the same recipe under the share's name. What is left of other recipes makes room."""
    tree = run.recipe.resolved() | {"name": f"{run.recipe.name}-{round(100 * ratio)}", "exports": []}
    child = Run.create(Recipe.from_tree(tree), run.path("curve"))
    shutil.copyfile(run.path("contract.json"), child.path("contract.json"))
    return child


def _share(run: Run, child: Run, ratio: float) -> Prepared:
    """The child's datasets, written once for each dataset of the run."""
    prepared = run.outcome("prepare")
    assert prepared is not None, "a trained run is prepared"
    stages = []
    for name in prepared["stages"]:
        whole = Dataset.open(run.path("dataset", name), verify=False)
        part = whole.part("train")
        if len(part) * ratio < FEWEST_ROWS:
            raise EvaluationError("proof.curve_too_small", where=f"{100 * ratio:g} %", rows=len(part))
        stages.append(StageData(name, _written(child.path("dataset", name), whole, ratio, run.recipe.training.seed)))
    contract = Contract.from_json(run.read("contract.json"))
    return Prepared(tuple(stages), run.read("ledger.json"), prepared["certificate"], contract, prepared)


def _written(folder: Path, whole: Dataset, ratio: float, seed: int) -> Dataset:
    mark = folder.parent / f"{folder.name}.json"
    try:
        if mark.is_file() and mark.read_bytes() == whole.digest.encode():
            return Dataset.open(folder)
    except DataError:
        pass  # damaged: written anew
    shutil.rmtree(folder, ignore_errors=True)
    num_rows = len(whole.part("train"))
    drawn = np.random.default_rng(seed).permutation(num_rows)[: round(num_rows * ratio)]
    parts = {name: _items(whole, name, range(len(whole.part(name)))) for name in whole.names if name != "train"}
    dataset = Dataset.write(folder, {"train": _items(whole, "train", sorted(map(int, drawn)))} | parts, whole.card)
    mark.write_bytes(whole.digest.encode())
    return dataset


def _items(whole: Dataset, name: str, at: Sequence[int]) -> Iterator[Item]:
    part = whole.part(name)
    for index in at:
        row = part.rows[index]
        yield Item(tuple(part[index]), row.get("origin", ""), row.get("group"), row.get("sample", ""))


def _num_rows(run: Run) -> int:
    prepared = run.outcome("prepare")
    assert prepared is not None, "a trained run is prepared"
    return len(Dataset.open(run.path("dataset", prepared["stages"][-1]), verify=False).part("train"))
