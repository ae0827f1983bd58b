"""A base loses a layer, is trained on, and the table of what may be deployed tells both."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import danlu


def test_pruned_healed_and_compared(company: Path, base: Path) -> None:
    small = company / "small"
    pruned = danlu("prune", base, "--layers", 1, "--data", "qa.jsonl", "-o", small, "--json").json
    assert pruned["layers"] == [2, 1] and len(pruned["influence"]) == 2
    assert pruned["left_out"] == [min(range(2), key=lambda layer: (pruned["influence"][layer], -layer))]
    assert json.loads((small / "config.json").read_text())["num_hidden_layers"] == 1
    assert {check["name"]: check["verdict"] for check in pruned["checks"]} == {
        "danlu_logits": "pass", "transformers_logits": "pass",
    }  # fmt: skip
    cost = pruned["held_out"]
    assert cost["kl"] > 0 and 0 <= cost["same_choice"] <= 1 and cost["num_tokens"] > 0
    assert json.loads((small / "pruning.json").read_text())["held_out"] == cost

    told = danlu("prune", base, "--layers", 1, "--data", "qa.jsonl", "-o", company / "again", "--lang", "zh")
    assert "请不要直接使用" in told.out and "transformers 读回了文件夹" in told.out

    shorter = ("training.max_steps=6", "evaluation.tasks=[domain]", f"model.base={small}")
    healed = danlu("run", "recipe.yaml", *shorter, "--json")
    assert healed.code == 0, healed.err
    (run,) = Path("runs").glob("tiny-*")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert losses[-1] < losses[0], "training mends it"
    found = danlu("compare", run, "-n", 4, "--json").json
    assert found["pruned"]["left_out"] == pruned["left_out"] and found["pruned"]["held_out"]["kl"] == cost["kl"]
    assert found["variants"][0]["measured"]["accuracy"]["num_items"] == 4
    assert "1 of its 2 layers" in (run / "variants.en.html").read_text()


def test_what_cannot_be_pruned_is_refused_and_leaves_nothing(company: Path, base: Path) -> None:
    (company / "few.jsonl").write_text('{"text": "The sun rises."}\n')
    (company / "full").mkdir()
    (company / "full" / "mine.txt").write_text("mine")
    for words, told in (
        (("--layers", 2, "--data", "qa.jsonl", "-o", "out"), "1"),
        (("--layers", 1, "--data", "few.jsonl", "-o", "out"), "8"),
        (("--layers", 1, "--data", "qa.jsonl", "-o", "full"), "full: it is there already"),
    ):
        said = danlu("prune", base, *words)
        assert said.code == 2 and told in said.err
    assert not (company / "out").exists() and [path.name for path in (company / "full").iterdir()] == ["mine.txt"]
