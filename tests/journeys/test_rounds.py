"""Rounds: new data, trained, held against what is in use, promoted or held; and the way back."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import danlu

from danlu.run.registry import Registry

LENIENT = [
    "gate.min_gain=-1", "gate.max_forget=99", "gate.max_loss=null", "gate.max_category_loss=null",
    "evaluation.tasks=[domain, forgetting]",
]  # fmt: skip


def test_a_round_is_promoted_again_and_taken_back(company: Path, tmp_path: Path) -> None:
    where = ["--runs", str(tmp_path / "runs"), "--json"]
    wishes = [*LENIENT, "round.max_loss=1"]
    first = danlu("round", "recipe.yaml", *wishes, *where)
    assert first.code == 0, first.err
    assert first.json["decision"] == "promote" and first.json["promoted"]["number"] == 1
    again = danlu("round", "recipe.yaml", *wishes, *where)
    assert again.json["promoted"]["number"] == 1, "nothing is new"
    (source,) = [path for path in company.rglob("*.jsonl") if "answer" in path.read_text()][:1]
    with source.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps({"question": "Who waters the plants on the fifth floor?", "answer": "Mr Tan does."}) + "\n"
        )
    second = danlu("round", "recipe.yaml", *wishes, *where)
    assert second.code == 0, second.err
    assert second.json["promoted"]["number"] == 2
    assert second.json["run"] != first.json["run"], "a version is not overwritten by the next round"
    assert second.json["comparison"]["num_shared"] > 0
    registry = Registry(tmp_path / "runs")
    name = second.json["promoted"]["name"]
    assert registry.open(registry.resolve(f"{name}:1")).is_dir()
    back = danlu("registry", "rollback", f"{name}@prod", *where)
    assert back.json["number"] == 1
    assert danlu("audit", "verify", *where).code == 0


def test_a_gate_that_holds_holds_the_round(company: Path, tmp_path: Path) -> None:
    where = ["--runs", str(tmp_path / "runs"), "--json"]
    held = danlu("round", "recipe.yaml", *LENIENT, "gate.min_gain=0.9", *where)
    assert held.code == 1
    assert held.json["decision"] == "hold" and "+90.0" in held.json["reason"]
    assert danlu("registry", "list", *where).json == []
    refused = danlu("registry", "add", str(tmp_path / "runs" / held.json["run"]), *where)
    assert refused.code == 2 and refused.json["error"] == "registry.held"


def test_a_round_is_finished_after_a_kill_and_undoes_nobody(company: Path, tmp_path: Path) -> None:
    """Killed between version and alias; then people take the version out of use, and rounds go on every night."""
    runs = tmp_path / "runs"
    where = ["--runs", str(runs), "--json"]
    wishes = [*LENIENT, "round.max_loss=1", "round.start=adapter"]
    first = danlu("round", "recipe.yaml", *wishes, *where)
    assert first.code == 0, first.err
    registry = Registry(runs)
    path = runs / "registry.jsonl"
    *kept, _pointed = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(kept))
    (runs / first.json["run"] / "round.json").unlink()
    again = danlu("round", "recipe.yaml", *wishes, *where)
    assert again.json["promoted"]["number"] == 1 and registry.resolve("tiny@prod").number == 1
    told = (runs / first.json["run"] / "round.json").read_bytes()
    same = danlu("round", "recipe.yaml", *wishes, *where)
    assert same.json["run"] == first.json["run"], "going on from itself would train again each night"
    assert (runs / first.json["run"] / "round.json").read_bytes() == told, "the verdict stays"

    (source,) = [path for path in company.rglob("*.jsonl") if "answer" in path.read_text()][:1]
    with source.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"question": "Who feeds the fish?", "answer": "Mrs Lim does."}) + "\n")
    second = danlu("round", "recipe.yaml", *wishes, *where)
    assert second.json["promoted"]["number"] == 2 and second.json["run"] != first.json["run"]
    danlu("registry", "rollback", "tiny@prod", *where)
    held = danlu("round", "recipe.yaml", *wishes, *where)
    assert held.code == 1 and held.json["run"] == second.json["run"]
    assert registry.resolve("tiny@prod").number == 1, "a rollback is not undone by the next night's round"
    assert danlu("registry", "withdraw", "tiny:2", "--reason", "invents", *where).code == 0
    assert danlu("round", "recipe.yaml", *wishes, *where).code == 1
    assert len(registry.read().versions["tiny"]) == 2, "nor is a withdrawal"
