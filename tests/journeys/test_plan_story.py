"""A newcomer asks what it will take, before anything is downloaded or bought."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import danlu

RECIPE = """
model: {base: Qwen/Qwen2.5-7B-Instruct}
data: {sources: [qa.jsonl]}
training: {batch_tokens: 16384}
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qa.jsonl").write_text('{"question": "?", "answer": "!"}\n' * 20_000)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_json_of_a_plan(recipe: Path) -> None:
    said = danlu("plan", recipe, "--card", "RTX 4090", "--price", "2", "model.thinking=drop", "--json")
    assert said.code == 0 and len(said.out.strip().splitlines()) == 1
    found = said.json
    assert found.keys() == {"base", "is_here", "card", "place", "is_estimate", "is_guess", "stages", "what_if"}
    (stage,) = found["stages"]
    assert stage["num_trainable"] == 40_370_176 and stage["fits"] is True and stage["cost"] > 0
    assert stage["memory"]["total_bytes"] == stage["total_bytes"] <= stage["budget_bytes"]
    assert sum(stage["policies"].values()) == 28 and stage["tokens_per_s"] > 1000 and stage["reasons"]
    assert {cell["card"] for cell in found["what_if"]} == {"RTX 4090"}
    assert {cell["way"] for cell in found["what_if"]} == {"lora", "nf4", "fp8", "full", "full_lean", "full_away"}
    assert {cell["context"] for cell in found["what_if"]} == {2048, 8192, 32_768}


def test_what_does_not_fit_is_said_with_a_way_out(recipe: Path) -> None:
    said = danlu("plan", recipe, "--card", "4060", "--lang", "en")
    assert said.code == 1
    assert "does not fit" in said.out and "model.quantize=nf4" in said.out and "L4" in said.out
    assert "tokens/s ·" not in said.out and "fastest way" not in said.out and "kWh" not in said.out
    full = danlu("plan", recipe, "--card", "4060", "adapter.kind=full", "--lang", "en")
    assert full.code == 1 and "nf4" not in full.out.partition("Elsewhere")[0]
    assert "adapter.masters=none" in full.out and "adapter.kind=lora" in full.out
    assert danlu("plan", recipe, "--card", "4060", "--memory", "40").code == 0


def test_a_plan_in_chinese(recipe: Path) -> None:
    said = danlu("plan", recipe, "--card", "a100 80gb", "--price", "12", "--lang", "zh")
    assert said.code == 0
    for words in ("权重", "矩阵乘", "词元", "换个条件", "每小时 12", "A100 80GB"):
        assert words in said.out, words
    assert "{" not in said.out


def test_faults_are_told_as_ever(recipe: Path) -> None:
    for words, key in (
        (("plan", recipe, "--card", "Voodoo"), "planning.unknown_card"),
        (("plan", recipe, "model.base=me/mine"), "planning.unknown_base"),
        (("plan", "nowhere.yaml"), "recipe.no_file"),
        (("plan", recipe, "training.lrr=1"), "recipe.invalid"),
    ):
        said = danlu(*words, "--json")
        assert said.code == 2 and said.json["error"] == key and said.json["message"] and said.json["fix"] is not None


@pytest.mark.parametrize("columns", ["40", "60", "200"])
def test_narrow_terminals_lose_nothing_but_room(recipe: Path, columns: str) -> None:
    """In a process of its own: no torch is loaded, and the terminal is as wide as it says."""
    code = (
        "import sys\nfrom danlu.cli.main import app\n"
        "try:\n    app(sys.argv[1:])\nfinally:\n    assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    words = ["plan", str(recipe), "--card", "4090", "--lang", "en"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": columns},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith(("│", "┃", "┏", "┡", "└"))]
    assert table and max(map(len, table)) <= int(columns)
    assert "QLoRA" in done.stdout and "weights" in done.stdout


def test_check_tells_the_plan_in_a_line(recipe: Path) -> None:
    said = danlu("check", recipe, "--json")
    (stage,) = said.json["plan"]["stages"]
    assert "sft" in stage["summary"] and stage["total_bytes"] > 0 and json.dumps(stage)
    assert stage["summary"] in danlu("check", recipe).out
