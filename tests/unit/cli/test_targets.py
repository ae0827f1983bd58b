"""What a command line may name: overrides belong to a recipe file and are refused, not dropped, beside anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.cli.targets import open_target, smoke_overrides, tell_if_new
from danlu.cli.voice import Voice
from danlu.core.errors import RunError
from danlu.core.files import read_json, write_json
from danlu.core.messages import lookup
from danlu.recipe import Recipe

RECIPE = "name: small\nmodel: {base: ember}\ndata: {sources: [{path: rows.jsonl}]}\n"


def test_overrides_on_a_run_are_refused_and_the_way_out_is_named(tmp_path: Path) -> None:
    """`danlu evaluate RUN gate.min_gain=0` judged by the run's own gate, and said nothing."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    run = open_target(str(recipe), (), tmp_path)
    for name in (str(run.folder), run.folder.name, "small"):
        assert open_target(name, (), tmp_path).folder == run.folder
        with pytest.raises(RunError, match=r"gate\.min_gain=0") as refused:
            open_target(name, ["gate.min_gain=0"], tmp_path)
        assert refused.value.key == "cli.overrides_on_run" and refused.value.where == name
        for language in ("en", "zh"):
            text, fix = lookup(refused.value.key, language)  # type: ignore[arg-type]
            assert "{given}" in text and "RECIPE.yaml {given}" in fix
    other = open_target(str(recipe), ["gate.min_gain=0"], tmp_path)
    assert other.folder != run.folder and other.recipe.gate.min_gain == 0


def test_a_recipe_that_starts_anew_says_in_what_it_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After a changed knob the same command trained from nothing beside a finished run, and said nothing."""
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    first = open_target(str(recipe), (), tmp_path)
    tell_if_new(first, Voice())
    assert not capsys.readouterr().err
    (first.folder / "acts").mkdir(exist_ok=True)
    (first.folder / "acts" / "prepare.json").write_text("{}")
    tell_if_new(first, Voice())
    assert not capsys.readouterr().err
    second = open_target(str(recipe), ["training.lr=0.001", "serving.port=9000"], tmp_path)
    tell_if_new(second, Voice())
    told = capsys.readouterr().err
    assert "training.lr" in told and str(first.folder) in told and "serving" not in told and "stages" not in told
    stored = read_json(first.folder / "recipe.json")
    del stored["gate"]["max_suite_loss"]  # as an older danlu left it: what it did not know is no difference
    write_json(first.folder / "recipe.json", stored)
    tell_if_new(second, Voice())
    told = capsys.readouterr().err
    assert "training.lr" in told and "max_suite_loss" not in told


def test_a_smoke_run_is_short_goes_through_every_act_and_is_a_run_of_its_own(tmp_path: Path) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    smoke = open_target(str(recipe), smoke_overrides(str(recipe), ()), tmp_path)
    (stage,) = smoke.recipe.plan_stages()
    assert (stage.training.max_steps, smoke.recipe.evaluation.max_items) == (30, 20)
    assert [section.kind for section in smoke.recipe.exports] == ["adapter"]
    assert smoke.folder != open_target(str(recipe), (), tmp_path).folder
    told = smoke_overrides(str(recipe), ["training.max_steps=5", "adapter=full"])
    own = open_target(str(recipe), told, tmp_path).recipe
    assert own.training.max_steps == 5 and [section.kind for section in own.exports] == ["merged"]
    with pytest.raises(RunError, match="--smoke"):
        smoke_overrides(str(smoke.folder), ())


def test_a_smoke_run_is_short_in_stages_that_say_their_own_length_too(tmp_path: Path) -> None:
    """A stage's own `max_steps` stood above the recipe's: the run before the long one was the long one."""
    recipe = tmp_path / "long.yaml"
    stages = "stages: [{kind: pretrain, training: {max_steps: 20000}}, sft, {kind: sft, training: {max_steps: null}}]\n"
    recipe.write_text(RECIPE + stages, encoding="utf-8")
    smoke = open_target(str(recipe), smoke_overrides(str(recipe), ()), tmp_path)
    assert [stage.training.max_steps for stage in smoke.recipe.plan_stages()] == [30, 30, 30]
    own = smoke_overrides(str(recipe), ["stages.0.training.max_steps=7"])
    assert [stage.training.max_steps for stage in Recipe.load(recipe, own).plan_stages()] == [7, 30, 30]
