"""Shared options mean the same for every command, in groups too."""

import subprocess
import sys

import pytest

COMMANDS = [["runs"], ["registry", "list"], ["audit", "show"], ["judge", "none"], ["weigh", "none"]]


def danlu(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "danlu", *words]
    return subprocess.run(command, capture_output=True, text=True, env={"LANG": "C.UTF-8", "PATH": ""})


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_language_that_is_none_is_refused(command: list[str]) -> None:
    said = danlu(*command, "--lang", "klingon")
    assert said.returncode == 2 and "klingon" in said.stderr


@pytest.mark.parametrize(("group", "word"), [("registry", "别名"), ("audit", "审计"), ("judge", "评判")])
def test_help_is_in_the_language_asked_for(group: str, word: str) -> None:
    assert word in danlu("--lang", "zh", group, "--help").stdout
    assert word not in danlu("--lang", "en", group, "--help").stdout
