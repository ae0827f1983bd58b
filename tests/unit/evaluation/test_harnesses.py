"""Other people's suites: their command lines, and what they wrote, read from files that they themselves wrote.

`harness_outputs/lm-eval` was written by lm_eval 0.4.13, `harness_outputs/evalscope` by evalscope 1.14.1 and
`harness_outputs/opencompass` by OpenCompass 0.5.4, each asking the loopback server around ember and the demo's run.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
from pathlib import Path

import pytest

from danlu.core.errors import EvaluationError
from danlu.evaluation.harnesses import HARNESSES
from danlu.evaluation.harnesses.evalscope import EvalScope
from danlu.evaluation.harnesses.harness import Answered, Order, paired_items, section_of
from danlu.evaluation.harnesses.lm_eval import LMEval
from danlu.evaluation.harnesses.opencompass import OpenCompass, config_of
from danlu.pipeline.examine import ask, check_python, environment
from waiting_kit import PATIENCE_S, has_ended, until_true

OUTPUTS = Path(__file__).parent / "harness_outputs"
URL = "http://127.0.0.1:9/v1"


def order(folder: Path, **changes: object) -> Order:
    given = {"python": Path(sys.executable), "url": URL, "model": "tuned", "tasks": ("own",), "folder": folder}
    return Order(**(given | changes))  # type: ignore[arg-type]


def test_lm_evals_items_are_paired_with_each_other() -> None:
    base, tuned = (LMEval().read(OUTPUTS / "lm-eval" / side) for side in ("base", "tuned"))
    found = paired_items(base, tuned)
    items, first, second = found["own_choice"]
    assert len(items) == 10 and "own_questions" not in found  # only one side was asked
    assert items[0].text.startswith("我下周去成都出差") and first[0].details["metric"] == "acc"
    assert sum(result.right for result in first) == 0 and sum(result.right for result in second) == 10
    told = section_of(items, first, second)
    assert told["difference"]["value"] == 1.0 and told["difference"]["num_gained"] == 10
    chat = [row for row in tuned if row.task == "own_questions"]
    assert len(chat) == 8 and chat[0].question == "我下周去成都出差，每天吃饭能补多少？" and chat[0].reference == "80元"
    assert chat[0].answer.startswith("出差市内交通补贴") and chat[0].group == "documents/travel-rules.docx"


def test_evalscopes_items_are_read_and_graded_ones_compared_by_their_means() -> None:
    rows = EvalScope().read(OUTPUTS / "evalscope")
    assert len(rows) == 8 and {row.task for row in rows} == {"general_qa_own"}
    assert all(row.question and row.reference and row.answer for row in rows)
    better = [Answered(r.task, r.key, r.question, r.reference, r.answer, 1.0, r.metric) for r in rows]
    items, first, second = paired_items(rows, better)["general_qa_own"]
    told = section_of(items, first, second)
    assert told["base"]["mean"] < told["tuned"]["mean"] == 1.0
    assert told["difference"]["value"] == pytest.approx(1 - told["base"]["mean"])


def test_opencompass_items_are_read_as_it_left_them() -> None:
    """Its choice of letters judges each item; its equality of texts tells the mean alone, and that is found again."""
    base, tuned = (OpenCompass().read(OUTPUTS / "opencompass" / side) for side in ("base", "tuned"))
    found = paired_items(base, tuned)
    assert {task: len(items) for task, (items, _, _) in found.items()} == {"own": 12, "choice": 12}
    items, first, second = found["own"]
    assert items[0].text == "我下周去成都出差，每天吃饭能补多少？" and items[0].reference.startswith("出差餐补每天80元")
    assert sum(result.right for result in first) == 0 and sum(result.right for result in second) == 10
    assert sum(result.right for result in found["choice"][2]) == 6


def test_a_mean_that_equal_texts_do_not_give_says_nothing_of_items(tmp_path: Path) -> None:
    shutil.copytree(OUTPUTS / "opencompass" / "tuned", tmp_path / "out")
    (path,) = (tmp_path / "out").rglob("results/*/own.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy": 50.0}))
    assert {row.task for row in OpenCompass().read(tmp_path / "out")} == {"choice"}


def test_own_data_of_a_suites_user(tmp_path: Path) -> None:
    """EvalScope is told which files of a folder are its subsets; OpenCompass gets the file itself."""
    (tmp_path / "general_mcq").mkdir()
    for name in ("own.jsonl", "general_mcq/a_val.jsonl", "general_mcq/a_dev.jsonl", "general_mcq/b_val.csv"):
        (tmp_path / name).write_text("{}\n")
    words = EvalScope().command(order(tmp_path / "o", include=tmp_path, tasks=("general_qa", "general_mcq")))
    told = json.loads(words[words.index("--dataset-args") + 1])
    assert told["general_mcq"] == {"local_path": str(tmp_path / "general_mcq"), "subset_list": ["a", "b"]}
    assert told["general_qa"]["subset_list"] == ["own"]
    asked = order(tmp_path / "o", include=tmp_path, tasks=("own",), limit=3, tokenizer=Path("/models/x"))
    text = config_of(asked)
    compile(text, "config", "exec")
    assert f"path='{tmp_path / 'own.jsonl'}'" in text and "read_base():" not in text
    assert "[0:3]" in text and "tokenizer_path='/models/x'" in text
    with pytest.raises(EvaluationError):
        config_of(order(tmp_path, include=tmp_path, tasks=("../own",)))


def opencompass_run(folder: Path) -> None:
    for when, rights in (("20260101_000000", (True, True)), ("20260202_000000", (True, False))):
        predictions = {
            str(n): {"origin_prompt": [{"role": "HUMAN", "prompt": f"问题{n}"}], "prediction": f"答{n}", "gold": "A"}
            for n in range(2)
        }
        details = {str(n): {"pred": "A", "correct": [right]} for n, right in enumerate(rights)}
        for place, value in (("predictions", predictions), ("results", {"accuracy": 50, "details": details})):
            path = folder / when / place / "tuned" / "ceval_law.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(value, ensure_ascii=False))


def test_opencompass_newest_run_is_read(tmp_path: Path) -> None:
    opencompass_run(tmp_path)
    rows = OpenCompass().read(tmp_path)
    assert [(row.question, row.value, row.task) for row in rows] == [
        ("问题0", 1.0, "ceval_law"),
        ("问题1", 0.0, "ceval_law"),
    ]


@pytest.mark.parametrize("name", ["lm-eval", "evalscope", "opencompass"])
def test_nothing_written_is_an_error_not_a_zero(name: str, tmp_path: Path) -> None:
    harness = HARNESSES.load(name)()
    with pytest.raises(EvaluationError) as caught:
        harness.read(tmp_path)
    assert caught.value.key == "harness.nothing_read"
    (tmp_path / "samples_x_2026.jsonl").write_text('{"doc_id": 0}\n{"torn')
    (tmp_path / "reviews" / "m").mkdir(parents=True)
    (tmp_path / "reviews" / "m" / "x.jsonl").write_text('{"sample_score": {"score": {"value": {}}}}\n[1]\n')
    with pytest.raises(EvaluationError):
        harness.read(tmp_path)


def test_an_item_judged_through_two_filters_counts_once(tmp_path: Path) -> None:
    lines = [
        {"doc_hash": "h", "filter": name, "metrics": ["exact_match"], "exact_match": value, "target": "4",
         "filtered_resps": ["4"], "doc": {"question": "2+2"}}
        for name, value in (("flexible-extract", 1.0), ("strict-match", 0.0))
    ]  # fmt: skip
    (tmp_path / "samples_gsm8k_2026.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (row,) = LMEval().read(tmp_path)
    assert (row.value, row.task, row.question) == (1.0, "gsm8k", "2+2")


def test_command_lines_say_what_is_asked(tmp_path: Path) -> None:
    words = LMEval().command(order(tmp_path, limit=5))
    assert words[:4] == [sys.executable, "-m", "lm_eval", "run"] and "--apply_chat_template" in words
    assert f"base_url={URL}/chat/completions" in words[words.index("--model_args") + 1]
    words = LMEval().command(order(tmp_path, scores=True, tokenizer=Path("/models/x")))
    assert "local-completions" in words and "--apply_chat_template" not in words
    with pytest.raises(EvaluationError) as caught:
        LMEval().command(order(tmp_path, scores=True))
    assert caught.value.key == "harness.no_tokenizer"
    for harness in (EvalScope(), OpenCompass()):
        with pytest.raises(EvaluationError) as caught:
            harness.command(order(tmp_path, scores=True))
        assert caught.value.key == "harness.no_scores"
    words = EvalScope().command(order(tmp_path, include=Path("/data")))
    assert json.loads(words[words.index("--dataset-args") + 1]) == {"own": {"local_path": "/data"}}


def test_opencompass_configuration_is_python_and_nothing_can_be_smuggled_in(tmp_path: Path) -> None:
    task = "opencompass.configs.datasets.ceval.ceval_gen:ceval_datasets"
    text = config_of(order(tmp_path, tasks=(task,), limit=7, model='it\'s "tuned"'))
    compile(text, "config", "exec")
    assert "from opencompass.configs.datasets.ceval.ceval_gen import ceval_datasets as datasets_0" in text
    with pytest.raises(EvaluationError) as caught:
        config_of(order(tmp_path, tasks=("os; import shutil:x",)))
    assert caught.value.key == "harness.bad_task"


def test_a_suite_that_is_not_there_or_fails_says_how_to_go_on(tmp_path: Path) -> None:
    for python in (Path(sys.executable), tmp_path / "none"):
        with pytest.raises(EvaluationError) as caught:
            check_python(OpenCompass(), python)
        assert caught.value.key == "harness.not_installed" and "pip install" in caught.value.fix
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho the model is on fire >&2\nexit 3\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(EvaluationError) as caught:
        ask(LMEval(), order(tmp_path / "out", python=script), timeout_s=PATIENCE_S)
    assert caught.value.key == "harness.failed" and "on fire" in caught.value.text
    script.write_text("#!/bin/sh\nexec sleep 30\n")
    with pytest.raises(EvaluationError) as caught:
        ask(LMEval(), order(tmp_path / "out", python=script), timeout_s=0.2)
    assert caught.value.key == "harness.too_slow"


@pytest.mark.parametrize("task", ["a.b:x\nimport os", "a.b:x as y, z", ".a:b", "a.b", "1a:b", "a.b:", "模块:x"])
def test_opencompass_tasks_are_a_module_and_a_name(task: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError) as caught:
        config_of(order(tmp_path, tasks=(task,)))
    assert caught.value.key == "harness.bad_task"


def test_a_comma_in_a_name_is_no_further_setting(tmp_path: Path) -> None:
    for changes in ({"model": "tuned,base_url=http://elsewhere"}, {"scores": True, "tokenizer": Path("/runs/a,b")}):
        with pytest.raises(EvaluationError) as caught:
            LMEval().command(order(tmp_path, **changes))
        assert caught.value.key == "harness.comma"


def test_a_suite_gets_no_keys_no_paths_of_ours_and_no_proxy_before_the_loopback() -> None:
    given = {"PATH": "/bin", "HF_TOKEN": "h", "HF_ENDPOINT": "https://mirror", "http_proxy": "http://p:1", "NO_PROXY": "x",
             "OPENAI_API_KEY": "sk", "AWS_SECRET_ACCESS_KEY": "s", "PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours"}  # fmt: skip
    here, theirs = environment(given, None), environment(given, "https://host/v1")
    assert here["OPENAI_API_KEY"] == "EMPTY" and theirs["OPENAI_API_KEY"] == "sk"
    for found in (here, theirs):
        assert not {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "VIRTUAL_ENV"} & set(found)
        assert found["no_proxy"] == found["NO_PROXY"] == "x,127.0.0.1,localhost"
        assert {"PATH", "HF_TOKEN", "HF_ENDPOINT", "http_proxy"} <= set(found)


def test_a_suites_workers_end_with_it_and_nobody_waits_for_an_answer(tmp_path: Path) -> None:
    script, pid = tmp_path / "python", tmp_path / "pid"
    script.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {pid}\nread line || echo nobody there\nwait\n")
    script.chmod(0o755)
    out, log = tmp_path / "out", tmp_path / "out" / "danlu.log"
    for patience_s in (1.0, 10.0, PATIENCE_S):  # as much as the script needs here to come that far
        with pytest.raises(EvaluationError) as caught:
            ask(LMEval(), order(out, python=script), timeout_s=patience_s)
        assert caught.value.key == "harness.too_slow"
        if log.read_text():
            break
    assert "nobody there" in log.read_text()
    until_true(lambda: has_ended(int(pid.read_text())))
