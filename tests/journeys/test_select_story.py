"""A person's way through `danlu select`: choose, label, read back, train on it. And the report that prepare leaves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from command_line import danlu

REVIEWS = [
    ("房间干净，服务热情", "好"),
    ("太吵了，设施陈旧", "差"),
    ("早餐丰富，位置方便", "好"),
    ("前台态度冷淡，失望", "差"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with (tmp_path / "labelled.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"{text}，第{n}天", label] for n in range(6) for text, label in REVIEWS)
    with (tmp_path / "pool.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text"])
        writer.writerows(
            [f"住了{n}晚，{a}，不过{b}"] for n in range(5) for a, _ in REVIEWS for b, _ in REVIEWS if a != b
        )
    recipe = {
        "name": "hotel",
        "model": {"base": "ember"},
        "data": {"sources": ["labelled.csv"], "privacy": {"key_file": "keys"}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_choose_label_read_back_and_prepare_with_it(folder: Path) -> None:
    said = danlu(
        "select", "recipe.yaml", "--pool", "pool.csv", "--budget", 8, "--by", "spread", "--json", "--lang", "en"
    )
    assert said.code == 0 and said.json["chosen"] == 8 and said.json["by"] == "spread"
    place = Path(said.json["folder"])
    tasks = json.loads((place / "label_studio.json").read_text("utf-8"))
    for task in tasks:
        value = {"choices": ["好"]}
        task["annotations"] = [
            {"result": [{"from_name": "label", "to_name": "text", "type": "choices", "value": value}]}
        ]
    (folder / "export.json").write_text(json.dumps(tasks), "utf-8")
    said = danlu("select", "recipe.yaml", "--read", "export.json", "--json", "--lang", "zh")
    assert said.code == 0 and said.json["rows"] == 8 and said.json["account"]["rejected"] == 0
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "hotel-2",
                "model": {"base": "ember"},
                "data": {"sources": ["labelled.csv", said.json["labelled"]], "privacy": {"key_file": "keys"}},
            }
        ),
        "utf-8",
    )
    said = danlu("prepare", "recipe.yaml", "--quiet", "--lang", "zh")
    assert said.code == 0, said.err
    (run,) = (folder / "runs").glob("hotel-2-*")
    told = json.loads((run / "data_report.json").read_text("utf-8"))
    assert told["balance"]["made_by"] == {"human": told["balance"]["made_by"]["human"]}
    assert told["told"]["stages"][0]["name"] == "read" and told["lights"]
    for language in ("en", "zh"):
        page = (run / f"data_report.{language}.html").read_text("utf-8")
        assert "</html>" in page and "http" not in page.replace("http-equiv", "")
    assert (run / "audit_sheet.csv").read_text("utf-8-sig").count("\n") > 1


def test_mistakes_are_explained(folder: Path) -> None:
    said = danlu("select", "recipe.yaml", "--by", "answer", "--json", "--lang", "en")
    assert said.code == 2 and said.json["error"] == "select.unknown_way" and "mean answers?" in said.json["fix"]
    (folder / "export.json").write_text("[1]", "utf-8")
    said = danlu("select", "recipe.yaml", "--read", "export.json", "--json", "--lang", "zh")
    assert said.code == 2 and said.json["error"] == "select.not_an_export" and "导出" in said.json["fix"]
    said = danlu("select", "recipe.yaml", "--read", "missing.json", "--json", "--lang", "en")
    assert said.code == 2 and said.json["error"] == "select.cannot_open"
