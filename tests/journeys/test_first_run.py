"""The newcomer's way through the real command line: new, check, prepare, train, evaluate, export, show, chat, again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import danlu

from danlu.core.files import read_json
from danlu.run.run import Run, list_runs

KEYS = {
    "prepare": {"run", "rows", "counts", "certificate", "stages"},
    "train": {"run", "stages"},
    "evaluate": {"run", "base", "tuned", "difference", "items", "gate"},
    "run": {"run", "base", "tuned", "consistency", "gate", "parity", "report"},
}


def run_of(home: Path) -> Run:
    (folder,) = list_runs(home / "runs")
    return Run.open(folder)


def events(run: Run, kind: str) -> list[dict]:
    return list(run.events.read(kind))


def test_each_verb_in_turn(company: Path) -> None:
    """The verbs one by one leave what `danlu run` leaves, and each says what it is documented to say."""
    runs = ("--runs", company / "runs")
    assert danlu("check", "recipe.yaml", "--json").json["ok"] is True
    prepared = danlu("prepare", "recipe.yaml", *runs, "--json")
    assert prepared.code == 0 and prepared.json.keys() >= KEYS["prepare"]
    assert prepared.json["rows"] == {"read": 100, "used": 100, "changed": 0, "rejected": 0}
    trained = danlu("train", "recipe.yaml", *runs, "--json")
    assert trained.code == 0 and trained.json.keys() >= KEYS["train"]
    assert trained.json["stages"][0]["num_steps"] > 2
    judged = danlu("evaluate", "recipe.yaml", *runs, "--json")
    assert judged.code == 0 and judged.json.keys() >= KEYS["evaluate"]
    assert len([item for item in judged.json["items"] if item["task"] == "domain"]) == 25
    assert judged.json["parity"] == {}
    exported = danlu("export", "recipe.yaml", *runs, "--json")
    assert exported.code == 0 and [a["parity"]["verdict"] for a in exported.json] == ["pass"]
    report = read_json(Path(trained.json["run"]) / "report.json")
    assert report["parity"]["verdict"] == "pass"
    assert report["gate"]["decision"] == "ship"


def test_a_second_run_does_nothing_twice(story: Path) -> None:
    run = run_of(story)
    before = {kind: len(events(run, kind)) for kind in ("step", "finished", "exported", "stage")}
    said = danlu("run", story / "company" / "recipe.yaml", "--runs", story / "runs", "--json")
    assert said.code == 0 and said.json.keys() >= KEYS["run"]
    assert said.json["parity"]["verdict"] == "pass"
    assert {kind: len(events(run, kind)) for kind in before} == before
    assert run_of(story).folder == run.folder


def test_changed_data_trains_anew_in_the_same_run(company: Path) -> None:
    """The recipe is the same, so the run is; its checkpoints of other data must not stand in the way."""
    words = ("train", "recipe.yaml", "--runs", company / "runs", "--json")
    assert danlu(*words).code == 0
    (folder,) = list_runs(company / "runs")
    run = Run.open(folder)
    steps = len(events(run, "step"))
    old = read_json(run.path("acts", "train-1-sft.json"))
    lines = Path("qa.jsonl").read_text("utf-8").splitlines(keepends=True)
    Path("qa.jsonl").write_text("".join(lines[:60]), "utf-8")
    said = danlu(*words)
    assert said.code == 0, said.err
    assert len(events(run, "step")) > steps and "anew" in said.err
    assert read_json(run.path("ledger.json"))["rows"]["read"] == 60
    assert read_json(run.path("acts", "train-1-sft.json"))["inputs"] != old["inputs"]
    assert len(list_runs(company / "runs")) == 1
    steps = len(events(run, "step"))
    assert danlu(*words).code == 0 and len(events(run, "step")) == steps


def test_a_changed_knob_is_another_run(story: Path) -> None:
    said = danlu("prepare", story / "company" / "recipe.yaml", "training.lr=0.002", "--runs", story / "runs", "--json")
    assert said.code == 0
    assert len(list_runs(story / "runs")) == 2


def test_questions_seen_in_training_are_not_asked(story: Path) -> None:
    """The score would be memory, not skill: ten test questions are copied from training, with other spacing."""
    trained = run_of(story).path("dataset", "1-sft", "train", "rows.jsonl").read_text().splitlines()[:10]
    lines = (story / "company" / "qa.jsonl").read_text("utf-8").splitlines()
    seen = [json.loads(lines[int(json.loads(row)["origin"].rpartition(":")[2]) - 1]) for row in trained]
    fresh = [json.loads(line) for line in (story / "company" / "test.jsonl").read_text("utf-8").splitlines()[:5]]
    for row in seen:
        row["question"] = "  " + row["question"].upper().replace("?", " ?!")
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*seen, *fresh]), "utf-8")
    said = danlu(
        "evaluate", story / "company" / "recipe.yaml", "--runs", story / "runs", "--questions", "mine.jsonl", "--json"
    )
    assert said.code == 0
    assert {item["question"] for item in said.json["items"]} == {row["question"] for row in fresh}
    assert "10" in said.err
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seen), "utf-8")
    refused = danlu(
        "evaluate", story / "company" / "recipe.yaml", "--runs", story / "runs", "--questions", "mine.jsonl", "--json"
    )
    assert refused.code == 2 and refused.json["error"] == "pipeline.all_leak"


def test_it_is_told_how_many_questions_ask_for_what_training_shows(story: Path) -> None:
    run = run_of(story)
    asked = run.read("report.json")["data"]["questions"]
    (facts,) = [facts for facts in asked.values() if "taught" in facts]
    trained = run.path("dataset", "1-sft", "train", "rows.jsonl").read_text().splitlines()
    lines = (story / "company" / "qa.jsonl").read_text("utf-8").splitlines()
    shown = {json.loads(lines[int(json.loads(row)["origin"].rpartition(":")[2]) - 1])["answer"] for row in trained}
    held_out = [
        json.loads(line)["answer"] for line in (story / "company" / "test.jsonl").read_text("utf-8").splitlines()
    ]
    assert facts["looked_up"] == len(held_out) > facts["taught"] == sum(answer in shown for answer in held_out) > 0


QUESTION_FILES = {
    "mine.jsonl": '{"question": "What now?", "answer": "tea"}\n{"question": "And then?", "answer": "cake", "accept": ["pie"]}\n',
    "alpaca.json": '[{"instruction": "What now?", "input": "", "output": "tea"}, {"instruction": "And then?", "input": "", "output": "cake"}]',
    "问答.csv": "问题,答案\n现在做什么？,喝茶\n然后呢？,吃蛋糕\n",
    "chat.jsonl": '{"messages": [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": "tea"}]}\n'
    '{"messages": [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": "cake"}]}\n',
    "gbk.csv": "问题,答案\n现在做什么？,喝茶\n然后呢？,吃蛋糕\n".encode("gb18030"),
}


@pytest.mark.parametrize("name", QUESTION_FILES)
def test_own_questions_in_any_format(story: Path, name: str) -> None:
    content = QUESTION_FILES[name]
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    report = run_of(story).path("report.json").read_bytes()
    said = danlu("evaluate", "tiny", "--runs", story / "runs", "--questions", name, "--json")
    assert said.code == 0, said.err
    rows = said.json["items"]
    assert len(rows) == 2
    for row in rows:
        assert row.keys() >= {"question", "reference", "base", "tuned"}
        for side in ("base", "tuned"):
            assert row[side].keys() >= {"answers", "right", "value"} and len(row[side]["answers"]) == 1
    for side in ("base", "tuned"):
        assert said.json[side].keys() >= {"accuracy", "interval", "num_items"}
        assert said.json[side]["num_items"] == 2
    assert run_of(story).path("report.json").read_bytes() == report, "the run's own report stays as it is"


def test_show_runs_compare_list_explain_doctor(story: Path) -> None:
    runs = ("--runs", story / "runs")
    shown = danlu("show", "tiny", *runs, "--json").json
    assert shown["decision"] in ("ship", "hold") or shown["decision"]
    assert shown["artifacts"] == ["adapter"] and shown["recipe"]["name"] == "tiny"
    assert shown["finished"] == ["evaluate", "export-adapter", "prepare", "train-1-sft"]
    artifact = run_of(story).path("artifacts", "adapter")
    assert danlu("show", artifact, "--json").json["parity"]["verdict"] == "pass"
    dataset = run_of(story).path("dataset", "1-sft")
    assert danlu("show", dataset, "--json").json["parts"]["train"]["items"] == 90
    assert [row["name"] for row in danlu("runs", *runs, "--json").json] == ["tiny"]
    compared = danlu("compare", "tiny", "tiny", *runs, "--json").json
    assert [task["value"] for task in compared["tasks"]] == [0] * len(compared["tasks"])
    assert Path(compared["page"]).is_file()
    for shelf in ("methods", "formats", "templates", "families", "metrics", "tasks", "adapters", "engines", "exports"):
        assert danlu("list", shelf, "--json").json["items"]
    assert {shelf["name"] for shelf in danlu("list", "--json").json["shelves"]} >= {"methods", "exports"}
    assert danlu("explain", "training.lr", "--json").json["key"] == "training.lr"
    assert len(danlu("explain", "--json").json) > 40
    assert danlu("explain", "lora_rank", "--json").json["key"] == "adapter.rank"
    assert danlu("explain", "--schema").json["title"] == "Recipe"
    assert danlu("doctor", "--json").json.keys() >= {"ok", "checks"}


def test_the_same_words_for_people_in_both_languages(story: Path) -> None:
    runs, recipe = ("--runs", story / "runs"), story / "company" / "recipe.yaml"
    for words in (("show", "tiny", *runs), ("runs", *runs), ("evaluate", "tiny", *runs), ("prepare", "tiny", *runs),
                  ("train", "tiny", *runs), ("export", "tiny", *runs), ("run", recipe, *runs), ("list", "metrics"),
                  ("check", recipe), ("explain", "adapter.rank"), ("inspect", recipe.parent / "qa.jsonl")):  # fmt: skip
        english, chinese = danlu(*words, "--lang", "en"), danlu(*words, "--lang", "zh")
        assert english.code == chinese.code == 0
        assert english.out.strip() and chinese.out.strip(), words
        quiet = danlu(*words, "--quiet")
        assert (quiet.code, quiet.out, quiet.err) == (0, "", ""), words
    assert any("\u4e00" <= character <= "\u9fff" for character in danlu("check", recipe, "--lang", "zh").out)
    assert danlu("check", recipe, "--lang", "fr").code == 2


def test_chat_with_base_beside(story: Path) -> None:
    lines = "How much is the desk fee in Oslo?\n/base\n/new\n/base And in Lyon?\n\nAnd in Bern?\n/quit\nnever asked\n"
    said = danlu("chat", "tiny", "--runs", story / "runs", "--json", input=lines)
    assert said.code == 0, said.err
    told = [json.loads(line) for line in said.out.strip().splitlines()]
    assert [(row["model"], row["question"]) for row in told] == [
        ("tuned", "How much is the desk fee in Oslo?"),
        ("base", "How much is the desk fee in Oslo?"),
        ("base", "And in Lyon?"),
        ("tuned", "And in Bern?"),
    ]
    assert all(isinstance(row["answer"], str) for row in told)
    assert danlu("chat", "tiny", "--runs", story / "runs", input="Hello\n").code == 0
    artifact = run_of(story).path("artifacts", "adapter")
    from_artifact = danlu("chat", artifact, "--json", input="How much is the desk fee in Oslo?\n")
    assert from_artifact.code == 0
    assert json.loads(from_artifact.out.splitlines()[0])["answer"] == told[0]["answer"]


def test_new_writes_a_recipe_that_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "qa.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    for language in ("en", "zh"):
        made = danlu("new", f"mine-{language}", "--lang", language, "--json").json["recipe"]
        checked = danlu("check", made, "--json")
        assert checked.code == 0 and checked.json["ok"]
        assert [warning["error"] for warning in checked.json["warnings"]] == ["model.not_here"]
    again = danlu("new", "mine-en", "--json")
    assert again.code == 2 and again.json["error"] == "cli.file_exists"


def test_an_artefact_alone_answers_own_questions(story: Path, base: Path) -> None:
    """Carried away from its run, it is verified and asked; the base stands beside it."""
    folder = Path("carried")
    run_of(story).path("artifacts", "adapter").rename(folder)
    Path("mine.csv").write_text("问题,答案\n现在做什么？,喝茶\n", "utf-8")
    said = danlu("evaluate", folder, "--questions", "mine.csv", "--json")
    assert said.code == 0, said.err
    assert [item["question"] for item in said.json["items"]] == ["现在做什么？"]
    assert said.json["tuned"]["digest"] != said.json["base"]["digest"]
    assert danlu("evaluate", folder, "--json").code == 2
    assert danlu("show", folder, "--json").json["kind"] == "adapter"
