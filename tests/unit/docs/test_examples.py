"""The examples run: an example that does not is worse than none."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from http_kit import Quiet, listening

EXAMPLES = Path(__file__).parents[3] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_is_read_in_one_go(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 200


def test_supervised_fine_tuning_by_hand_leaves_an_adapter(tmp_path):
    told = load("sft_by_hand").main(num_steps=2, folder=tmp_path)
    assert told["before"] != told["after"]
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_preference_learning_by_hand_prefers_the_better_answers(tmp_path):
    assert load("dpo_by_hand").main(num_steps=4, num_held_out=8, folder=tmp_path) > 0.5


@pytest.mark.slow
def test_a_whole_run_by_the_public_api(tmp_path):
    module = load("whole_run")
    overrides = (*module.QUICK, "training.max_steps=1", "evaluation.max_items=2", "evaluation.max_new_tokens=4")
    run = module.main(overrides, runs=tmp_path)
    assert run.path("report.html").is_file()
    assert run.path("artifacts", "adapter", "artifact.json").is_file()


class Parrot(Quiet):
    """Answers every question with "80 yuan"."""

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server asks for
        self.content()
        answer = {"choices": [{"message": {"role": "assistant", "content": "80 yuan"}, "finish_reason": "stop"}]}
        self.answer(200, json.dumps(answer).encode(), Content_Type="application/json")


@pytest.fixture
def url() -> Iterator[str]:
    with listening(Parrot) as address:
        yield f"{address}/v1"


def test_a_remote_model_is_asked_once_and_judged(url, tmp_path, capsys):
    rows = [
        {"question": "Meal allowance per day?", "answer": "80 yuan"},
        {"question": "Taxi allowance per day?", "answer": "60 yuan"},
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    module = load("evaluate_remote")
    accuracy = module.main([url, "parrot", str(questions)])
    assert accuracy.value == 0.5
    assert accuracy.low < 0.5 < accuracy.high
    assert "1 of 2 right" in capsys.readouterr().out

    again = module.main([url, "parrot", str(questions)])  # from the kept answers
    assert again == accuracy
    assert len(list((tmp_path / "questions.answers").rglob("*.json"))) == 2
