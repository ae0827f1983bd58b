"""From a folder of documents to a dataset with a teacher's help, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import danlu

from teacher_kit import asked, items, qa, serving

RULES = "# 休假办法\n\n员工满一年后每年享受年假10天。病假须在三日内提交医院证明。\n\n年假由部门经理审批，不得跨年使用。联系电话13812345675。\n"
CANTEEN = "# 食堂须知\n\n食堂每天11点30分开门，午餐每份18元。周末不供应早餐，访客可在前台领取餐券。\n"


def script(body: dict[str, Any]) -> str:
    kind, user = asked(body), body["messages"][-1]["content"]
    if kind == "instruct":
        return json.dumps(
            {"items": [{"instruction": "用一句话说明文件归档的好处", "output": "方便日后查找和核对。"}]},
            ensure_ascii=False,
        )
    if kind == "answerable":
        return '{"answer": null, "evidence": []}'
    if kind == "paraphrase":
        return json.dumps({"questions": ["年假每年能休多少天？"]}, ensure_ascii=False) if "年假" in user else "{}"
    if "食堂" in user:
        return items(
            qa("fact", "食堂每天几点开门？", "食堂每天11:30开门。", "食堂每天11点30分开门"),
            qa("fact", "食堂的午餐多少钱？", "午餐每份28元。", "午餐每份18元"),
            qa("unanswerable", "食堂有晚餐吗？", "食堂须知没有提到晚餐。"),
        )
    return items(
        qa("fact", "员工每年享受年假多少天？", "员工满一年后每年有10天年假。", "员工满一年后每年享受年假10天"),
        qa("how", "病假要怎样请？", "三日内提交医院证明。", "病假须在三日内提交医院证明"),
    )


@pytest.fixture
def company(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "company"
    (folder / "docs").mkdir(parents=True)
    (folder / "docs" / "leave.md").write_text(RULES, encoding="utf-8")
    (folder / "docs" / "canteen.md").write_text(CANTEEN, encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        "name: made\nmodel: {base: ember}\ndata:\n  sources: [docs]\n  split: {test: 0.0, validation: 0.0}\n"
        "  synthesis: {questions: 3}\ntraining: {context: 512}\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(folder)
    return folder


def run_of(folder: Path) -> Path:
    (found,) = [path for path in (folder / "runs").iterdir() if path.name.startswith("made-")]
    return found


def test_documents_become_checked_questions(company: Path) -> None:
    with serving(script) as server:
        teacher = [f"data.teacher.url={server.url}", "data.teacher.model=teacher"]
        said = danlu("prepare", "recipe.yaml", *teacher, "data.synthesis.instructions=1", "data.synthesis.paraphrases=1",
                     "data.augment.methods=[eda]", "data.privacy.actions.mobile=mask", "data.synthesis.topic=行政工作", "--runs", "runs", "--json")  # fmt: skip
        assert said.code == 0, said.err
        num_asked = len(server.bodies)
        again = danlu("prepare", "recipe.yaml", *teacher, "data.synthesis.instructions=1", "data.synthesis.paraphrases=1",
                      "data.augment.methods=[eda]", "data.privacy.actions.mobile=mask", "data.synthesis.topic=行政工作", "data.over_length=split", "--runs", "other")  # fmt: skip
        assert again.code == 0, again.err
    told = json.loads((run_of(company) / "synthesis" / "yield.json").read_text())
    assert told["kinds"] == {"fact": 3, "how": 1, "instruction": 1, "unanswerable": 1}, "one of the facts is a wording"
    assert {entry["reason"]: entry["count"] for entry in told["refused"]}["figure"] == 1
    assert told["cost"]["teacher"]["requests"] == num_asked
    texts = (run_of(company) / "dataset" / "preview.json").read_text()
    assert "年假" in texts
    asked_texts = json.dumps([body["messages"] for body in server.bodies], ensure_ascii=False)
    assert "13812345675" not in asked_texts, "the telephone number was masked before the teacher saw it"


def test_a_rerun_asks_nothing_again(company: Path) -> None:
    with serving(script) as server:
        teacher = [f"data.teacher.url={server.url}", "data.teacher.model=teacher"]
        assert danlu("prepare", "recipe.yaml", *teacher, "--runs", "runs").code == 0
        num_asked = len(server.bodies)
        assert danlu("prepare", "recipe.yaml", *teacher, "training.context=400", "--runs", "runs").code == 0
        assert len(server.bodies) == num_asked, "another recipe, the same questions: every reply is known"
        (company / "docs" / "new.md").write_text(
            "# 停车须知\n\n员工停车需在门卫处登记车牌，停车费每月60元，由财务部在工资中代扣。\n", encoding="utf-8"
        )
        assert danlu("prepare", "recipe.yaml", *teacher, "training.context=400", "--runs", "runs").code == 0
        assert 1 <= len(server.bodies) - num_asked <= 2, "one new passage (and the doubtful question once more)"


def test_unmasked_documents_do_not_leave_the_machine(company: Path) -> None:
    """The address is nobody's (RFC 5737): had anything been sent, the complaint would be another one."""
    said = danlu("prepare", "recipe.yaml", "data.privacy.pack='off'", "data.teacher.url=http://192.0.2.1/v1",
                 "data.teacher.model=far", "--runs", "runs")  # fmt: skip
    assert said.code != 0 and "far" in said.err and "data.privacy" in said.err and "192.0.2.1" not in said.err


def test_knobs_are_explained_and_methods_listed() -> None:
    assert "ROUGE" not in danlu("explain", "data.synthesis.instructions").out
    assert "Self-Instruct" in danlu("explain", "data.synthesis.instructions").out
    assert "back-translation" in danlu("list", "augment").out


def test_check_finds_a_teacher_s_faults_before_a_document_is_read(company: Path) -> None:
    said = danlu("check", "recipe.yaml", "data.teacher.url=http://127.0.0.1:9/v1", "data.teacher.max_cost=5",
                 "data.augment.methods=[edda]", "data.synthesis.seeds=seeds.jsonl", "--json")  # fmt: skip
    keys = {error["key"] for error in said.json["errors"]}
    assert keys == {"data.teacher.model", "data.teacher.max_cost", "data.augment.methods.0", "data.synthesis.seeds"}
