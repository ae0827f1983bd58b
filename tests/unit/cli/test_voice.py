"""How the command line speaks where nobody watches: plain lines on standard error, one line of JSON on standard output."""

import json

import numpy as np
import pytest

from danlu.cli.lines import visible
from danlu.cli.progress import Lines, facts_text
from danlu.cli.voice import Voice
from danlu.core.files import size_text
from danlu.core.messages import set_language


def test_pipes_get_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice()
    voice.progress.start("training", 3)
    for number in range(3):
        voice.progress.advance(loss=1.0 / (number + 1), tokens_per_s=1234.5)
    voice.progress.note("half way")
    voice.progress.finish()
    voice.progress.finish()
    voice.say("done", "green")
    out, err = capsys.readouterr()
    assert out == "done\n"
    lines = err.splitlines()
    assert lines[0] == "training ..." and lines[1] == "half way"
    assert lines[2].startswith("training: 3 · ") and lines[2].endswith("loss 0.3333 · tokens/s 1,234")
    assert "\x1b" not in err and len(lines) == 3


def test_a_long_work_tells_of_itself_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("danlu.cli.progress.time.monotonic", lambda: float(next(clock)))
    lines = Lines(silent=False)
    lines.start("training", 9)
    for _ in range(9):
        lines.advance()
    lines.finish()
    told = capsys.readouterr().err.splitlines()
    assert 4 <= len(told) <= 8 and any("/9" in line for line in told[1:-1])


def test_json_goes_alone_to_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    voice = Voice(as_json=True)
    voice.say("for people")
    voice.table(["a"], [["[bold]b[/]"]])
    voice.result({"a": np.float32(0.5), "b": float("nan"), 3: "丹炉"})
    out, err = capsysbinary.readouterr()
    assert json.loads(out) == {"a": 0.5, "b": None, "3": "丹炉"} and out.count(b"\n") == 1
    assert b"for people" in err and b"[bold]b[/]" in err, "cells are text, not markup"


def test_quiet_says_errors_only(capsys: pytest.CaptureFixture[str]) -> None:
    voice = Voice(quiet=True)
    voice.say("x")
    voice.table(["a"], [["b"]])
    voice.progress.start("x")
    voice.progress.note("x")
    voice.result({"x": 1})
    voice.fail("broken \udcff name", "mend it")
    out, err = capsys.readouterr()
    assert out == "" and err == "broken \\udcff name\n  → mend it\n"


def test_figures() -> None:
    assert (
        facts_text({"loss": 1.23456, "validation": None, "tokens_per_s": 3210.4, "step": 12})
        == "loss 1.235 · tokens/s 3,210 · step 12"
    )
    assert [size_text(n) for n in (10, 2048, 5 << 20, 3 << 30, 5 << 40)] == [
        "10 B",
        "2.0 KiB",
        "5.0 MiB",
        "3.00 GiB",
        "5120.00 GiB",
    ]


def test_facts_beside_a_bar_are_in_the_readers_language() -> None:
    facts = {"loss": 1.5, "tokens_per_s": 3210.0, "reward_per_pair": 2}
    try:
        set_language("zh")
        assert facts_text(facts) == "损失 1.5 · 词元/秒 3,210 · reward/pair 2"
    finally:
        set_language("en")
    assert facts_text(facts) == "loss 1.5 · tokens/s 3,210 · reward/pair 2"


def test_names_and_answers_give_no_commands_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A file called ESC [31m … coloured everything after it; \\r and direction marks hide what stands there."""
    told = "ev\x1b[31mil\rname\u202egnp.jsonl\n\tkept"
    for speak in (Voice().say, Voice().fail, Voice().progress.note):
        speak(told)
    Voice().table(["file"], [[told]], title=told)
    assert visible("an answer's\r\nown lines") == "an answer's\r\nown lines"
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert "\x1b" not in text and "\r" not in text and "\u202e" not in text
        assert r"ev\x1b[31mil\rname\u202egnp.jsonl" in text.replace("\n", "")
