"""`danlu sweep` over three keys: ranked by answers on the validation part, killed and gone on with, best recipe run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from command_line import danlu
from tiny_company import write_recipe

from waiting_kit import PATIENCE_S, until_true

RECIPE = """
name: tiny
model: {{base: {base}, dtype: float32}}
adapter: {{kind: lora, rank: 4}}
data:
  sources: [labels.csv]
  split: {{test: 0.1, validation: 0.4}}
  replay: {{ratio: 0}}
  cleaning: {{near_duplicates: keep, contaminated: keep}}
training: {{max_steps: 6, lr: 0.01, context: 128, batch_tokens: 1024, patience: 0}}
evaluation: {{tasks: [domain], max_new_tokens: 8}}
gate: {{min_gain: -1, max_forget: 1000, max_loss: null}}
exports: [adapter]
"""
OVER = ("--over", "training.lr=0.0001,0.02", "--over", "training.max_steps=2,30", "--over", "adapter.rank=2,4")


def trained(runs: Path) -> dict[str, int]:
    """Trials that were asked, and how often each was trained."""
    found = {}
    for events in runs.glob("*/trials/*/events.jsonl"):
        acts = [json.loads(line) for line in events.read_text().splitlines()]
        if (events.parent / "acts" / "trial.json").is_file():
            found[events.parent.name] = sum(act.get("event") == "step" or act.get("kind") == "step" for act in acts)
    return found


def test_a_sweep_is_killed_goes_on_and_ranks_by_answers(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE)
    words = ("sweep", recipe, *OVER, "--runs", company / "runs", "--json")
    child = subprocess.Popen(
        [sys.executable, "-m", "danlu", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until_true(lambda: len(trained(company / "runs")) >= 2 or child.poll() is not None)
    child.send_signal(signal.SIGKILL)
    child.wait()
    before = trained(company / "runs")
    assert 2 <= len(before) < 8, "killed on the way"
    said = danlu(*words)
    assert said.code == 0, said.err
    found = said.json
    after = trained(company / "runs")
    assert len(after) == 8 and {name: after[name] for name in before} == before, "what was done is not done again"
    ranking = found["ranking"]
    assert [one["accuracy"] for one in ranking] == sorted((one["accuracy"] for one in ranking), reverse=True)
    assert found["part"] == "validation" and found["num_items"] == 24
    settings, alike = ranking[0]["settings"], found["num_alike"]
    assert (settings["training.lr"], settings["training.max_steps"]) == (0.02, 30) and ranking[0]["accuracy"] > 0.9
    assert 1 <= alike <= 2, "one rank may do as well as the other; too little training does not"
    assert all(one["told_apart"] for one in ranking if one["settings"]["training.lr"] == 0.0001)
    best = yaml.safe_load(Path(found["best"]).read_text(encoding="utf-8"))
    for key, value in ranking[0]["settings"].items():
        chapter, name = key.split(".")
        assert best[chapter][name] == value
    assert best["exports"][0]["kind"] == "adapter"
    page = Path(found["page"]).read_text(encoding="utf-8")
    assert "training.lr=0.02" in page and "<svg" in page
    again = danlu(*words)
    assert again.json["ranking"] == ranking, "the same sweep finds its results"
    assert danlu("check", found["best"], "--json").code == 0


def test_halving_leaves_most_behind_early(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE)
    words = ("sweep", recipe, "--over", "training.lr=0.0001..0.02", "--over", "adapter.rank=2,4", "--over",
             "training.seed=0..9", "--by", "halving", "--trials", 6, "--runs", company / "runs", "--json")  # fmt: skip
    said = danlu(*words)
    assert said.code == 0, said.err
    found = said.json
    assert len(found["ranking"]) == 2 and len(found["dropped"]) == 4
    assert {one["share"] for one in found["dropped"]} == {1 / 3}


def test_without_a_validation_part_nothing_is_chosen(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE)
    said = danlu("sweep", recipe, "data.split.validation=0", *OVER[:2], "--runs", company / "runs", "--json")
    assert said.code == 2 and said.json["error"] == "sweep.none" and "validation" in said.json["message"]
    assert danlu("sweep", recipe, "--json").json["error"] == "sweep.nothing"
    assert danlu("sweep", recipe, *OVER, "--by", "bayes", "--json").json["error"] == "sweep.unknown_way"


def test_a_trial_whose_process_is_killed_ends_the_sweep_in_words_and_the_same_command_goes_on(
    company: Path, base: Path
) -> None:
    recipe = write_recipe(company, base, text=RECIPE)
    words = (
        "sweep",
        recipe,
        "--over",
        "training.lr=0.01,0.02",
        "--parallel",
        "2",
        "--runs",
        company / "runs",
        "--json",
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "danlu", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    until_true(lambda: trials_of(child.pid) or child.poll() is not None)
    os.kill(trials_of(child.pid)[0], signal.SIGKILL)
    out, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode != 0 and "--parallel 1" in out + err and "Traceback" not in err, err
    said = danlu(*words)
    assert said.code == 0, said.err
    assert len(said.json["ranking"]) == 2 and not said.json["failed"]


def trials_of(pid: int) -> list[int]:
    """Processes in which a sweep's trials run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(word) for children in tasks for word in children.read_text().split()]
    return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]
