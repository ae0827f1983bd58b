"""What commands tell people: in words, short enough to read, and never a slip taken for a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from danlu.cli.auditing import _brief
from danlu.cli.chat import Table, converse
from danlu.cli.preparing import show_changes
from danlu.cli.show import _about_artifact, _decision
from danlu.cli.voice import Voice
from danlu.engines.engine import Sampling

DIGEST = "5662c05353df7e2bfa62e2f6e523a7b12264cf69955408ed7421630b7ff8b289"


class Unasked:
    """An engine that nobody may ask."""

    name = "law"

    def stream(self, question: Any, sampling: Any) -> Iterator[str]:
        raise AssertionError(f"asked: {question}")


def test_changed_rows_are_told_by_kind_with_the_first_place(capsys: pytest.CaptureFixture[str]) -> None:
    """`60 changed`, said prepare, and not what; inspect had said 0."""
    changes = [{"code": "normal_form", "file": "a.csv", "line": n, "reason": "line ends rewritten"} for n in (2, 3, 4)]
    changes.append({"code": "masked", "file": "a.csv", "line": 9, "reason": "a number masked"})
    show_changes({"changes": changes, "omitted": {"changes": 0}}, Voice())
    first, second = capsys.readouterr().out.splitlines()
    assert all(part in first for part in ("3", "line ends rewritten", "a.csv:2")) and "a.csv:9" in second


@pytest.mark.parametrize("slip", ["/help", "/", "/quti", "/bse what is it", "/?"])
def test_a_slip_of_a_command_is_no_question(
    slip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter([slip, "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    converse(Table(Voice(), Unasked(), None, Sampling()))  # type: ignore[arg-type]
    assert "/new" in capsys.readouterr().err


def test_a_path_is_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = iter(["/etc/hosts holds what?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    with pytest.raises(AssertionError, match="/etc/hosts"):
        converse(Table(Voice(), Unasked(), None, Sampling()))  # type: ignore[arg-type]


def test_the_log_is_told_by_names_and_digests_only_where_there_is_nothing_else() -> None:
    assert _brief({"inputs": DIGEST, "run": "law-1234", "record": DIGEST}) == "law-1234"
    assert _brief({"hash": DIGEST}).startswith("hash: 5662")


def test_an_artefact_is_told_in_a_few_short_lines() -> None:
    manifest = {
        "kind": "adapter", "name": "law", "digest": DIGEST, "created": "2026-11-22T16:54:17+00:00",
        "parity": {"verdict": "pass"}, "base": {"name": "ember", "dtype": "bfloat16", "digest": DIGEST, "revision": None},
        "parents": {"dataset": DIGEST},
    }  # fmt: skip
    told = _about_artifact(manifest)
    assert told["parity"] == "proven equal" and told["parents"] == ["dataset 5662c05353df"]
    assert max(len(str(value)) for value in told.values()) <= 64


def test_a_run_without_a_verdict_tells_how_far_it_has_come() -> None:
    assert _decision({"decision": "ship", "finished": ["evaluate"]}) == "Ship"
    assert _decision({"decision": None, "finished": ["prepare", "train-1-sft"]}) == "trained"
    assert _decision({"decision": None, "finished": []}) == "–"
