"""A whole run by the public API: what `danlu run recipes/ember-sft-cpu.yaml` does, act by act.

    python examples/whole_run.py                # 12 steps, for looking; the recipe's own epochs take minutes

Each act leaves its result in the run folder and is skipped when it is there already: start this twice and the second
time nothing is computed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import danlu

RECIPE = Path(__file__).parents[1] / "recipes" / "ember-sft-cpu.yaml"
QUICK = ("training.max_steps=12", "evaluation.max_items=12", "evaluation.tasks=[domain]", "exports=[adapter]")


def main(overrides: Sequence[str] = QUICK, *, runs: Path = Path("runs")) -> danlu.Run:
    """Prepare, train, evaluate and export; `overrides` are those of the command line, `key=value`."""
    recipe = danlu.Recipe.load(RECIPE, overrides)
    found = danlu.check(recipe)  # no torch: faults, missing files and predicted memory before anything is loaded
    assert found["ok"], found["errors"]
    run = danlu.Run.create(recipe, runs)
    print(f"run folder: {run.folder}")

    prepared = danlu.prepare(run)
    rows = prepared.ledger["rows"]
    print(f"prepare: {rows['used']} of {rows['read']} rows used, {rows['rejected']} rejected")
    for stage in prepared.stages:
        train = stage.dataset.card.parts["train"]
        print(f"  {stage.name}: {train['items']} items, {train['tokens']:,} tokens")

    for trained in danlu.train(run, prepared):
        print(f"train: {trained.name}, {trained.facts['num_steps']} steps, loss {trained.facts['train_loss']:.3f}")

    report = danlu.evaluate(run)
    difference = report.difference
    assert difference is not None, "the recipe's questions were asked"
    low, high = difference["interval"]
    print(f"evaluate: {report.base['accuracy']:.1%} → {report.tuned['accuracy']:.1%} "
          f"(difference {difference['value']:+.1%}, 95 %: {low:+.1%} to {high:+.1%})")  # fmt: skip

    for artifact in danlu.export(run):
        print(f"export: {artifact.manifest.kind} in {artifact.folder}, parity {artifact.verdict}")
    print(f"The report: {run.path('report.html')}")
    return run


if __name__ == "__main__":
    main(sys.argv[1:] or QUICK)
