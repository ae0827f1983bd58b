"""All weights trained with masters and moments beside the card, stage after stage. On a CPU nothing is saved by it, and
the way is the same."""

from __future__ import annotations

from pathlib import Path

from command_line import danlu
from safetensors import safe_open
from tiny_company import write_recipe

from danlu.run.run import Run, list_runs

RECIPE = """
name: whole
model: {{base: {base}, dtype: bfloat16}}
adapter: {{kind: full, offload: {offload}}}
stages: [pretrain, sft]
data:
  sources: [qa.jsonl, docs/]
  split: {{test: 0.1, validation: 0.1}}
training: {{max_steps: 3, lr: 0.003, context: 128, batch_tokens: 256, save_every: 2, patience: 0}}
evaluation: {{tasks: [domain], max_new_tokens: 8, questions: test.jsonl}}
gate: {{min_gain: 0.0, max_forget: 5.0}}
"""


def test_masters_beside_the_card_through_two_stages(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE, offload="all")
    said = danlu("train", recipe, "--runs", "runs")
    assert said.code == 0, said.err
    assert "on a CPU: master weights and moments lie in the machine's memory anyway" in said.out + said.err
    (found,) = list_runs(Path("runs"))
    run = Run.open(found)
    losses = [step["loss"] for step in run.events.read("step")]
    assert len(losses) == 6 and losses[2] < losses[0] and losses[5] < losses[3]
    for stage in run.path("checkpoints").iterdir():
        if stage.is_dir():
            newest = sorted(stage.glob("step-*"))[-1]
            with safe_open(newest / "state.safetensors", framework="pt") as file:
                kinds = {name.partition("/")[0] for name in file.keys()}
            assert kinds == {"weight", "master", "exp_avg", "exp_avg_sq", "step"}


def test_a_knob_that_asks_for_what_is_not_there_is_refused(company: Path, base: Path) -> None:
    recipe = write_recipe(company, base, text=RECIPE, offload="masters")
    said = danlu("check", recipe, "adapter.masters=none")
    assert said.code != 0 and "adapter.offload" in said.out + said.err
