"""The tiny company, its base, and one finished run, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command_line import danlu
from tiny_company import write_company, write_recipe, write_tiny_base


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
