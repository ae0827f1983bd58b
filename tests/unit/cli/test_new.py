"""`danlu new`: what its comments offer can be taken up as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from danlu.cli.new import RECIPES
from danlu.recipe.recipe import Recipe

CHAPTERS = ("cleaning", "privacy", "documents", "teacher", "synthesis", "augment", "replay")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_chapter_of_the_furnace_is_named_and_holds_once_its_mark_is_gone(tmp_path: Path, language: str) -> None:
    written = RECIPES[language].format(name="expert")
    plain = tmp_path / "plain.yaml"
    plain.write_text(written, "utf-8")
    before = Recipe.load(plain)
    offered = re.findall(r"^  # (\w+): \{", written, re.MULTILINE)
    assert tuple(offered) == CHAPTERS and "danlu select" in written
    taken = tmp_path / "taken.yaml"
    taken.write_text(re.sub(r"^  # (?=\w+: \{)", "  ", written, flags=re.MULTILINE), "utf-8")
    recipe = Recipe.load(taken)
    for chapter in CHAPTERS:
        assert getattr(recipe.data, chapter) != getattr(before.data, chapter), chapter
