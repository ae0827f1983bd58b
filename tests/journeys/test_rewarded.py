"""Learning from rewards, from the command line: a base gets better at what is checked, also after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_recipe, write_rows

from danlu.core.files import read_json, sha256_file
from danlu.run.run import Run, list_runs
from waiting_kit import until_true

BRIEF = """
name: brief
model: {base: ember, dtype: float32}
data: {sources: [train.jsonl], split: {test: 0.0, validation: 0.1}, cleaning: {near_duplicates: keep}}
method: {kind: grpo, rewards: {format: 1.0}, max_new_tokens: 16}
training: {max_steps: 5, lr: 2.0e-3, context: 64, batch_tokens: 1600, eval_every: 100, schedule: constant, warmup_ratio: 0}
evaluation: {tasks: [domain], questions: test.jsonl, metric: format, max_new_tokens: 24}
gate: {max_forget: null, max_loss: null, max_category_loss: null}
exports: []
"""
MOST_CHARS = 12


def only_run(folder: Path) -> Run:
    (found,) = list_runs(folder)
    return Run.open(found)


def write_brief_questions(folder: Path) -> None:
    """Questions of the demo company, one of each rule; a right answer is a short one."""
    company = Path(str(resources.files("danlu.assets"))) / "company" / "qa.jsonl"
    first: dict[str, list[str]] = {}
    for line in company.read_text("utf-8").splitlines():
        row = json.loads(line)
        first.setdefault(row["group"], [turn["content"] for turn in row["messages"]])
    rows = [
        {"question": turns[0], "answer": turns[1][:10], "rules": {"max_chars": MOST_CHARS}, "group": group}
        for group, turns in list(first.items())[:60]
    ]
    write_rows(folder / "train.jsonl", rows[:36])
    write_rows(folder / "test.jsonl", rows[36:])


def test_the_embedded_base_learns_what_is_rewarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Brief answers, of which it was shown none: what drawn answers earn rises, and so does the share of brief ones
    among the greedy answers to rules it was never asked about. Drawn answers of 16 characters rose from 0.48 to 0.85 in
    six steps, greedy ones from 0.67 to 1.0; half of that is asked for."""
    monkeypatch.chdir(tmp_path)
    write_brief_questions(tmp_path)
    Path("recipe.yaml").write_text(BRIEF)
    said = danlu("run", "recipe.yaml", "--json")
    assert said.code == 0, said.err
    run = only_run(Path("runs"))
    rewards = [step["metrics"]["reward"] for step in run.events.read("step")]
    assert max(rewards[-2:]) > rewards[0] + 0.2, rewards
    assert said.json["tuned"]["accuracy"] >= said.json["base"]["accuracy"] + 0.2, said.json
    shown = danlu("show", run.folder, "--json").json["rewards"]
    assert shown["reward"] == rewards[-1] and 0 < shown["validation"] <= 1 and "flat_ratio" in shown
    report = read_json(run.path("report.json"))
    assert [point["reward"] for point in report["training"]["rewards"]["training"]] == rewards
    assert "Reward of drawn answers" in run.path("report.html").read_text("utf-8")


CHAIN = """
name: chain
model: {{base: {base}, dtype: float32}}
adapter: {{kind: lora, rank: 4}}
data: {{sources: [qa.jsonl, labels.csv], split: {{test: 0.0, validation: 0.1}}, replay: {{ratio: 0.0}}}}
stages:
  - {{kind: sft, training: {{max_steps: 4}}}}
  - {{kind: grpo, rewards: {{char_f1: 1.0, label: 0.5, exact: 0.0}}, group: 4, max_new_tokens: 8, beta: 0.05}}
training: {{max_steps: 14, lr: 0.003, context: 128, batch_tokens: 700, save_every: 2, eval_every: 0.5, patience: 0}}
evaluation: {{tasks: [domain], questions: test.jsonl, max_new_tokens: 8}}
exports: [adapter]
"""


def test_killed_while_it_answers_it_ends_with_the_very_same_bytes(company: Path, base: Path) -> None:
    """A chain from examples to rewards: the adapter goes on, held to what the first stage made of it."""
    recipe = write_recipe(company, base, text=CHAIN)
    assert danlu("train", recipe, "--runs", "whole", "--json").code == 0
    child = subprocess.Popen(
        [sys.executable, "-m", "danlu", "train", str(recipe), "--runs", "killed", "-q"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip

    def is_rewarded() -> bool:
        opened = map(Run.open, list_runs(Path("killed")))
        steps = [step for run in opened for step in run.events.read("step") if step["stage"] == "2-grpo"]
        return len(steps) >= 3

    until_true(is_rewarded, lambda: "the second stage did not begin")
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    run = only_run(Path("killed"))
    assert run.outcome("train-1-sft") and run.outcome("train-2-grpo") is None, "it was killed in the second stage"
    said = danlu("train", recipe, "--runs", "killed", "--json")
    assert said.code == 0 and "resumed" in said.err
    whole = only_run(Path("whole"))
    facts = [read_json(one.path("acts", "train-2-grpo.json"))["outcome"] for one in (run, whole)]
    assert facts[0] == facts[1] and facts[0]["validation_reward"] is not None and facts[0]["validation_loss"] is None
    digests = [sha256_file(next(one.path(f["folder"]).rglob("adapter_model.safetensors")))
               for one, f in zip((run, whole), facts, strict=True)]  # fmt: skip
    assert digests[0] == digests[1]
    step = next(step for step in whole.events.read("step") if step["stage"] == "2-grpo")
    assert abs(step["metrics"]["kl"]) < 1e-5, "the reference is the model as the stage found it"
    assert {"reward", "reward_std", "reward_label", "flat_ratio", "cut_ratio", "answer_tokens"} <= set(step["metrics"])


def test_rows_without_words_to_hold_answers_against_are_left_out(company: Path, base: Path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    turns = [{"role": "user", "content": "Look it up."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    rows = [json.loads(line) for line in Path("qa.jsonl").read_text("utf-8").splitlines()]
    write_rows(Path("qa.jsonl"), [*rows, {"messages": turns}])
    recipe = write_recipe(company, base, text=CHAIN.replace("  - {{kind: sft, training: {{max_steps: 4}}}}\n", ""))
    said = danlu("prepare", recipe, "--runs", "runs", "--json")
    assert said.code == 0, said.err
    rejects = [json.loads(line) for line in only_run(Path("runs")).path("rejects.jsonl").read_text().splitlines()]
    assert len(rejects) == 1 and "no answer in words" in rejects[0]["reason"]
