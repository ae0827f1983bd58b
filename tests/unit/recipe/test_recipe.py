"""Recipes: strict, fast, torch-free, and they answer the names that users of other suites type."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.core.errors import RecipeError
from danlu.core.messages import set_language
from danlu.recipe import InvalidRecipeError, Recipe
from danlu.recipe.habits import HABITS
from danlu.recipe.knobs import all_knobs

HERE = Path(__file__).parent


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_house_recipe_loads(tmp_path: Path) -> None:
    recipe = Recipe.load(
        write(
            tmp_path,
            """
name: company-a
model:      {base: Qwen/Qwen2.5-7B-Instruct}
adapter:    {kind: lora, rank: 16, targets: all-linear}
data:
  sources:  [{path: policies/}, qa.jsonl]
  replay:   {ratio: 0.1}
  split:    {test: 0.1, validation: 0.05}
stages:     [pretrain, sft, {kind: dpo, beta: 0.2, training: {epochs: 1}}]
training:   {epochs: 3, lr: 2.0e-4, context: 4096}
gate:       {min_gain: 0.05, max_forget: 0.02}
exports:    [adapter, merged]
""",
        )
    )
    assert recipe.data.sources[1].path == str(tmp_path / "qa.jsonl")
    assert recipe.model.base == "Qwen/Qwen2.5-7B-Instruct"
    stages = recipe.plan_stages()
    assert [stage.method.kind for stage in stages] == ["pretrain", "sft", "dpo"]
    assert [stage.training.epochs for stage in stages] == [3, 3, 1]
    assert stages[2].method.beta == 0.2  # type: ignore[union-attr]


def test_resolved_recipe_is_the_same_recipe() -> None:
    recipe = Recipe.from_tree({"stages": ["sft", {"kind": "dpo", "training": {"lr": 1e-5}}], "adapter": {"rank": 8}})
    again = Recipe.from_tree(json.loads(json.dumps(recipe.resolved())))
    assert again.digest == recipe.digest
    assert recipe.resolved()["adapter"]["alpha"] == 16


@pytest.mark.parametrize("name", sorted(HABITS))
def test_names_from_other_suites_are_answered(name: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({name: 1, "training": {"lr": 1e-4}})
    assert HABITS[name] in str(caught.value)
    assert HABITS[name] in all_knobs(Recipe) or HABITS[name] in ("data.sources",)


@pytest.mark.parametrize(
    ("tree", "key", "nearest"),
    [
        ({"training": {"lrr": 1}}, "training.lrr", "training.lr"),
        ({"trainin": {}}, "trainin", "training"),
        ({"adapter": {"rnak": 4}}, "adapter.rnak", "adapter.rank"),
        ({"adapter": {"kind": "full", "rank": 4}}, "adapter.rank", None),
        ({"adapter": {"kind": "lora", "offload": "all"}}, "adapter.offload", None),
        ({"epochs": 3}, "epochs", "training.epochs"),
        ({"stages": [{"kind": "dpo", "training": {"leraning": 1}}]}, "stages.0.training.leraning", None),
        ({"data": {"sources": [{"pth": "x"}]}}, "data.sources.0.pth", "data.sources.0.path"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(tree: dict, key: str, nearest: str | None) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree(tree)
    complaint = next(c for c in caught.value.complaints if c.key == key)
    if nearest:
        assert complaint.nearest == nearest


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({"training": {"epochs": -1, "context": 1}, "adapter": {"rank": 0}, "exports": ["gguff"]})
    assert {c.key for c in caught.value.complaints} == {
        "training.epochs",
        "training.context",
        "adapter.rank",
        "exports.0.kind",
    }


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"training": {"context": 512, "micro_tokens": 256}}, "training.micro_tokens"),
        ({"stages": ["sft", {"kind": "dpo", "training": {"micro_tokens": 64}}]}, "stages.1.training.micro_tokens"),
        ({"training": {"micro_tokens": 512, "context": 512}, "stages": [{"kind": "sft", "training": {"context": 1024}}]}, "training.micro_tokens"),
        ({"method": "sft", "stages": ["sft"]}, "method"),
        ({"data": {"split": {"test": 0.6, "validation": 0.45}}}, "data.split"),
        ({"adapter": {"kind": "full", "masters": "none", "offload": "masters"}}, "adapter.offload"),
        ({"method": {"kind": "grpo", "rewards": {"exact": 0}}}, "method.rewards"),
        ({"stages": ["sft", {"kind": "grpo", "rewards": {"exact": float("inf")}}]}, "stages.1.method.rewards"),
    ],
)  # fmt: skip
def test_what_is_right_alone_and_wrong_together(tree: dict, key: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree(tree)
    assert [complaint.key for complaint in caught.value.complaints] == [key]


def test_a_knob_of_the_other_kind_says_so() -> None:
    """`offload` is among the adapter's keys, so a list of known keys would name it."""
    with pytest.raises(InvalidRecipeError, match=r"adapter\.kind: full"):
        Recipe.from_tree({"adapter": {"kind": "lora", "offload": "all"}})


def test_overrides_reach_into_short_forms() -> None:
    recipe = Recipe.from_tree(
        {"data": {"sources": ["a.txt"]}, "stages": ["sft", "dpo"]},
        ["data.sources.0.format=csv", "stages.1.beta=0.3", "stages.0.training.lr=1e-5"],
    )
    assert recipe.data.sources[0].format == "csv" and Path(recipe.data.sources[0].path).name == "a.txt"
    assert recipe.stages[1].method.beta == 0.3  # type: ignore[union-attr]
    assert recipe.stages[0].training.lr == 1e-5


def test_overrides() -> None:
    recipe = Recipe.from_tree(
        {"data": {"sources": ["a.jsonl"]}},
        [
            "training.lr=1e-4",
            "adapter.rank=8",
            "data.sources=[b.jsonl, c.jsonl]",
            "model.system=null",
            "method=dpo",
            "method.beta=0.3",
        ],
    )
    assert recipe.training.lr == 1e-4
    assert recipe.adapter.rank == 8  # type: ignore[union-attr]
    assert [Path(s.path).name for s in recipe.data.sources] == ["b.jsonl", "c.jsonl"]
    assert recipe.method.kind == "dpo"
    for bad in ("training.lr", "=3", "training..lr=1", "name.x.y=1"):
        with pytest.raises(RecipeError):
            Recipe.from_tree({"name": "x"}, [bad])


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "a: [", "\x00", "name: 'x", "just words"])
def test_what_is_no_recipe_is_refused_kindly(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.load(write(tmp_path, text))


def test_recipes_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Recipe.from_tree({}).training.lr = 1.0  # type: ignore[misc]


def test_complaints_speak_chinese() -> None:
    set_language("zh")
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({"lora_rank": 8})
    assert "配方有 1 处错误" in str(caught.value) and "adapter.rank" in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"training": {"context": 1.5}}, "整数"),
        ({"adapter": {"kind": "prefix", "num_tokens": float("nan")}}, "有限的数"),
        ({"method": {"kind": "grpo", "rewards": {}}}, "至少 1 项"),
        ({"method": {"kind": "grpo", "rewards": 1}}, "若干项，每项有名称和值"),
        ({"serving": {"models": [{"target": "a", "note": "x" * 1001}]}}, "最多 1000 个字符"),
        ({"adapter": 5}, "若干项，每项有名称和值"),
        ({"adapter": {"kind": "x"}}, "以下之一：'lora'、'full'、'prefix'"),
        ({"adapter": {"kind": "prefix", "layers": 1}}, "不写：此项只用于 adapter.kind: lora、full"),
        ({"name": ""}, "符合 ^"),
        ({"stages": 5}, "一个列表"),  # ended in a traceback
    ],
)
def test_what_a_value_should_be_is_said_in_chinese_too(tree: dict, expected: str) -> None:
    set_language("zh")
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree(tree)
    assert caught.value.complaints[0].expected.startswith(expected)


@pytest.mark.parametrize(("knob", "chapter"), [("devices", "training"), ("targets", "adapter")])
def test_a_knob_that_may_be_several_things_goes_by_its_own_name(knob: str, chapter: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({chapter: {knob: 1.5}})
    assert {complaint.key for complaint in caught.value.complaints} == {f"{chapter}.{knob}"}


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"tls": {"cert": "a.pem"}}, "serving.tls"),
        ({"limits": {"kind": "redis"}}, "serving.limits"),
        ({"store": {"kind": "postgres"}}, "serving.store"),
        ({"models": ["http://host/v1"]}, "serving.models.0"),
        ({"models": [{"target": "a", "key_file": "b"}]}, "serving.models.0"),
        ({"prices": {"law": [-1, 2]}}, "serving.prices"),
    ],
)
def test_a_server_that_could_not_be_is_refused(tree: dict, key: str) -> None:
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree({"serving": tree})
    assert [complaint.key for complaint in caught.value.complaints] == [key]


def test_what_is_served_is_seen_from_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    path = write(
        tmp_path, "serving:\n  models: {law: runs, 中医: med@prod, far: {target: 'http://h/v1', key_file: k}}\n"
    )
    law, medicine, far = Recipe.load(path).serving.models
    assert (law.target, medicine.target, medicine.name) == (str(tmp_path / "runs"), "med@prod", "中医")
    assert (far.target, far.key_file) == ("http://h/v1", str(tmp_path / "k"))


def test_how_it_is_served_makes_no_other_run() -> None:
    assert Recipe.from_tree({"serving": {"port": 9000}}).digest == Recipe.from_tree({}).digest


def test_knob_names_are_frozen() -> None:
    """A new knob is a visible decision: update knobs.txt in the commit that adds it, and give `explain` its reason."""
    snapshot = (HERE / "knobs.txt").read_text().split()
    assert list(all_knobs(Recipe)) == snapshot
    assert len(snapshot) <= 204  # 41 of them are the server's, 10 say who else judges, 4 what is rewarded


def test_a_wrong_recipe_fails_fast_and_without_torch(tmp_path: Path) -> None:
    path = write(tmp_path, "training: {lrr: 1}\n")
    code = (
        "import sys\nfrom danlu.recipe import Recipe, InvalidRecipeError\n"
        f"try: Recipe.load({str(path)!r})\nexcept InvalidRecipeError: pass\nelse: sys.exit(3)\n"
        "sys.exit(4 if 'torch' in sys.modules else 0)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    cpu_s = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert cpu_s < 2.0  # 0.3 s when quiet; the bound only catches a heavy import


def test_a_folder_called_ember_is_not_the_embedded_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ember").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Recipe.from_tree({"model": {"base": "ember"}}).model.base == "ember"
    assert Recipe.from_tree({"model": {"base": "./ember"}}).model.base == str(tmp_path / "ember")


def test_a_chapter_may_be_its_first_knob_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: ember\ndata: [qa.jsonl, docs/]\n", encoding="utf-8")
    recipe = Recipe.load(path, ["model.dtype=float32"])
    assert (recipe.model.base, recipe.model.dtype) == ("ember", "float32")
    assert [source.path for source in recipe.data.sources] == [str(tmp_path / "qa.jsonl"), str(tmp_path / "docs")]
    assert [source.path for source in Recipe.from_tree({"data": "qa.jsonl"}).data.sources] == [
        str(Path("qa.jsonl").resolve())
    ]


def said(tree: dict) -> dict[str, str]:
    """Key to the whole line that answers it."""
    with pytest.raises(InvalidRecipeError) as caught:
        Recipe.from_tree(tree)
    return {one.key: str(one) for one in caught.value.complaints}


def test_words_of_other_suites_are_answered_each_in_a_line() -> None:
    """Most lines of a LLaMA-Factory file were answered with the list of all chapters."""
    told = said({"warmup_ratio": 0.1, "trust_remote_code": True, "plot_loss": True, "report_to": "wandb"})
    assert told["warmup_ratio"] == "warmup_ratio: danlu's name for it is training.warmup_ratio"
    assert told["trust_remote_code"].startswith("trust_remote_code: take it out: ")
    assert told["plot_loss"].startswith("plot_loss: take it out: ")
    assert told["report_to"] == "report_to: danlu's name for it is tracking.to"


def test_a_wrong_value_is_shown_as_yaml_writes_it() -> None:
    assert said({"training": {"epochs": None}})["training.epochs"].startswith("training.epochs: given null,")


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"training": {"devices": 2, "compile": True}}, "training.compile"),
        ({"training": {"devices": "all"}, "adapter": {"kind": "full", "offload": "all"}}, "adapter.offload"),
        ({"stages": [{"kind": "sft", "training": {"devices": 2}}]}, "stages.0.training.devices"),
        ({"training": {"devices": 0}}, "training.devices"),
        ({"training": {"devices": "many"}}, "training.devices"),
    ],
)
def test_what_several_cards_cannot_do_is_refused(tree: dict, key: str) -> None:
    assert key in said(tree)
