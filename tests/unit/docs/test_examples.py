"""The examples run: an example that does not is worse than none."""

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

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


class Parrot(BaseHTTPRequestHandler):
    """Answers every question with "80 yuan"."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = {"choices": [{"message": {"role": "assistant", "content": "80 yuan"}, "finish_reason": "stop"}]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


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
