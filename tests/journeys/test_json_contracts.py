"""The JSON that scripts rely on: keys, types and exit codes of inspect, check, evaluate and demo, and the last line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import danlu

SHARED = Path(__file__).parents[3] / "shared" / "data"


def held_to_inspect(path: Path) -> dict:
    """`danlu inspect PATH --json` keeps its word about this file or folder."""
    said = danlu("inspect", path, "--json")
    found = said.json
    assert found.keys() >= {"format", "encoding", "rows", "rejects"}
    rows = found["rows"]
    assert set(rows) == {"read", "used", "changed", "rejected"}
    assert rows["read"] == rows["used"] + rows["rejected"], path
    assert rows["changed"] <= rows["used"]
    assert said.code == (0 if rows["used"] else 2), path
    assert len(found["rejects"]) + found["omitted"]["rejects"] == rows["rejected"]
    for entry in found["rejects"]:
        assert entry.keys() >= {"file", "line", "reason"} and entry["reason"]
    assert rows["read"] or found["rejects"] or said.code == 2, "nothing vanishes"
    return found


def malformed() -> list[Path]:
    return sorted(path for path in (SHARED / "malformed").glob("*") if path.is_file())


@pytest.mark.skipif(not malformed(), reason="the real data folder ../shared/data/malformed is not here")
@pytest.mark.parametrize("path", malformed(), ids=lambda path: path.name)
def test_inspect_of_every_broken_file(path: Path) -> None:
    held_to_inspect(path)


@pytest.mark.skipif(
    not (SHARED / "documents").is_dir(), reason="the real data folder ../shared/data/documents is not here"
)
def test_inspect_of_a_folder_of_documents() -> None:
    """The whole folder at once, as a user would; file by file it is read in tests/unit/data."""
    folder = next(path for path in sorted((SHARED / "documents").iterdir()) if path.is_dir())
    found = held_to_inspect(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "~$"))]
    assert len(found["files"]) == len(files), "every file is accounted for"


def test_inspect_of_nothing_and_of_several(company: Path) -> None:
    missing = danlu("inspect", "nowhere", "--json")
    assert missing.code == 2 and missing.json["error"] == "data.no_such_path"
    Path("empty.jsonl").write_text("")
    assert held_to_inspect(Path("empty.jsonl"))["rows"]["used"] == 0
    several = danlu("inspect", "qa.jsonl", "labels.csv", "docs", "--json").json
    assert several["rows"]["used"] == 100 + 60 + 3 and several["kinds"] == {
        "conversation": 100,
        "label": 60,
        "document": 3,
    }


def test_inspect_shows_text_ids_and_mask(company: Path) -> None:
    """What is learnt can be seen: the answer and its end, not the question."""
    (sample,) = danlu("inspect", "qa.jsonl", "--samples", "1", "--json").json["samples"]
    rendered = sample["rendered"]
    assert len(rendered["ids"]) == len(rendered["weights"])
    learnt = "".join(run["text"] for run in rendered["runs"] if run["learnt"])
    assert learnt == "11 yuan<|im_end|>\n" or learnt == "11 yuan<|im_end|>"
    people = danlu("inspect", "qa.jsonl", "--samples", "1").out
    assert "11 yuan" in people and str(rendered["ids"][0]) in people


def test_check(company: Path) -> None:
    good = danlu("check", "recipe.yaml", "--json")
    assert good.code == 0 and good.json["ok"] is True and good.json["errors"] == []
    (stage,) = good.json["plan"]["stages"]
    assert stage["total_bytes"] > 0 and stage["num_trainable"] > 0 and good.json["plan"]["is_estimate"] is True
    for words in (
        ("recipe.yaml", "training.lrr=1"),
        ("nowhere.yaml",),
        ("recipe.yaml", "data.sources=[nowhere]"),
        ("recipe.yaml", "x"),
    ):
        bad = danlu("check", *words, "--json")
        assert bad.code == 2 and bad.json["ok"] is False and bad.json["errors"]
        assert all(entry.keys() >= {"key", "given", "expected", "nearest"} for entry in bad.json["errors"])
        assert isinstance(bad.json["plan"], dict)


def test_evaluate_with_own_questions(story: Path) -> None:
    rows = [
        {"question": "Is it open?", "answer": "yes", "accept": ["yep", "sure"]},
        {"question": "多少钱？", "answer": "十元"},
    ]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = danlu("evaluate", "tiny", "--runs", story / "runs", "--questions", "mine.jsonl", "--json")
    assert said.code == 0
    for side in ("base", "tuned"):
        assert said.json[side].keys() >= {"name", "accuracy", "interval", "num_items", "num_right"}
        low, high = said.json[side]["interval"]
        assert 0 <= low <= said.json[side]["accuracy"] <= high <= 1
    assert said.json["difference"].keys() >= {"value", "interval", "p"}
    assert [item["question"] for item in said.json["items"]] == [row["question"] for row in rows]


def test_only_the_last_line_of_standard_output_is_json_and_it_is_alone(story: Path) -> None:
    """A script may read all of standard output: with --json everything else goes to standard error."""
    recipe = story / "company" / "recipe.yaml"
    for words in (("prepare", recipe), ("train", recipe), ("evaluate", recipe), ("export", recipe), ("run", recipe), ("show", "tiny"),
                  ("inspect", recipe.parent / "qa.jsonl"), ("check", recipe), ("list", "formats"), ("explain", "training.lr"), ("doctor",)):  # fmt: skip
        runs = (
            ("--runs", story / "runs") if words[0] in ("prepare", "train", "evaluate", "export", "run", "show") else ()
        )
        said = danlu(*words, *runs, "--json")
        assert len(said.out.strip().splitlines()) == 1, words
        assert said.json is not None


def test_demo_keys(story: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """The demo's last line, here made from the tiny run: the demo itself takes minutes."""
    from danlu.cli.show import show_demo
    from danlu.cli.voice import Voice
    from danlu.pipeline.demo import Story, peak_memory_bytes
    from danlu.pipeline.run_all import run_all
    from danlu.run.run import Run, list_runs

    run = Run.open(list_runs(story / "runs")[0])
    show_demo(Story(run, run_all(run), 1.5, peak_memory_bytes()), Voice(as_json=True))
    told = json.loads(capsysbinary.readouterr().out.splitlines()[-1])
    assert told.keys() >= {"run", "base", "tuned", "consistency", "parity", "seconds", "peak_memory_bytes"}
    assert isinstance(told["base"]["accuracy"], float) and isinstance(told["consistency"], float)
    low, high = told["tuned"]["interval"]
    assert 0 <= low <= told["tuned"]["accuracy"] <= high <= 1
    assert told["parity"]["verdict"] in ("pass", "fail") and told["seconds"] == 1.5
    assert told["peak_memory_bytes"] > 10_000_000 and Path(told["run"]).is_dir()
