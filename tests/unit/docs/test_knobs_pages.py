"""The pages of knobs are what the code says today."""

import importlib.util
from pathlib import Path

import pytest

from danlu.recipe import Recipe
from danlu.recipe.knobs import all_knobs

DOCS = Path(__file__).parents[3] / "docs"
SPEC = importlib.util.spec_from_file_location("make_knobs", DOCS / "make_knobs.py")
assert SPEC is not None and SPEC.loader is not None
make_knobs = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_knobs)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_committed_page_is_current(language):
    """A default was changed and the documentation kept the old one."""
    committed = (DOCS / make_knobs.FILES[language]).read_text(encoding="utf-8")
    assert committed == make_knobs.make(language), "run: python docs/make_knobs.py"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_knob_is_on_the_page(language):
    page = make_knobs.make(language)
    assert all(f"### `{key}`" in page for key in all_knobs(Recipe))
