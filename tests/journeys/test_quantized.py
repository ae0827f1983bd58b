"""The whole story on a quantised base: train, evaluate, export the adapter and the merged model, open both again."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_recipe

from danlu.model.quantized import quantization_of
from danlu.pipeline.open_engine import open_artifact
from danlu.run.artifact import Manifest
from danlu.run.run import Run, list_runs

RECIPE = """
name: small
model: {{base: {base}, dtype: float32, quantize: {quantize}}}
adapter: lora
data:
  sources: [qa.jsonl]
  split: {{test: 0.1, validation: 0.1}}
training: {{max_steps: 12, lr: 0.003, context: 128, batch_tokens: 1024, save_every: 5, patience: 0}}
evaluation: {{tasks: [domain], max_new_tokens: 8, questions: test.jsonl}}
gate: {{min_gain: 0.0, max_forget: 5.0}}
exports: [adapter, merged]
"""


@pytest.mark.parametrize("quantize", ["nf4", "fp8"])
def test_a_quantised_base_from_data_to_artefacts(company: Path, base: Path, quantize: str) -> None:
    recipe = write_recipe(company, base, text=RECIPE, quantize=quantize)
    said = danlu("run", recipe, "--runs", "runs", "--json")
    assert said.code == 0, said.err
    (found,) = list_runs(Path("runs"))
    run = Run.open(found)
    losses = [step["loss"] for step in run.events.read("step")]
    assert losses[-1] < losses[0]
    adapter, merged = run.path("artifacts", "adapter"), run.path("artifacts", "merged")
    checks = {check["name"]: check for check in Manifest.read(merged).parity["checks"]}
    assert {check["verdict"] for check in checks.values()} == {"pass"}
    merging = Manifest.read(merged).parity["merging"]
    assert merging["kl"]["codes"] < merging["kl"]["original"] and merging["num_questions"] > 0
    assert merging["taken"] == "codes" or merging["is_by_questions"], "the nearer one, unless the other answers better"
    assert checks["danlu_logits"]["numbers"]["max_abs"] < 1e-3, "merging itself is exact"
    assert merging["taken"] in (merged / "README.md").read_text(encoding="utf-8")
    told = Manifest.read(adapter)
    assert told.parity["verdict"] == "pass" and told.base["quantize"] == quantize
    assert quantize in (adapter / "README.md").read_text(encoding="utf-8")
    assert quantization_of(open_artifact(adapter).model) == quantize, "answers in the precision that was proven"
    assert quantization_of(open_artifact(merged).model) == "none"
