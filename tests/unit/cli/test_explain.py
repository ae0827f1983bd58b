"""`danlu explain`: a knob whose keys are kinds lists them."""

from __future__ import annotations

from danlu.cli.explain import explain, explained
from danlu.cli.voice import Voice
from danlu.data.privacy.finding import KINDS
from danlu.recipe import Recipe
from danlu.recipe.knobs import all_knobs


def test_the_kinds_that_actions_may_name_are_listed(capsys) -> None:  # type: ignore[no-untyped-def]
    explain("data.privacy.actions", Voice())
    told = capsys.readouterr()
    for kind in KINDS:
        assert kind in told.out + told.err
    listed = explained(all_knobs(Recipe)["data.privacy.actions"])["kinds"]
    assert sorted(name for names in listed.values() for name in names) == sorted(KINDS)
    assert "kinds" not in explained(all_knobs(Recipe)["data.privacy.pack"])
