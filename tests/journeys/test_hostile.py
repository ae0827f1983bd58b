"""Whatever a user does wrong ends as text and fix with exit code 2, in both languages, and never as a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_rows

from danlu.core.files import read_json, write_json
from danlu.run.run import Run, list_runs


def refused(*words: object, error: str, names: str = "", code: int = 2, input: str | None = None) -> str:
    """The command fails with this error key, its text names what is wrong, and a fix stands below, in two languages."""
    texts = []
    for language in ("en", "zh"):
        said = danlu(*words, "--json", "--lang", language, input=input)
        assert said.code == code, (said.out, said.err)
        assert said.json["error"] == error, said.json
        assert said.json["message"] and said.json["fix"], said.json
        assert names in said.json["message"], said.json["message"]
        assert said.json["fix"] in said.err
        texts.append(said.json["message"] + said.json["fix"])
    assert texts[0] != texts[1]
    assert any("\u4e00" <= character <= "\u9fff" for character in texts[1])
    return texts[0]


def complaint(*words: object, key: str, nearest: str | None = None) -> dict:
    """`check --json` refuses the recipe and names this key."""
    said = danlu("check", *words, "--json")
    assert said.code == 2 and said.json["ok"] is False
    found = {entry["key"]: entry for entry in said.json["errors"]}
    assert found[key].keys() == {"key", "given", "expected", "nearest"}
    assert found[key]["expected"] and said.json["plan"] is not None
    if nearest:
        assert found[key]["nearest"] == nearest
    return found[key]


# ---- recipes


def test_what_is_no_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused("check", "nowhere.yaml", error="recipe.no_file", names="nowhere.yaml")
    Path("folder.yaml").mkdir()
    refused("check", "folder.yaml", error="recipe.no_file", names="folder.yaml")
    Path("binary.yaml").write_bytes(bytes(range(256)))
    refused("check", "binary.yaml", error="recipe.not_utf8")
    Path("gbk.yaml").write_bytes("name: 公司\n".encode("gb18030"))
    refused("check", "gbk.yaml", error="recipe.not_utf8")
    Path("torn.yaml").write_text("name: t\nmodel: {base: ember\n")
    refused("check", "torn.yaml", error="recipe.not_yaml", names="{base: ember")
    Path("list.yaml").write_text("- a\n- b\n")
    refused("check", "list.yaml", error="recipe.not_a_mapping")
    Path("empty.yaml").write_text("")
    refused("check", "empty.yaml", error="recipe.not_a_mapping")
    Path("bomb.yaml").write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\nname: [1, 2]\n")
    complaint("bomb.yaml", key="name")
    refused("train", "nowhere", error="cli.no_target", names="nowhere")
    refused("chat", "nowhere", error="cli.no_target", names="nowhere")
    refused("list", "nothing", error="cli.unknown_shelf", names="nothing")
    refused("explain", "no.such.knob.at.all", error="recipe.unknown_knob")


def test_wrong_values_are_named_by_key(company: Path) -> None:
    complaint("recipe.yaml", "training.lrr=1", key="training.lrr", nearest="training.lr")
    complaint("recipe.yaml", "training.epochs=many", key="training.epochs")
    complaint("recipe.yaml", "adapter.rank=0", key="adapter.rank")
    complaint("recipe.yaml", "lora_rank=8", key="lora_rank", nearest="adapter.rank")
    complaint("recipe.yaml", "data.sources=[qa.jsn]", key="data.sources.0.path", nearest=str(company / "qa.jsonl"))
    complaint("recipe.yaml", "data.sources=[]", key="data.sources")
    complaint(
        "recipe.yaml",
        "evaluation.questions=tests.jsonl",
        key="evaluation.questions",
        nearest=str(company / "test.jsonl"),
    )
    complaint("recipe.yaml", "adapter.start=nowhere", key="adapter.start")
    complaint("recipe.yaml", "model.template=chatnl", key="model.template", nearest=None)
    complaint("recipe.yaml", "data.sources.0.format=alpacca", key="data.sources.0.format")
    complaint(
        "recipe.yaml", "data.sources=[{path: qa.jsonl, columns: {qestion: q}}]", key="data.sources.0.columns.qestion"
    )
    complaint("recipe.yaml", "training.micro_tokens=64", key="training.micro_tokens")
    refused("check", "recipe.yaml", "training.lr", error="recipe.bad_override", names="training.lr")


def test_check_never_asks_the_network(company: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    said = danlu("check", "recipe.yaml", "model.base=Qwen/Qwen2.5-7B-Instruct", "--json")
    assert said.code == 0 and said.json["warnings"][0]["error"] == "model.not_here"


def test_a_wrong_recipe_costs_little_and_loads_no_torch(tmp_path: Path) -> None:
    """Under half a second of CPU, measured in a process of its own; 0.3 s on a quiet machine."""
    import resource

    (tmp_path / "wrong.yaml").write_text("training: {lrr: 1}\n")
    code = (
        "import sys\nfrom danlu.cli.main import app\ntry: app(['check', sys.argv[1]])\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'transformers', 'rich', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0 if code == 2 else f'code {code}')"
    )
    costs = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "wrong.yaml"], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr.decode()
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(costs) < 0.5


# ---- bases


def test_bases_that_are_none(company: Path, base: Path) -> None:
    refused("prepare", "recipe.yaml", "model.base=./nowhere", error="model.base_missing", names="nowhere")
    refused("prepare", "recipe.yaml", "model.base=./qa.jsonl", error="model.base_is_file")
    Path("bare").mkdir()
    said = danlu("prepare", "recipe.yaml", "model.base=./bare", "--json")
    assert said.code == 2 and said.json["fix"]
    (Path("bare") / "config.json").write_text("{ not json")
    said = danlu("prepare", "recipe.yaml", "model.base=./bare", "--json")
    assert said.code == 2 and said.json["fix"]
    assert danlu("check", "recipe.yaml", "model.base=./bare", "--json").code == 2


def test_a_base_without_template_wants_one(company: Path, base: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in base.iterdir():
        (plain / path.name).write_bytes(path.read_bytes())
    config = read_json(plain / "tokenizer_config.json")
    config.pop("chat_template")
    write_json(plain / "tokenizer_config.json", config)
    refused("prepare", "recipe.yaml", f"model.base={plain}", error="pipeline.no_template")
    assert danlu("prepare", "recipe.yaml", f"model.base={plain}", "model.template=chatml", "--json").code == 0


def test_unknown_adapter_targets_are_named(company: Path) -> None:
    text = refused("train", "recipe.yaml", "adapter.targets=[q_prj]", error="adapter.no_such_target", names="q_prj")
    assert "q_proj" in text


def test_an_adapter_to_go_on_from_that_is_none(company: Path) -> None:
    Path("empty").mkdir()
    said = danlu("train", "recipe.yaml", "adapter.start=empty", "--json")
    assert said.code == 2 and said.json["fix"]


# ---- data


def test_data_that_cannot_be_used(company: Path) -> None:
    Path("empty.jsonl").write_text("")
    refused("prepare", "recipe.yaml", "data.sources=[empty.jsonl]", error="data.no_usable_rows")
    Path("nothing").mkdir()
    refused("prepare", "recipe.yaml", "data.sources=[nothing]", error="data.no_files")
    refused("prepare", "recipe.yaml", "data.sources=[]", error="pipeline.no_sources")
    refused("prepare", "recipe.yaml", "data.sources=[qa.jsn]", error="data.no_such_path", names="qa.jsn")
    write_rows(Path("bad.jsonl"), [{"question": f"Q{n}?", "answer": "" if n % 2 else "a"} for n in range(20)])
    text = refused("prepare", "recipe.yaml", "data.sources=[bad.jsonl]", error="data.too_many_rejected")
    assert "50" in text and "bad.jsonl" in text
    assert danlu("prepare", "recipe.yaml", "data.sources=[bad.jsonl]", "data.max_rejected=0.6", "--json").code == 0
    refused("prepare", "recipe.yaml", "data.sources=[pairs.jsonl]", error="pipeline.stage_without_data")
    refused("prepare", "recipe.yaml", "data.sources=[qa.jsonl]", "method=dpo", error="pipeline.stage_without_data")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable to root")
def test_a_folder_that_may_not_be_read(company: Path) -> None:
    Path("secret").mkdir(mode=0)
    refused("prepare", "recipe.yaml", "data.sources=[secret]", error="cli.system")


def test_a_context_shorter_than_every_row_tells_the_lengths(company: Path) -> None:
    text = refused("prepare", "recipe.yaml", "training.context=16", error="data.no_usable_rows")
    assert "16" in text
    (folder,) = list_runs(Path("runs"))
    rejects = (folder / "rejects.jsonl").read_text().splitlines()
    assert len(rejects) == 100 and json.loads(rejects[0])["code"] == "encode_over_length"


def test_a_huge_context_and_tiny_batches_still_train(company: Path) -> None:
    """batch below context, context beyond the model's: both are answered by what is computed, not by a crash."""
    said = danlu(
        "train", "recipe.yaml", "training.context=4096", "training.batch_tokens=16", "training.max_steps=2", "--json"
    )
    assert said.code in (0, 2) and (said.code == 0 or said.json["fix"]), said.err


def test_too_few_rows_to_hold_any_out(company: Path) -> None:
    write_rows(Path("one.jsonl"), [{"question": "Q?", "answer": "a"}])
    refused("prepare", "recipe.yaml", "data.sources=[one.jsonl]", error="split.too_few")
    said = danlu("train", "recipe.yaml", "data.sources=[one.jsonl]", "data.split={test: 0, validation: 0}", "--json")
    assert said.code == 0, said.err
    assert said.json["stages"][0]["validation_loss"] is None


def test_rows_that_no_stage_wants_are_named_and_no_fault(company: Path) -> None:
    """A folder with documents, pairs and questions under `method: sft`: the questions are learnt, the rest is told."""
    said = danlu("prepare", "recipe.yaml", "data.sources=[qa.jsonl, pairs.jsonl, docs]", "--json")
    assert said.code == 0, said.err
    assert "kind preference" in said.err and "kind document" in said.err
    rows = said.json["rows"]
    assert rows["read"] == rows["used"] + rows["rejected"] and rows["used"] == 100 and rows["rejected"] >= 43


def test_a_row_wanted_by_two_stages_is_refused_once(company: Path, base: Path) -> None:
    """Over-length in one stage, used in the other: a used row. Over-length in both: one rejection, not two."""
    long = {"question": "How long? " + "very " * 60, "answer": "long", "group": "long"}
    endless = {"question": "How long? " + "endlessly " * 400, "answer": "endless", "group": "endless"}
    rows = [json.loads(line) for line in Path("qa.jsonl").read_text("utf-8").splitlines()]
    write_rows(Path("mixed.jsonl"), [*rows, long, endless])
    stages = "stages=[{kind: sft, training: {context: 64}}, {kind: sft, training: {context: 256}}]"
    said = danlu(
        "prepare", "recipe.yaml", "data.sources=[mixed.jsonl]", "data.split={test: 0, validation: 0}", stages, "--json"
    )
    assert said.code == 0, said.err
    assert said.json["rows"] == {"read": 102, "used": 101, "changed": 1, "rejected": 1}


# ---- runs and artefacts


def test_runs_of_another_format_and_damaged_ones(story: Path) -> None:
    (folder,) = list_runs(story / "runs")
    record = read_json(folder / "run.json")
    write_json(folder / "run.json", record | {"format": 99})
    refused("evaluate", folder, error="run.foreign_format", names="99")
    (folder / "run.json").write_bytes(b"{")
    refused("evaluate", folder, error="run.file_damaged", names="run.json")
    said = danlu("runs", "--runs", story / "runs", "--json")
    assert said.code == 0, "one damaged run must not hide the others"


def test_a_flipped_byte_is_found(story: Path) -> None:
    (folder,) = list_runs(story / "runs")
    artifact = folder / "artifacts" / "adapter"
    path = artifact / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))
    refused("chat", artifact, error="run.tampered", names="adapter_model.safetensors", input="hi\n")
    again = danlu("export", folder, "--json")
    assert again.code == 0 and danlu("chat", artifact, "--json", input="hi\n").code == 0, "exported anew"


def test_an_artefact_that_failed_its_proof_is_refused(story: Path) -> None:
    (folder,) = list_runs(story / "runs")
    artifact = folder / "artifacts" / "adapter"
    manifest = read_json(artifact / "artifact.json")
    manifest["parity"]["verdict"] = "fail"
    manifest["parity"]["checks"][0]["verdict"] = "fail"
    write_json(artifact / "artifact.json", manifest)
    refused("chat", artifact, error="export.parity_failed", input="hi\n")


def test_damaged_datasets_and_torn_records_are_made_anew(story: Path) -> None:
    (folder,) = list_runs(story / "runs")
    (folder / "dataset" / "1-sft" / "train" / "ids.bin").write_bytes(b"1234")
    (folder / "acts" / "evaluate.json").write_bytes(b"{")
    (folder / "acts" / "export-adapter.json").write_bytes(b"")
    recipe = story / "company" / "recipe.yaml"
    steps = len(list(Run.open(folder).events.read("step")))
    said = danlu("run", recipe, "--runs", story / "runs", "--json")
    assert said.code == 0, said.err
    assert len(list(Run.open(folder).events.read("step"))) == steps, "the same data again: nothing to train"


def test_report_and_ledger_gone_or_damaged(story: Path) -> None:
    (folder,) = list_runs(story / "runs")
    (folder / "report.json").write_bytes(b"{")
    refused("compare", folder, folder, error="run.file_damaged", names="report.json")
    assert danlu("show", folder, "--json").code == 0
    assert danlu("runs", "--runs", story / "runs", "--json").code == 0
    assert danlu("evaluate", folder, "--json").code == 0
    (folder / "report.json").unlink()
    refused("compare", folder, folder, error="run.file_missing", names="report.json")
    (folder / "contract.json").write_bytes(b"[]")
    said = danlu("evaluate", folder, "--questions", story / "company" / "test.jsonl", "--json")
    assert said.code == 2 and said.json["fix"]


def test_another_template_than_the_trained_one_is_refused(company: Path, base: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for path in base.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    assert danlu("train", "recipe.yaml", f"model.base={mine}", "training.max_steps=2", "--json").code == 0
    config = read_json(mine / "tokenizer_config.json")
    config["chat_template"] = config["chat_template"].replace("<|im_start|>", "<|im_start|> ")
    write_json(mine / "tokenizer_config.json", config)
    said = danlu("evaluate", "recipe.yaml", f"model.base={mine}", "training.max_steps=2", "--json")
    assert said.code == 2 and said.json["error"].startswith("template."), said.json


def test_own_questions_that_cannot_be_asked(story: Path) -> None:
    runs = ("--runs", story / "runs")
    Path("empty.jsonl").write_text("")
    refused("evaluate", "tiny", *runs, "--questions", "empty.jsonl", error="pipeline.no_questions")
    refused("evaluate", "tiny", *runs, "--questions", "nowhere.jsonl", error="data.no_such_path")
    Path("docs.txt").write_text("Only text, no question.")
    refused("evaluate", "tiny", *runs, "--questions", "docs.txt", error="pipeline.no_questions")
    refused("export", "tiny", *runs, "--kind", "gguff", error="core.unknown_name", names="gguff")


def test_a_full_disk_is_said_and_nothing_is_half_written(company: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from danlu.core import files

    real = files.os.fsync

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    said = danlu("prepare", "recipe.yaml", "--json")
    assert said.code == 2 and said.json["error"] == "cli.no_space" and said.json["fix"]
    monkeypatch.setattr(files.os, "fsync", real)
    assert danlu("prepare", "recipe.yaml", "--json").code == 0


def test_new_names_that_are_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my recipe", "name: x", "ein/ziel", "丹炉 一号"):
        said = danlu("new", "--json", "--", name)
        if said.code == 0:
            checked = danlu("check", said.json["recipe"], "--json")
            assert {entry["key"] for entry in checked.json["errors"]} <= {"data.sources.0.path"}, checked.json
        else:
            assert said.json["fix"]
