"""Nothing comes into training by a side door: replay and variants are masked, counted and compared with what is held
out as every other row is, and the report says what was left out."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from danlu.core.files import read_json
from danlu.core.messages import say
from danlu.data.augment.varying import variant
from danlu.data.privacy.records import FOLDER as RECORDS
from danlu.data.sample import Conversation, Message, Origin
from danlu.data.split import fold
from danlu.pipeline.base import open_base
from danlu.pipeline.prepare import Prepared, prepare
from danlu.pipeline.why import why
from danlu.recipe import Recipe
from danlu.run.run import Run

WORDS = "furnace ledger cedar harbour violet engine paper winter copper lantern meadow signal river marble".split()


def talk(number: int) -> dict[str, str]:
    """A question and an answer that are like no other."""
    draw = random.Random(number)
    words = [f"{draw.choice(WORDS)}{draw.randrange(1000)}" for _ in range(16)]
    return {"question": f"How does {' '.join(words[:6])} meet {words[6]}?", "answer": f"By {' '.join(words[7:])}."}


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
    )
    return path


def prepared(home: Path, base: Path, **data: Any) -> tuple[Run, Prepared]:
    tree = {"name": "side", "model": {"base": str(base), "dtype": "float32"}, "training": {"context": 256}}
    chapter = {"sources": [str(home / "rows.jsonl")], "privacy": {"key_file": str(home / "keys.json")}, **data}
    run = Run.create(Recipe.from_tree({**tree, "data": chapter}), home / "runs")
    return run, prepare(run)


def trained(run: Run, done: Prepared) -> list[str]:
    """Where each item of the train part was read."""
    rows = run.path("dataset", done.stages[-1].name, "train", "rows.jsonl").read_text().splitlines()
    return [json.loads(row)["origin"] for row in rows]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"duplicates": "keep", "cleaning": {"near_duplicates": "drop"}}, "twins_dropped_near"),
        ({"duplicates": "drop", "cleaning": {"near_duplicates": "drop"}}, "twins_dropped_all"),
        ({"duplicates": "keep", "cleaning": {"near_duplicates": "keep"}}, "twins_dropped_none"),
    ],
)
def test_the_report_says_which_copies_were_left_out(
    tmp_path: Path, base: Path, data: dict[str, Any], told: str
) -> None:
    """Near copies were dropped, and the report said that copies were kept."""
    rows = [talk(number) for number in range(40)]
    near = talk(3) | {"answer": talk(3)["answer"].replace("By", "With")}
    write_rows(tmp_path / "rows.jsonl", [*rows, talk(5), near])
    run, _ = prepared(tmp_path, base, **data)
    page = run.path("data_report.en.html").read_text()
    said = {
        key: say(f"report_data.{key}") in page
        for key in ("twins_dropped_near", "twins_dropped_all", "twins_dropped_none")
    }
    assert said == {key: key == told for key in said}


def id_card(number: int) -> str:
    """A resident identity number that is well-formed: region, birthday, order, check character."""
    first = f"11010519{60 + number % 30}{1 + number % 12:02}{1 + number % 28:02}{number % 1000:03}"
    total = sum(int(digit) * 2 ** (17 - at) for at, digit in enumerate(first))
    return first + "10X98765432"[total % 11]


def decoded(run: Run, done: Prepared) -> str:
    """All that the last stage trains on."""
    tokenizer = open_base(run.recipe.model).tokenizer
    part = done.stages[-1].dataset.part("train")
    texts = [tokenizer.decode(one.ids.tolist(), skip_control=True) for at in range(len(part)) for one in part[at]]
    return "\n".join(texts)


def test_replay_is_masked_counted_and_told_apart_from_the_test(tmp_path: Path, base: Path) -> None:
    """Twenty identity numbers of a replay file were trained on as they stood, and three of six test questions too."""
    write_rows(tmp_path / "rows.jsonl", [talk(number) for number in range(60)])
    first, _ = prepared(tmp_path, base, split={"test": 0.1, "validation": 0.1})
    held = [json.loads(line) for line in first.path("dataset", "test.jsonl").read_text().splitlines()]
    held_out = [row["messages"][0]["content"] for row in held]
    assert len(held_out) == 6
    cards = [id_card(number) for number in range(20)]
    general = [
        *(
            {"question": f"{talk(900 + at)['question']} For {card}", "answer": "Noted."}
            for at, card in enumerate(cards)
        ),
        *({"question": asked, "answer": "As before."} for asked in held_out[:3]),
        {"question": "broken", "answer": ""},
        '{"question": "cut of',
        talk(700) | {"answer": " ".join(talk(number)["answer"] for number in range(700, 790))},
        *(talk(number) for number in range(800, 812)),
    ]
    path = write_rows(tmp_path / "general.jsonl", general)
    run, done = prepared(
        tmp_path, base, split={"test": 0.1, "validation": 0.1}, replay={"path": str(path), "ratio": 0.45}
    )
    again = [json.loads(line) for line in run.path("dataset", "test.jsonl").read_text().splitlines()]
    assert [row["messages"][0]["content"] for row in again] == held_out
    text = decoded(run, done)
    assert not [card for card in cards if card in text]
    assert not [asked for asked in held_out if asked in text]
    origins = trained(run, done)
    assert f"{path}:1" in origins and f"{path}:38" in origins
    account = read_json(run.path("ledger.json"))
    rows, reasons = account["replay"]["rows"], account["replay"]["reasons"]
    assert rows["read"] == len(general) == rows["used"] + rows["spare"] + rows["rejected"]
    assert rows["used"] == sum(origin.startswith(str(path)) for origin in origins) == done.outcome["replay"]["rows"]
    assert reasons["like_held_out"] == 3 and reasons["encode_over_length"] == 1 and sum(reasons.values()) == 6
    assert account["counts"]["replay_rejected"] == 6 and account["rows"]["read"] == 60
    refused = [json.loads(line) for line in run.path("rejects.jsonl").read_text().splitlines()]
    assert sum(entry["file"] == str(path) for entry in refused) == 6
    prompts = read_json(run.path("dataset", "prompts.json"))
    assert fold(talk(805)["question"]) in prompts
    answer = why(f"{path}:21", tmp_path / "runs", only=[run.folder]).samples[0]
    assert answer["part"] == "" and answer["left_out"]["reason"] == "like_held_out"
    answer = why(f"{path}:38", tmp_path / "runs", only=[run.folder]).samples[0]
    assert answer["part"] == "replay" and answer["items"]


def test_a_secret_s_level_is_the_dataset_s_though_only_replay_has_it(tmp_path: Path, base: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [talk(number) for number in range(40)])
    path = write_rows(tmp_path / "general.jsonl", [talk(900) | {"answer": f"My card is {id_card(7)}."}])
    keep = {"key_file": str(tmp_path / "keys.json"), "actions": {"resident_id": "keep"}}
    _, plain = prepared(tmp_path, base, privacy=keep)
    run, done = prepared(tmp_path, base, privacy=keep, replay={"path": str(path), "ratio": 0.1})
    assert plain.card.facts["level"] == "internal" and done.card.facts["level"] != "internal"
    manifest = read_json(run.path("dataset", done.stages[-1].name, "manifest.json"))
    assert manifest["parts"]["level"] == done.card.facts["level"]


def test_what_the_base_says_again_goes_the_same_way(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "rows.jsonl", [talk(number) for number in range(60)])
    first, _ = prepared(tmp_path, base, split={"test": 0.1, "validation": 0})
    held = json.loads(first.path("dataset", "test.jsonl").read_text().splitlines()[0])["messages"][0]["content"]
    asked = [held, f"{talk(900)['question']} For {id_card(3)}", talk(901)["question"]]

    def say_again(*_: Any) -> list[Conversation]:
        return [
            Conversation(
                (Message("user", text), Message("assistant", "Yes.")), Origin("replay", at), tags={"made_by": "replay"}
            )
            for at, text in enumerate(asked, start=1)
        ]

    monkeypatch.setattr("danlu.pipeline.replayed.make_replay", say_again)
    run, done = prepared(tmp_path, base, split={"test": 0.1, "validation": 0}, replay={"source": "base", "ratio": 0.3})
    text = decoded(run, done)
    assert held not in text and id_card(3) not in text and asked[2] in text
    assert read_json(run.path("ledger.json"))["replay"]["rows"]["used"] == 2


def test_variants_that_are_like_what_is_held_out_are_left_out(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variant of a train row may come out as the very question that is kept for the test."""
    write_rows(tmp_path / "rows.jsonl", [talk(number) for number in range(60)])
    data = {"split": {"test": 0.1, "validation": 0}, "augment": {"methods": ["eda"]}}
    first, _ = prepared(tmp_path, base, split=data["split"])
    held = json.loads(first.path("dataset", "test.jsonl").read_text().splitlines()[0])["messages"][0]["content"]

    def vary(_: Any, train: Iterable[Any], *__: Any) -> list[Any]:
        one, two, three, *_rest = train
        return [
            variant(one, held, "eda"),
            variant(two, f"{talk(900)['question']} For {id_card(3)}", "eda"),
            variant(three, talk(901)["question"], "eda"),
        ]

    monkeypatch.setattr("danlu.pipeline.furnace.vary", vary)
    run, done = prepared(tmp_path, base, **data)
    text = decoded(run, done)
    assert held not in text and id_card(3) not in text and talk(901)["question"] in text
    account = read_json(run.path("ledger.json"))
    assert account["reasons"] == {"like_held_out": 1} and account["counts"]["rows_varied"] == 3
    augmented = read_json(run.path("dataset", "manifest.json"))["parts"]["funnel"][-1]
    assert augmented["name"] == "augment" and augmented["dropped"] == {"like_held_out": 1}
    assert (augmented["rows_in"], augmented["rows_out"]) == (3, 2)
    assert done.certificate["variants"] == {"made": 3, "like_held_out": 1, "train": 2}
    records = "".join(path.read_text() for path in run.path(*RECORDS).glob("*.jsonl"))
    assert records.count('"derived"') == 3, "what was made of which row is on record"
