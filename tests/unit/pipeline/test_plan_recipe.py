"""Where a plan's shapes, card and steps come from."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from danlu.cli.show_plan import show_plan
from danlu.cli.voice import Voice
from danlu.core.errors import RecipeError
from danlu.core.messages import set_language
from danlu.model.hub import embedded_folder
from danlu.pipeline.plan import find_shapes, plan_recipe, this_card
from danlu.planning.cards import CARDS
from danlu.recipe import Recipe


def recipe(base: str, **tree: object) -> Recipe:
    return Recipe.from_tree({"model": {"base": base}, **tree})


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without an NVIDIA driver's tool."""
    monkeypatch.setattr("shutil.which", lambda name: None)


def test_a_folder_s_own_config_goes_before_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "qwen2.5-7b"
    folder.mkdir()
    (folder / "config.json").write_bytes((embedded_folder() / "config.json").read_bytes())
    shapes, is_here = find_shapes(recipe(str(folder)))
    assert is_here and shapes.hidden == 384
    shapes, is_here = find_shapes(recipe("Qwen/Qwen2.5-7B-Instruct"))
    assert not is_here and shapes.hidden == 3584


@pytest.mark.parametrize("base", ["some/thing-9b", "Qwen/Qwen2.5-8B-Instruct"])
def test_an_unknown_base_is_told_what_is_known(base: str) -> None:
    with pytest.raises(RecipeError, match=r"qwen2\.5") as caught:
        find_shapes(recipe(base))
    assert caught.value.key == "planning.unknown_base" and base in caught.value.text


def test_what_is_no_dense_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mamba", "hidden_size": 8}')
    with pytest.raises(RecipeError) as caught:
        find_shapes(recipe(str(tmp_path)))
    assert caught.value.key == "planning.no_decoder"


def test_a_card_that_is_named_is_taken_with_the_memory_that_is_named() -> None:
    planned = plan_recipe(recipe("qwen2.5-7b"), card="4090", memory_gib=48)
    assert planned.card.name == "RTX 4090" and planned.place == "named"
    assert planned.card.memory_bytes == 48 * 2**30 and {cell.card for cell in planned.cells} == {planned.card}
    with pytest.raises(RecipeError, match="RTX 3090"):
        plan_recipe(recipe("qwen2.5-7b"), card="Voodoo 2")


def test_without_a_gpu_small_models_are_planned_for_the_cpu_and_large_ones_for_a_card(no_gpu: None) -> None:
    assert plan_recipe(recipe("ember")).place == "cpu"
    large = plan_recipe(recipe("qwen2.5-7b"))
    assert large.place == "smallest" and all(plan.fits for plan in large.plans)
    huge = plan_recipe(recipe("qwen2.5-72b", adapter="full"))
    assert huge.place == "none" and not huge.plans[0].fits


def test_every_stage_fits_on_the_smallest_card(no_gpu: None) -> None:
    """The hardest stage decides, not the first: a pair of long answers needs more than one."""
    stages = [{"kind": "pretrain", "training": {"context": 512}}, {"kind": "dpo", "training": {"context": 16_384}}]
    planned = plan_recipe(recipe("qwen2.5-7b", stages=stages))
    assert planned.place == "smallest" and all(plan.fits for plan in planned.plans)


@pytest.mark.parametrize("answer", ["NVIDIA A100-SXM4-40GB, 40960, 8.0", "", "no devices were found", "a, b, c"])
def test_the_driver_s_tool_is_asked_and_may_be_broken(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '{answer}'\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("shutil.which", lambda name: str(tool))
    card = this_card()
    if answer.startswith("NVIDIA"):
        assert card is not None and card.name == "A100-SXM4-40GB" and card.flops_16 == CARDS["A100 40GB"].flops_16
    else:
        assert card is None


def test_all_cards_of_this_machine_are_counted_and_paid_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`devices: all` was planned as one card, and an hour of eight cost as much as an hour of one."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nfor n in 1 2 3 4; do echo 'NVIDIA A100-SXM4-80GB, 81920, 8.0'; done\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("shutil.which", lambda name: str(tool))
    length = {"max_steps": 1000, "batch_tokens": 65_536}
    many = plan_recipe(recipe("qwen2.5-7b", training={"devices": "all", **length}), price_per_h=2.0)
    four = plan_recipe(recipe("qwen2.5-7b", training={"devices": 4, **length}), price_per_h=2.0)
    one = plan_recipe(recipe("qwen2.5-7b", training={"devices": "all", **length}), card="H200", price_per_h=2.0)
    assert [planned.plans[0].work.num_ranks for planned in (many, four, one)] == [4, 4, 1]
    assert many.plans == four.plans and many.cost(many.plans[0]) == four.cost(four.plans[0])
    assert many.cost(many.plans[0]) == pytest.approx(4 * 2.0 * (many.plans[0].total_s or 0) / 3600)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_plan_of_several_cards_can_be_told(
    tmp_path: Path, language: str, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    """`danlu plan` ended in a traceback: what the exchange between cards takes had no name."""
    set_language(language)  # type: ignore[arg-type]
    path = tmp_path / "recipe.yaml"
    path.write_text("model: Qwen/Qwen2.5-7B-Instruct\ndata: rows.jsonl\ntraining: {devices: 4, max_steps: 10}\n")
    assert show_plan(path, ["training.context=512"], Voice(), card="A100 80GB", memory_gib=None, price_per_h=2.0)
    assert "4 × A100 80GB" in capsys.readouterr().out.replace("块", "×")
    show_plan(path, ["training.devices=all"], Voice(), card="A100 80GB", memory_gib=None, price_per_h=None)
    assert "training.devices" in capsys.readouterr().out


def test_steps_are_counted_from_text_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("x" * 400_000)
    (tmp_path / "data" / "scan.pdf").write_bytes(b"x" * 9_000_000)
    tree = {"data": {"sources": [str(tmp_path / "data")], "split": {"test": 0.0, "validation": 0.0}},
            "training": {"epochs": 2, "batch_tokens": 10_000, "context": 1000}}  # fmt: skip
    planned = plan_recipe(recipe("qwen2.5-0.5b", **tree), card="H200", price_per_h=3.6)
    plan = planned.plans[0]
    assert planned.is_guess and plan.work.num_steps == 20
    assert plan.total_s is not None and planned.cost(plan) == pytest.approx(plan.total_s / 1000)
    said = plan_recipe(recipe("qwen2.5-0.5b", **(tree | {"training": {"max_steps": 7}})), card="H200")
    assert not said.is_guess and said.plans[0].work.num_steps == 7
    unknown = plan_recipe(recipe("qwen2.5-0.5b", data={"sources": [str(tmp_path / "gone")]}), card="H200")
    assert unknown.plans[0].total_s is None and unknown.cost(unknown.plans[0]) is None
