"""The tiny company, its base, and one finished run, made once; and the command line, called in this process."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny_company import write_company, write_recipe, write_tiny_base


@dataclass(frozen=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.strip().splitlines()[-1])


def danlu(*words: object, input: str | None = None) -> Said:
    """`danlu WORDS...` in this process. An exception that is not an exit is a traceback for the user, and raised here."""
    from typer.testing import CliRunner

    from danlu.cli.main import app

    done = CliRunner().invoke(app, [str(word) for word in words], input=input)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert "Traceback" not in done.output
    return Said(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def first_run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with company/, recipe and runs/: trained, evaluated, exported. Nobody may change it; take a `story`."""
    home = tmp_path_factory.mktemp("first")
    write_company(home / "company")
    recipe = write_recipe(home / "company", base)
    said = danlu("run", recipe, "--runs", home / "runs", "--json")
    assert said.code == 0, said.err
    return home


@pytest.fixture
def story(first_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `first_run`'s runs to do with as one likes; the current folder is an empty one."""
    shutil.copytree(first_run / "runs", tmp_path / "runs")
    (tmp_path / "company").symlink_to(first_run / "company")  # a recipe's paths are part of it: they stay
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    return tmp_path


@pytest.fixture
def company(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh company folder with recipe.yaml, not yet run; the current folder."""
    folder = write_company(tmp_path / "company")
    write_recipe(folder, base)
    monkeypatch.chdir(folder)
    return folder
