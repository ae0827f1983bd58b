"""check finds what is wrong with the privacy policy before a document is read."""

from pathlib import Path
from typing import Any

import pytest

from danlu.data.privacy import Policy
from danlu.pipeline.check import check
from danlu.recipe import Recipe


def complaints(privacy: dict[str, Any], **data: Any) -> dict[str, tuple[Any, Any]]:
    """Key to (given, nearest) of what check has to say about the chapter data."""
    tree = {"name": "t", "model": {"base": "nowhere"}, "method": {"kind": "sft"}}
    recipe = Recipe.from_tree(tree | {"data": {"privacy": privacy} | data}, file="recipe.yaml")
    errors = check(recipe)["errors"]
    return {one["key"]: (one["given"], one["nearest"]) for one in errors if one["key"].startswith("data.privacy")}


def test_every_kind_that_does_not_exist_is_named_with_the_nearest() -> None:
    told = complaints({"actions": {"mobil": "mask", "bank_crad": "drop", "email": "mask"}})
    assert told == {
        "data.privacy.actions.mobil": ("mobil", "data.privacy.actions.mobile"),
        "data.privacy.actions.bank_crad": ("bank_crad", "data.privacy.actions.bank_card"),
    }


def test_an_unknown_pack_and_a_masked_secret() -> None:
    assert complaints({"pack": "fnance"}) == {"data.privacy.pack": ("fnance", "finance")}
    assert complaints({"actions": {"password": "mask"}}) == {"data.privacy.actions.password": ("mask", None)}
    assert complaints({"pack": "finance", "actions": {"password": "token"}}) == {}


def test_faults_in_a_pack_of_ones_own_name_the_file(tmp_path: Path) -> None:
    pack = tmp_path / "house.yaml"
    pack.write_text("actions: {mobil: mask}\n", "utf-8")
    assert complaints({"pack": str(pack)}) == {"data.privacy.pack": (f"{pack}: mobil", "mobile")}
    pack.write_text("levels: {secret: mask}\n", "utf-8")
    ((given, _),) = complaints({"pack": str(pack)}).values()
    assert given == f"{pack}: secret"


def test_lists_that_are_not_there(tmp_path: Path) -> None:
    told = complaints({"names": str(tmp_path / "staff.txt"), "forget": str(tmp_path / "list.json")})
    assert set(told) == {"data.privacy.names", "data.privacy.forget"}


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_off_as_yaml_reads_it(tmp_path: Path, written: str) -> None:
    """YAML makes a bare off false: the recipe was refused with a remark about types."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: t\nmodel: {{base: b}}\ndata: {{privacy: {{pack: {written}}}}}\nmethod: {{kind: sft}}\n", "utf-8"
    )
    assert Recipe.load(path).data.privacy.pack == "off"
    assert Recipe.load(path, ["data.privacy.pack=off"]).data.privacy.pack == "off"


def test_a_pack_beside_the_recipe_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pack: house.yaml` was looked for in the current folder, and a pack's own name is no file."""
    (tmp_path / "house.yaml").write_text("actions: {mobile: mask}\n", "utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text("name: t\nmodel: {base: b}\ndata: {privacy: {pack: house.yaml}}\nmethod: {kind: sft}\n", "utf-8")
    (tmp_path / "desk").mkdir()
    monkeypatch.chdir(tmp_path / "desk")
    section = Recipe.load(path).data.privacy
    assert section.pack == str(tmp_path / "house.yaml") and Policy.of(section).actions["mobile"] == "mask"
    assert Recipe.load(path, ["data.privacy.pack=finance"]).data.privacy.pack == "finance"


@pytest.mark.parametrize(("base", "num_layers"), [("ember", "7"), ("Qwen/Qwen3-0.6B", "28")], ids=["here", "known"])
def test_layers_that_a_base_has_not_are_a_fault_of_the_recipe(base: str, num_layers: str) -> None:
    """Also where only its shape is known, for it has not been fetched yet."""
    recipe = Recipe.from_tree(
        {"model": {"base": base, "hub": "modelscope"}, "adapter": {"kind": "lora", "layers": [99]}}
    )
    (fault,) = [one for one in check(recipe)["errors"] if one["key"] == "adapter.layers"]
    assert fault["given"] == "99" and num_layers in fault["expected"]
