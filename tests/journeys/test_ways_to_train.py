"""Every way to train, from data to artefacts that are proven: which weights train is the recipe's one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_recipe

from danlu.run.artifact import Manifest
from danlu.run.run import Run, list_runs

RECIPE = """
name: small
model: {{base: {base}, dtype: float32}}
adapter: {adapter}
data:
  sources: [few.jsonl]
  split: {{test: 0.0, validation: 0.2}}
training: {{max_steps: 12, lr: 0.003, context: 128, batch_tokens: 1024, save_every: 5, patience: 0}}
evaluation: {{tasks: [domain], max_new_tokens: 8, questions: test.jsonl}}
gate: {{min_gain: 0.0, max_forget: 5.0}}
exports: {exports}
"""
NUM_ROWS = 10  # each is a probe of the proof
WAYS = {
    "dora": ("{kind: lora, dora: true, rank: 4}", ["adapter"]),
    "prefix": ("{kind: prefix, num_tokens: 8}", ["adapter"]),
    "full, last layer": ("{kind: full, layers: 1}", ["merged"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_from_data_to_proven_artefacts(company: Path, base: Path, way: str) -> None:
    adapter, exports = WAYS[way]
    few = Path("qa.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:NUM_ROWS]
    Path("few.jsonl").write_text("".join(few), encoding="utf-8")
    recipe = write_recipe(company, base, text=RECIPE, adapter=adapter, exports=f"[{', '.join(exports)}]")
    checked = danlu("check", recipe, "--json")
    assert checked.code == 0, checked.err
    said = danlu("run", recipe, "--runs", "runs", "--json")
    assert said.code == 0, said.err
    (found,) = list_runs(Path("runs"))
    run = Run.open(found)
    losses = [step["loss"] for step in run.events.read("step")]
    assert losses[-1] < losses[0]
    planned = checked.json["plan"]["stages"][0]["num_trainable"]
    assert next(iter(run.events.read("stage")))["num_trainable"] == planned, "what check said trains"
    assert danlu("show", found, "--json").json["trained"]["num_trainable"] == planned
    for name in exports:
        manifest = Manifest.read(run.path("artifacts", name))
        assert manifest.parity["verdict"] == "pass", [c for c in manifest.parity["checks"] if c["verdict"] != "pass"]
