"""`danlu run DATA`: files that a newcomer has, no recipe; one screen, then every act; the same command resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_company, write_docx, write_rows

from danlu.core.messages import set_language
from danlu.recipe import Recipe
from danlu.run.run import list_runs

SHORT = ("training.max_steps=2", "evaluation.tasks=[domain]", "evaluation.max_items=4", "gate.max_forget=null",
         "gate.max_loss=null", "gate.max_category_loss=null", "gate.max_probe_loss=null", "data.replay.ratio=0",
         "evaluation.max_new_tokens=4", "exports=[adapter]")  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a company's files in `company`, and nothing else; the current one."""
    write_company(tmp_path / "all")
    (tmp_path / "company").mkdir()
    (tmp_path / "all" / "qa.jsonl").rename(tmp_path / "company" / "qa.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_command_from_files_to_a_proven_export_and_again_to_the_same_run(desk: Path, base: Path) -> None:
    words = ("run", "company", f"model.base={base}", *SHORT)
    asked = danlu(*words, "--json")
    assert asked.code == 2 and asked.json["error"] == "begin.yes_needed" and not (desk / "runs").exists()
    assert asked.json["base"] == str(base) and asked.json["kinds"] == {"conversation": 100}
    assert asked.json["total_s"] > 0 and "company.yaml" in asked.json["fix"]

    done = danlu(*words, "--yes", "--json")
    assert done.code == 0, done.err
    assert done.json["parity"]["verdict"] == "pass" and done.json["recipe"] == "company.yaml"
    assert f"danlu chat {done.json['run']}" in done.err and "danlu serve" in done.err
    times = {path.name: path.stat().st_mtime_ns for path in Path(done.json["run"], "acts").iterdir()}

    again = danlu("run", "company/", *words[2:], "--json")  # begun was agreed to: nobody is asked twice
    assert again.code == 0 and again.json["run"] == done.json["run"] and len(list_runs(desk / "runs")) == 1
    assert times == {path.name: path.stat().st_mtime_ns for path in Path(done.json["run"], "acts").iterdir()}


def test_without_a_base_the_embedded_one_goes_through_it_and_says_what_would_be_better(desk: Path) -> None:
    """Its exports are proven in the demo's test; here a run of its own without."""
    done = danlu("run", "company", *SHORT[:-1], "exports=[]", "--yes", "--json")
    assert done.code == 0, done.err
    assert "ember" in done.err and "model.base=" in done.err
    recipe = Recipe.load(desk / "company.yaml")
    assert recipe.model.base == "ember" and recipe.method.kind == "sft" and recipe.round.mark
    smoke = danlu("run", "company", "--smoke", "--json")
    assert smoke.code == 2 and "training.max_steps=30" in smoke.err and len(list_runs(desk / "runs")) == 1
    other = danlu("run", "company", "model.base=Qwen/Qwen3-0.6B")
    assert other.code == 2 and Recipe.load(desk / "company-2.yaml").training.lr == 2e-4, "numbers are a base's own"
    again = danlu("run", "company", *SHORT[:-1], "exports=[]", "--json")
    assert again.json["run"] == done.json["run"], "the one without a base is the first one's"


def test_an_edited_recipe_counts_and_other_data_gets_its_own(desk: Path) -> None:
    assert danlu("run", "company").code == 2
    file = desk / "company.yaml"
    file.write_text(file.read_text("utf-8").replace("rank: 32", "rank: 5"), "utf-8")
    assert danlu("run", "company").code == 2 and Recipe.load(file).adapter.rank == 5
    file = file.rename(desk / "mine.yaml")
    assert danlu("run", "company").code == 2 and not (desk / "company.yaml").exists(), "found by what it is of"
    file.write_text(file.read_text("utf-8").replace("epochs: ", "epochz: "), "utf-8")
    broken = danlu("run", "company", "--json")
    assert broken.code == 2 and "epochz" in broken.json["message"]
    with (desk / "company" / "qa.jsonl").open("a", encoding="utf-8") as rows:
        rows.write(json.dumps({"question": "And now?", "answer": "Now too."}) + "\n")
    assert danlu("run", "company").code == 2 and "epochz" in file.read_text("utf-8")
    assert Recipe.load(desk / "company.yaml").adapter.rank == 32
    (desk / "other").mkdir()
    write_rows(desk / "other" / "company.jsonl", [{"question": f"{n}?", "answer": f"{n}."} for n in range(9)])
    assert danlu("run", "other/company.jsonl").code == 2 and (desk / "company-2.yaml").is_file()


def test_documents_alone_are_pretrained_and_what_is_missing_is_said(desk: Path) -> None:
    folder = desk / "制度"
    folder.mkdir()
    write_docx(
        folder / "差旅.docx", [f"第{n}条：住宿费每晚不超过{n}百元，凭票报销，逾期不予受理。" for n in range(1, 60)]
    )
    (folder / "旧.txt").write_bytes("员工每年享有十天带薪年假，应提前一周申请。\n".encode("gb18030") * 40)
    set_language("zh")
    said = danlu("run", "制度")
    assert said.code == 2 and "2 篇文档" in said.out and "暂缓上线" in said.out and "中文" in said.out
    written = (desk / "制度.yaml").read_text("utf-8")
    assert "synthesis: {questions: 3}" in written and Recipe.load(desk / "制度.yaml").method.kind == "pretrain"


def test_nothing_to_learn_from_is_told_before_anything_is_written(desk: Path) -> None:
    (desk / "empty.jsonl").touch()
    write_rows(desk / "kto.jsonl", [{"prompt": f"{n}?", "completion": "x", "label": n % 2 == 0} for n in range(9)])
    for given, key in (("empty.jsonl", "advice.no_rows"), ("kto.jsonl", "begin.nothing_learns")):
        said = danlu("run", given, "--json")
        assert (said.code, said.json["error"]) == (2, key)
    write_rows(desk / "half.jsonl", [{"question": f"{n}?", "answer": "x"} for n in range(9)] + [{"a": 1}] * 9)
    said = danlu("run", "half.jsonl", "--yes", "--json")
    assert (said.code, said.json["error"]) == (2, "begin.many_rejected") and "data.max_rejected=" in said.json["fix"]
    assert danlu("run", ".", "--json").json["error"] == "begin.inside"
    assert danlu("run", "half.jsonl", "company.yaml", "nowhere", "--json").code == 2
    assert {path.name for path in desk.glob("*.yaml")} == {"half.yaml"} and not (desk / "runs").exists()
