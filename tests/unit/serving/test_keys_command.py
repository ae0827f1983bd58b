"""`danlu keys`, `danlu usage` and `danlu audit` over journals, as people call them."""

import csv
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_journal import closing, opening
from typer.testing import CliRunner

from danlu.cli.keying import moment, span_s
from danlu.cli.main import app
from danlu.core.errors import DanluError
from danlu.core.messages import load_room
from danlu.serving.journal import FOLDER, FileJournal, journals
from danlu.serving.keys import PEPPER, LiveKeys, Pepper
from danlu.serving.store import open_store


def said(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def told(*words: object, code: int = 0) -> Any:
    return orjson.loads(said(*words, "--json", code=code).strip().splitlines()[-1])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def find(runs: Path, credential: str) -> object:
    home = runs / "serving"
    return LiveKeys(open_store(home), Pepper.open(home / PEPPER)).find(credential, time.time())


def test_a_key_from_its_making_to_its_end(runs: Path) -> None:
    made = told("keys", "create", "front desk", "--model", "law", "--rpm", 60, "--expires", "90d", "--runs", runs)
    assert find(runs, made["key"]).requests_per_minute == 60
    assert made["key"] not in said("keys", "list", "--runs", runs)
    fresh = told("keys", "rotate", "front desk", "--overlap", "1h", "--runs", runs)
    assert find(runs, made["key"]) == find(runs, fresh["key"])
    told("keys", "change", made["id"], "--rpm", 0, "--tpm", 500, "--runs", runs)
    found = find(runs, fresh["key"])
    assert (found.requests_per_minute, found.tokens_per_minute, found.models) == (0, 500, ("law",))
    told("keys", "revoke", "front desk", "--reason", "left us", "--runs", runs)
    assert find(runs, fresh["key"]) is None
    (row,) = told("keys", "list", "--runs", runs)
    assert row["state"] == "revoked" and "key" not in row
    log = (runs / "audit.jsonl").read_text()
    assert [name in log for name in ("keys.created", "keys.rotated", "keys.changed", "keys.revoked", "left us")] == [
        True
    ] * 5
    assert made["key"][16:] not in log and fresh["key"][16:] not in log


def test_the_secret_is_shown_once_and_said_to_be(runs: Path) -> None:
    text = said("keys", "create", "前台", "--runs", runs)
    assert "dl-" in text and load_room("keys", "en")["shown_once"] in text


def test_with_json_the_secret_stands_in_the_json_and_nowhere_else(runs: Path) -> None:
    """What is said beside it goes to stderr, which every log of a pipeline keeps."""
    command = [sys.executable, "-m", "danlu", "keys"]
    for words in (("create", "ci"), ("rotate", "ci")):
        done = subprocess.run([*command, *words, "--json", "--runs", runs], capture_output=True, text=True, check=True)
        secret = orjson.loads(done.stdout)["key"]
        assert secret not in done.stderr and "ci" in done.stderr


def test_quietly_the_secret_is_all_that_is_said(runs: Path) -> None:
    """It is nowhere kept: a command that said nothing would have made a key for nobody."""
    secret = said("keys", "create", "ci", "--quiet", "--runs", runs).removesuffix("\n")
    assert find(runs, secret).name == "ci"
    fresh = said("keys", "rotate", "ci", "--quiet", "--runs", runs).removesuffix("\n")
    assert find(runs, fresh).name == "ci" and fresh != secret


def test_a_table_of_usage_keeps_ids_whole_and_has_no_empty_columns(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    journal = FileJournal(runs / "serving" / FOLDER, "w0")
    journal.opened(opening("r", time.time()))
    journal.closed(closing("r"))
    journal.close()
    text = said("usage", "--runs", runs)
    assert "abcdefghijkl" in text
    words = load_room("keys", "en")
    assert words["col_rest"] not in text and words["col_cost"] not in text, "nothing would stand in them"


def test_usage_as_table_json_and_csv(runs: Path, tmp_path: Path) -> None:
    home = runs / "serving"
    journal = FileJournal(home / FOLDER, "w0")
    for number in range(3):
        journal.opened(opening(f"r{number}", time.time()))
        if number:
            journal.closed(closing(f"r{number}"))
    journal.close()
    recipe = tmp_path / "serving.yaml"
    recipe.write_text("name: shop\nserving:\n  prices: {law: [1.0, 2.0]}\n")
    found = told("usage", "--runs", runs, "--config", recipe, "--csv", tmp_path / "use.csv")
    (row,) = found["rows"]
    assert (row["key"], row["model"], row["requests"], row["lost"]) == ("abcdefghijkl", "law", 3, 1)
    assert row["cost"] == pytest.approx((60 * 1.0 + 124 * 2.0) / 1e6) and found["total"]["requests"] == 3
    with (tmp_path / "use.csv").open() as file:
        assert [line["requests"] for line in csv.DictReader(file)] == ["3"]
    text = said("usage", "--by", "model", "--runs", runs)
    assert "law" in text and "lost 1" in text
    assert told("usage", "--by", "version,day", "--runs", runs)["rows"][0]["version"] == "law@0123456789ab"
    said("usage", "--by", "colour", "--runs", runs, code=2)
    assert told("usage", "--since", "2001-01-01", "--until", "2001-01-31", "--runs", runs)["rows"] == []


def test_audit_covers_journals_and_anchors_their_heads(runs: Path, tmp_path: Path) -> None:
    told("keys", "create", "a", "--runs", runs)
    journal = FileJournal(runs / "serving" / FOLDER, "w0")
    journal.opened(opening("r"))
    journal.closed(closing("r"))
    journal.close()
    (path,) = journals(runs / "serving" / FOLDER)
    anchor = tmp_path / "heads.jsonl"
    (head,) = told("audit", "head", "--anchor", anchor, "--runs", runs)["journals"]
    assert head["journal"] == path.stem and head["n"] == 3
    (whole,) = told("audit", "verify", "--anchor", anchor, "--runs", runs)["journals"]
    assert whole["lines"] == 4 and not whole["problems"]
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert told("audit", "verify", "--runs", runs)["is_whole"]  # cut off at its end: for that there are anchors
    found = told("audit", "verify", "--anchor", anchor, "--runs", runs, code=1)
    assert not found["is_whole"] and found["journals"][0]["problems"][0]["what"] == "cut_off"
    path.write_bytes(b"".join(lines).replace(b'"answer_tokens":12', b'"answer_tokens":11'))
    assert "changed after it was written" in said("audit", "verify", "--runs", runs, code=1)


def test_a_wrong_word_is_said_so(runs: Path) -> None:
    for words in (("revoke", "nobody"), ("create", "a", "--expires", "soon"), ("create", "a", "--expires", "2020-01-01"),
                  ("rotate", "a", "--overlap", "1y")):  # fmt: skip
        assert said("keys", *words, "--runs", runs, code=2)


def test_times_that_people_say() -> None:
    assert span_s("90d") == 90 * 86_400 and span_s("30m") == 1800 and span_s("0") == 0
    assert moment("never", 5.0) == 0 and moment("1h", 5.0) == 3605
    assert moment("2027-01-31", 0.0) == 1_801_440_000.0  # the day is whole
    with pytest.raises(DanluError):
        span_s("90 days")
