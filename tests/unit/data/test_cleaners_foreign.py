"""A rule of another package: it runs where the recipe names it, and one that nobody brings is refused."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from cleaners_kit import document, run

from danlu.core.errors import RecipeError
from danlu.core.messages import say
from danlu.data.cleaners import CLEANERS, build
from danlu.data.sample import Sample
from danlu.recipe.cleaning import CleaningSection

PLUG_IN = """
from danlu.data.cleaners import Finding


class Shouting:
    name = "shouting"

    def key(self):
        return {"version": 1}

    def judge(self, batch):
        return {row: Finding("all in capitals") for row, text in enumerate(batch.body) if text.isupper()}
"""


@pytest.fixture
def shelf_with_a_rule_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What installing a package leaves behind: a module, and a folder that names its entry points."""
    (tmp_path / "loud.py").write_text(PLUG_IN)
    card = tmp_path / "loud-1.0.dist-info"
    card.mkdir()
    (card / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (card / "entry_points.txt").write_text("[danlu.cleaners]\nshouting = loud:Shouting\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(CLEANERS.__dict__, "places", raising=False)
    yield
    CLEANERS.__dict__.pop("places", None)


@pytest.mark.usefixtures("shelf_with_a_rule_of_ones_own")
def test_a_rule_of_ones_own_runs_where_the_recipe_names_it() -> None:
    rows: list[Sample] = [document("公司为员工提供带薪年假。"), document("PLEASE READ THIS NOW, ALL OF YOU.")]
    assert all(row is not None for row, _ in run(build(CleaningSection()), rows))
    stages = build(CleaningSection(rules={"shouting": "drop"}))
    assert pickle.loads(pickle.dumps(stages[-1])).key() == stages[-1].key()
    kept, gone = stages[-1](rows)
    assert kept[0] is not None and gone[0] is None
    (fate,) = gone[1]
    assert say(f"ledger.{fate.reason}", **fate.values) == "by the rule shouting: all in capitals"
    flagged = build(CleaningSection(rules={"shouting": "flag"}))[-1](rows)[1]
    assert flagged[0] is not None and [fate.action for fate in flagged[1]] == ["flag"]
    assert build(CleaningSection(rules={"shouting": "keep"}))[-1].key() == build(CleaningSection())[-1].key()


def test_a_rule_that_nobody_brings_is_refused_with_its_key() -> None:
    with pytest.raises(RecipeError, match=r"data\.cleaning\.rules\.shouting"):
        build(CleaningSection(rules={"shouting": "drop"}))
    with pytest.raises(RecipeError, match=r"data\.cleaning\.echo"):
        build(CleaningSection(rules={"echo": "drop"}))
