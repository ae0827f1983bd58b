"""The recipes that the project ships: each loads, says what the demo says, and fits the card it is named after."""

import json
from pathlib import Path
from typing import Any

import pytest

from danlu.pipeline.check import check
from danlu.pipeline.demo import demo_recipe
from danlu.planning.cards import CARDS
from danlu.planning.plan import plan
from danlu.planning.shapes import Shapes
from danlu.recipe import Recipe

RECIPES = Path(__file__).parents[3] / "recipes"
FILES = sorted(RECIPES.glob("*.yaml"))
COMPANY = "danlu/assets/company"

# The shapes that the models' own config.json files state.
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-1.5B-Instruct": {"hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "intermediate_size": 8960, "vocab_size": 151936, "tie_word_embeddings": True},
    "Qwen/Qwen2.5-7B-Instruct": {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False},
    "Qwen/Qwen3-4B": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
        "tie_word_embeddings": True},
    "meta-llama/Llama-3.1-8B-Instruct": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
NUM_PARAMS = {
    "Qwen/Qwen2.5-1.5B-Instruct": 1.54e9,
    "Qwen/Qwen2.5-7B-Instruct": 7.62e9,
    "Qwen/Qwen3-4B": 4.02e9,
    "meta-llama/Llama-3.1-8B-Instruct": 8.03e9,
}
"""As the models' cards state them."""

ON_GPU = [file for file in FILES if file.stem.endswith("gb")]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_recipe_loads(file):
    recipe = Recipe.load(file)
    assert recipe.data.sources
    assert recipe.plan_stages()


@pytest.mark.parametrize("file", [f for f in FILES if not f.stem.startswith("ember-pretrain")], ids=lambda f: f.stem)
def test_each_recipe_speaks_both_languages(file):
    comments = [line.partition("#")[2] for line in file.read_text(encoding="utf-8").splitlines() if "#" in line]
    assert sum(any("一" <= c <= "鿿" for c in comment) for comment in comments) >= 5
    assert sum(sum(c.isascii() and c.isalpha() for c in comment) > 15 for comment in comments) >= 5


@pytest.mark.parametrize(("stem", "full"), [("ember-sft-cpu", False), ("ember-full-story-cpu", True)])
def test_the_demos_recipe_is_the_one_to_read(stem, full):
    """Somebody changed the demo's learning rate, and the recipe in the documentation told another story."""
    written = Recipe.load(RECIPES / f"{stem}.yaml").resolved()
    shown = demo_recipe(full=full).resolved()
    assert _without_folders(written) == _without_folders(shown)


@pytest.mark.parametrize("stem", ["ember-sft-cpu", "ember-full-story-cpu"])
def test_the_demos_recipe_passes_the_check_where_it_lies(stem):
    found = check(Recipe.load(RECIPES / f"{stem}.yaml"))
    assert found["ok"], found["errors"]
    assert found["plan"]["stages"][0]["total_bytes"] < 4 * 2**30


@pytest.mark.parametrize("file", ON_GPU, ids=lambda file: file.stem)
def test_a_recipe_fits_the_card_in_its_name_and_uses_it(file):
    recipe = Recipe.load(file)
    name = {12: "RTX 3060 12GB", 16: "RTX 4080", 24: "RTX 4090", 40: "A100 40GB", 80: "A100 80GB"}
    card = CARDS[name[int(file.stem.rpartition("-")[2].removesuffix("gb"))]]
    shapes = Shapes.read(CONFIGS[recipe.model.base])
    assert shapes is not None
    assert shapes.num_params == pytest.approx(NUM_PARAMS[recipe.model.base], rel=0.005)
    stages = plan(recipe, shapes, card)
    assert all(stage.fits for stage in stages)
    assert max(stage.full_bytes for stage in stages) > 0.3 * card.memory_bytes


@pytest.mark.parametrize("file", ON_GPU, ids=lambda file: file.stem)
def test_a_recipe_on_a_gpu_is_consistent_in_itself(file):
    recipe = Recipe.load(file)
    for stage in recipe.plan_stages():
        training = stage.training
        assert training.micro_tokens is not None
        pieces = 2 if stage.method.kind == "dpo" else 1  # a pair is computed in one piece
        assert pieces * training.context <= training.micro_tokens <= training.batch_tokens
        assert training.batch_tokens % training.micro_tokens == 0, "else the last piece of each step is a small one"
    assert ("full" in file.stem) == (recipe.adapter.kind == "full")
    assert not (recipe.adapter.kind == "full" and "adapter" in [export.kind for export in recipe.exports])


@pytest.mark.parametrize("file", ON_GPU, ids=lambda file: file.stem)
def test_a_recipe_copied_beside_the_data_is_checked_without_a_fault(file, tmp_path):
    """The only thing left to say offline is that the model is not on this machine yet."""
    copy = tmp_path / file.name
    copy.write_bytes(file.read_bytes())
    for name in ("documents", "."):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
    for name in ("preference.jsonl", "questions.jsonl", "data/qa.jsonl", "data/preference.jsonl", "data/general.jsonl"):
        (tmp_path / name).write_text('{"question": "?", "answer": "!"}\n', encoding="utf-8")
    found = check(Recipe.load(copy))
    assert found["ok"], found["errors"]


def _without_folders(tree: Any) -> Any:
    """The tree with files of the demo company named from its folder on, whichever copy of the package they lie in."""
    text = json.dumps(tree, ensure_ascii=False)
    return json.loads(text, object_hook=lambda node: {key: _tail(value) for key, value in node.items()})


def _tail(value: Any) -> Any:
    if isinstance(value, str) and value.endswith("danlu/assets/ember"):
        return "ember"  # the embedded base by its folder: beside the recipes lies another folder of its name
    return COMPANY + value.rpartition(COMPANY)[2] if isinstance(value, str) and COMPANY in value else value
