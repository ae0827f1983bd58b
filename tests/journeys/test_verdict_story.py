"""From a trained run to a verdict one can defend: learning curve, exit code for CI, probes, a kill in between."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import danlu

from danlu.run.run import Run


def test_a_learning_curve_is_measured_once_and_goes_into_the_report(story: Path) -> None:
    (folder,) = (path for path in (story / "runs").iterdir() if (path / "run.json").is_file())
    said = danlu("evaluate", folder, "--curve", "--json")
    assert said.code == 0, said.err
    curve = said.json["curve"]
    assert [point["ratio"] for point in curve["points"]] == [0.0, 0.25, 0.5, 1.0]
    rows = [point["num_rows"] for point in curve["points"]]
    assert rows[1] == round(rows[3] * 0.25) and rows[2] == round(rows[3] * 0.5)
    assert curve["doubling"]["from"] == 0.5 and "interval" in curve["doubling"]
    assert said.json["diagnosis"], "the curve says something"
    shares = sorted(path for path in (folder / "curve").iterdir() if path.is_dir() and (path / "run.json").is_file())
    assert len(shares) == 2
    halves = {name: set(_origins(path)) for path in shares for name in [Run.open(path).recipe.name.rpartition("-")[2]]}
    assert halves["25"] < halves["50"], "what a quarter holds, the half holds too"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("curve/*/checkpoints/**/*.safetensors")}
    assert kept
    again = danlu("evaluate", folder, "--curve", "--json")
    assert again.json["curve"] == curve
    assert kept == {path: path.stat().st_mtime_ns for path in folder.glob("curve/*/checkpoints/**/*.safetensors")}
    assert (
        "学习曲线" in (folder / "report.html").read_text("utf-8")
        or "Learning curve" in (folder / "report.html").read_text()
    )


def _origins(folder: Path) -> list[str]:
    (rows,) = folder.glob("dataset/*/train/rows.jsonl")
    return [json.loads(line)["origin"] for line in rows.read_text().splitlines()]


@pytest.mark.parametrize(("max_forget", "code"), [("5.0", 0), ("0.0", 1)])
def test_ci_is_told_by_the_exit_code_only_when_it_asks(
    company: Path, tmp_path: Path, max_forget: str, code: int
) -> None:
    """A random model gains nothing: min_gain 0 lets it pass, a forgetting limit of 0 does not."""
    wishes = [f"gate.max_forget={max_forget}", "gate.max_loss=null", "gate.max_category_loss=null", "gate.min_gain=-1"]
    tasks = "evaluation.tasks=[forgetting]" if code else "evaluation.tasks=[domain, forgetting]"
    runs = tmp_path / "runs"
    assert danlu("train", "recipe.yaml", *wishes, tasks, "--runs", runs, "--json").code == 0
    plain = danlu("evaluate", "recipe.yaml", *wishes, tasks, "--runs", runs, "--json")
    assert plain.code == 0, "without --gate a verdict is news, not a failure"
    gated = danlu("evaluate", "recipe.yaml", *wishes, tasks, "--runs", runs, "--gate", "--json")
    assert gated.code == code and gated.json["gate"]["decision"] == ("hold" if code else "ship")


def test_probes_and_memorisation_need_no_question_of_the_users(company: Path, tmp_path: Path) -> None:
    wishes = [
        "evaluation.tasks=[probes, memorisation]",
        "evaluation.probes=[negation, injection]",
        "evaluation.max_items=24",
    ]
    runs = tmp_path / "runs"
    assert danlu("train", "recipe.yaml", *wishes, "--runs", runs, "--json").code == 0
    told = danlu("evaluate", "recipe.yaml", *wishes, "--runs", runs, "--json").json
    assert set(told["probes"]["kinds"]) == {"negation", "injection"}
    assert told["probes"]["kinds"]["negation"]["tuned"]["num_items"] == 24
    assert told["memorisation"]["tuned"]["trained"]["num_rows"] == 24
    assert told["endings"]["probes"]["tuned"]["num_answers"] == told["probes"]["tuned"]["num_items"]
