"""Longer stories: three stages in a row, all weights, labels, a run that is killed, a run that is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_recipe

from danlu.core.files import read_json, sha256_file
from danlu.run.run import Run, list_runs
from waiting_kit import PATIENCE_S, until_true

CHAIN = """
name: chain
model: {{base: {base}, dtype: float32}}
adapter: {{kind: {adapter}}}
data:
  sources: [qa.jsonl, pairs.jsonl, docs]
  cleaning: {{near_duplicates: keep, repetition: keep}}
  split: {{test: 0.1, validation: 0.1}}
stages:
  - {{kind: pretrain, training: {{max_steps: 3}}}}
  - sft
  - {{kind: dpo, training: {{max_steps: 2, lr: 0.001}}}}
training: {{max_steps: 4, lr: 0.003, context: 128, batch_tokens: 1024, save_every: 2, patience: 0}}
evaluation: {{tasks: [domain, preference, forgetting, edge], max_new_tokens: 8, questions: test.jsonl, general: general.jsonl, preference: pairs_test.jsonl}}
gate: {{min_gain: 0.0, max_forget: 5.0}}
exports: [{exports}]
"""


def only_run(folder: Path) -> Run:
    (found,) = list_runs(folder)
    return Run.open(found)


@pytest.mark.parametrize(("adapter", "exports"), [("lora", "adapter"), ("full", "merged")])
def test_three_stages_each_from_the_last_ones_output(company: Path, base: Path, adapter: str, exports: str) -> None:
    """Documents, conversations and pairs come from one set of sources; each stage takes what its method learns."""
    recipe = write_recipe(company, base, text=CHAIN, adapter=adapter, exports=exports)
    said = danlu("run", recipe, "--runs", "runs", "--json")
    assert said.code == 0, said.err
    run = only_run(Path("runs"))
    assert said.json["parity"]["verdict"] == "pass"
    assert "edge is left out" in said.err
    steps = [(step["stage"], step["number"]) for step in run.events.read("step")]
    wanted = [("1-pretrain", 3), ("2-sft", 4), ("3-dpo", 2)]
    assert steps == [(name, number) for name, last in wanted for number in range(1, last + 1)]
    first_dpo = next(step for step in run.events.read("step") if step["stage"] == "3-dpo")
    assert first_dpo["loss"] == pytest.approx(0.6931, abs=2e-3), "policy and reference begin equal"
    report = read_json(run.path("report.json"))
    assert report["preference"]["implicit_reward"]["value"] is not None and report["forgetting"]["ratio"] > 0
    rows = read_json(run.path("ledger.json"))["rows"]
    assert rows["read"] == rows["used"] + rows["rejected"] and rows["rejected"] == 0
    pretrain = read_json(run.path("dataset", "1-pretrain", "card.json"))["parts"]["train"]
    assert pretrain["items"] > 1
    again = danlu("run", recipe, "--runs", "runs", "--json")
    assert again.code == 0 and len(list(run.events.read("step"))) == len(steps), "nothing is trained twice"


def test_only_the_stage_that_changed_is_trained_again(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=CHAIN, adapter="lora", exports="adapter")
    assert danlu("train", recipe, "--runs", "runs", "--json").code == 0
    run = only_run(Path("runs"))
    steps = len(list(run.events.read("step")))
    Path("pairs.jsonl").write_text(
        "".join(Path("pairs.jsonl").read_text("utf-8").splitlines(keepends=True)[:30]), "utf-8"
    )
    assert danlu("train", recipe, "--runs", "runs", "--json").code == 0
    fresh = [step["stage"] for step in list(run.events.read("step"))[steps:]]
    assert "3-dpo" in fresh


LABELS = """
name: labels
model: {{base: {base}, dtype: float32}}
data: {{sources: [labels.csv], split: {{test: 0.2, validation: 0.1}}}}
training: {{max_steps: 4, lr: 0.003, context: 128, batch_tokens: 1024, patience: 0}}
evaluation: {{tasks: [domain], max_new_tokens: 8}}
"""


def test_labels_are_asked_for_and_counted_by_class(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=LABELS)
    assert danlu("train", recipe, "--runs", "runs", "--json").code == 0
    said = danlu("evaluate", recipe, "--runs", "runs", "--json")
    assert said.code == 0, said.err
    assert {item["reference"] for item in said.json["items"]} == {"good", "bad"}
    assert 8 <= said.json["tuned"]["num_items"] <= 16
    assert said.json["classes"]["tuned"]
    seen = danlu("evaluate", recipe, "--runs", "runs", "--questions", "labels.csv", "--json")
    assert seen.code == 0
    assert len(seen.json["items"]) < 30 and "near-duplicate" in seen.err, (
        "texts seen in training are not asked for their label"
    )


SLOW = """
name: slow
model: {{base: {base}, dtype: float32}}
adapter: {{kind: lora, rank: 4, dropout: 0.1}}
data: {{sources: [qa.jsonl], split: {{test: 0.0, validation: 0.1}}}}
training: {{max_steps: 60, lr: 0.003, context: 128, batch_tokens: 256, save_every: 2, eval_every: 0.3, patience: 0}}
evaluation: {{tasks: [domain], questions: test.jsonl, max_new_tokens: 8}}
exports: [adapter]
"""


def start(*words: object) -> subprocess.Popen[bytes]:
    """A real `danlu` process."""
    return subprocess.Popen(
        [sys.executable, "-m", "danlu", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def wait_for_step(runs: Path, number: int) -> None:
    def is_there() -> bool:
        opened = map(Run.open, list_runs(runs))
        return any(step["number"] >= number for run in opened for step in run.events.read("step"))

    until_true(is_there, lambda: "training did not begin")


def digest_of(run: Run) -> str:
    folder = run.path(read_json(run.path("acts", "train-1-sft.json"))["outcome"]["folder"])
    (adapter,) = folder.rglob("adapter_model.safetensors")
    return sha256_file(adapter)


def test_killed_in_training_it_ends_with_the_very_same_bytes(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=SLOW)
    assert danlu("train", recipe, "--runs", "whole", "--json").code == 0
    child = start("train", recipe, "--runs", "killed", "-q")
    wait_for_step(Path("killed"), 11)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    run = only_run(Path("killed"))
    done = max(step["number"] for step in run.events.read("step"))
    assert 11 <= done < 60 and run.outcome("train-1-sft") is None, "it was killed in the middle"
    early = danlu("evaluate", recipe, "--runs", "killed", "--json")
    assert early.code == 2 and early.json["error"] == "pipeline.not_trained"
    said = danlu("train", recipe, "--runs", "killed", "--json")
    assert said.code == 0 and "resumed" in said.err
    assert digest_of(run) == digest_of(only_run(Path("whole")))


def test_ctrl_c_says_so_and_loses_nothing(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=SLOW.replace("max_steps: 60", "max_steps: 150"))
    child = start("train", recipe, "--runs", "runs", "--json")
    wait_for_step(Path("runs"), 5)
    child.send_signal(signal.SIGSTOP)  # on a busy machine it would be done before the second command has begun
    locked = danlu("train", recipe, "--runs", "runs", "--json")
    assert locked.code == 2 and locked.json["error"] == "run.locked" and str(child.pid) in locked.json["message"]
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGCONT)
    out, err = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 130 and b"Traceback" not in err, err.decode()
    assert json.loads(out.splitlines()[-1])["error"] == "cli.interrupted"
    run = only_run(Path("runs"))
    stopped = max(step["number"] for step in run.events.read("step"))
    said = danlu("train", recipe, "--runs", "runs", "--json")
    assert said.code == 0 and "resumed" in said.err
    numbers = [step["number"] for step in run.events.read("step")]
    assert numbers[-1] == 150 and len(numbers) <= 151, f"stopped at {stopped}, went on from there"


def test_a_killed_evaluation_keeps_the_answers_it_had(story: Path) -> None:
    """Answers are remembered by engine and question; asking again computes only what is missing."""
    run = only_run(story / "runs")
    run.forget("evaluate")
    files = sorted(run.path("answers").iterdir())
    sizes = {path: path.stat().st_size for path in files}
    path = max(files, key=lambda path: sizes[path])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + lines[-3][: len(lines[-3]) // 2])  # cut in the middle of a line
    report = read_json(run.path("report.json"))
    said = danlu("evaluate", story / "company" / "recipe.yaml", "--runs", story / "runs", "--json")
    assert said.code == 0, said.err
    assert said.json["items"] == report["items"] and said.json["tuned"] == report["tuned"]
