"""Which layers an adapter takes, what it refuses, and what lies on disk."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from danlu.adapters import ADAPTERS
from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA, LoRALinear
from danlu.core.errors import ModelError, RecipeError, TrainingError
from danlu.core.files import read_json, write_json
from training_kit import QWEN2, tiny_model


def test_shelf_names_its_adapters():
    assert ADAPTERS.names() == ["full", "lora", "prefix"]
    assert ADAPTERS.load("lora") is LoRA
    with pytest.raises(RecipeError, match="lora"):
        ADAPTERS.load("lorra")


def test_all_linear_leaves_the_head_alone(tmp_path):
    attached = LoRA(rank=2).attach(tiny_model(tmp_path, QWEN2 | {"tie_word_embeddings": False}))
    assert len(attached.layers) == 2 * 7
    assert not [name for name in attached.layers if "lm_head" in name]


@pytest.mark.parametrize(
    ("targets", "num_layers"),
    [(["q_proj"], 2), (["q_proj", "v_proj"], 4), (["model.layers.1.mlp.up_proj"], 1), ([r".*layers\.0\..*"], 7)],
)
def test_targets_are_names_ends_or_expressions(tmp_path, targets, num_layers):
    assert len(LoRA(rank=2, targets=targets).attach(tiny_model(tmp_path)).layers) == num_layers


def test_a_misspelt_target_names_the_nearest(tmp_path):
    with pytest.raises(RecipeError, match="did you mean q_proj"):
        LoRA(targets=["q_porj"]).attach(tiny_model(tmp_path))
    with pytest.raises(RecipeError, match="regular expression"):
        LoRA(targets=["q_proj(", "q_proj"]).attach(tiny_model(tmp_path))


def test_a_model_without_linear_layers_is_refused(tmp_path):
    gpt2 = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    with pytest.raises(RecipeError, match="linear"):
        LoRA().attach(tiny_model(tmp_path, gpt2))


def test_scaling_is_alpha_over_rank():
    assert LoRA(rank=8).scaling == 2.0
    assert LoRA(rank=8, alpha=4).scaling == 0.5
    assert LoRA(rank=16, alpha=8, rslora=True).scaling == 8 / math.sqrt(16)


def test_same_seed_same_start(tmp_path):
    first, second, other = (LoRA(rank=2, seed=s).attach(tiny_model(tmp_path)).parameters() for s in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_only_the_pairs_train(tmp_path):
    model = tiny_model(tmp_path)
    attached = LoRA(rank=2).attach(model)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sorted(trained) == sorted(attached.parameters())


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_that_torch_finds(bias):
    """The written backward against torch's own, fp64, 1e-12; x in two shapes."""
    base = torch.nn.Linear(6, 5, bias=bias, dtype=torch.float64).requires_grad_(False)
    layer = LoRALinear.from_base(base, rank=3, scaling=1.7)
    for pair in (layer.lora_A, layer.lora_B):
        torch.nn.init.normal_(pair)
    for shape in ((7, 6), (2, 4, 6)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        inputs = (x, layer.lora_A, layer.lora_B)
        ours, plain = layer(x), layer._written_out(x)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(plain)
        for mine, truth in zip(*(torch.autograd.grad(y, inputs, upstream) for y in (ours, plain)), strict=True):
            torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


def test_two_adapters_at_once_are_refused(tmp_path):
    model = tiny_model(tmp_path)
    LoRA(rank=2).attach(model)
    with pytest.raises(TrainingError, match="already"):
        LoRA(rank=2).attach(model)


def test_an_empty_or_broken_adapter_is_noticed(tmp_path):
    """Adapters of zeros and of NaN have been shipped by others; the check is the gate before every checkpoint."""
    attached = LoRA(rank=2).attach(tiny_model(tmp_path))
    with pytest.raises(TrainingError, match="zero"):
        attached.check()
    next(iter(attached.layers.values())).lora_B.data[0, 0] = 1.0
    attached.check()
    next(iter(attached.layers.values())).lora_B.data[0, 0] = math.nan
    with pytest.raises(TrainingError, match="NaN"):
        attached.check()


@pytest.fixture
def saved(tmp_path):
    """A PEFT folder, and a model it fits."""
    attached = LoRA(rank=2).attach(tiny_model(tmp_path / "base"))
    for weight in attached.parameters().values():
        weight.data.normal_()
    attached.save(tmp_path / "adapter")
    return tmp_path / "adapter", tiny_model(tmp_path / "base")


def test_pickle_is_refused(saved):
    folder, model = saved
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickle"):
        load_trained(folder, model)


@pytest.mark.parametrize(
    ("key", "value"), [("use_dora", True), ("bias", "all"), ("modules_to_save", ["lm_head"]), ("peft_type", "IA3")]
)
def test_what_changes_the_mathematics_is_refused(saved, key, value):
    folder, model = saved
    config = folder / "adapter_config.json"
    write_json(config, read_json(config) | {key: value})
    with pytest.raises(ModelError):
        load_trained(folder, model)


def test_a_damaged_adapter_file_is_refused(saved):
    folder, model = saved
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="read"):
        load_trained(folder, model)


def test_half_a_pair_a_foreign_tensor_and_nan_are_refused(saved):
    folder, model = saved
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    with pytest.raises(ModelError, match="pair"):
        load_trained(folder, model)
    save_file(tensors | {"base_model.model.model.embed_tokens.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ModelError, match="embed_tokens"):
        load_trained(folder, model)
    save_file(tensors | {name: torch.full_like(tensors[name], math.inf)}, path)
    with pytest.raises(ModelError, match="infinity"):
        load_trained(folder, model)


@pytest.mark.parametrize("change", [{"r": 4}, {"rank_pattern": {"q_proj": 3}}, {"r": None}])
def test_a_config_of_another_adapter_is_refused(saved, change):
    """Its alpha would be divided by the tensors' rank, and the adapter weigh twice as much, without a word."""
    folder, model = saved
    config = folder / "adapter_config.json"
    write_json(config, read_json(config) | change)
    with pytest.raises(ModelError) as caught:
        load_trained(folder, model)
    told = next(iter(change.values()))
    assert caught.value.key == "adapter.rank" and "proj" in caught.value.text and "rank 2" in caught.value.text
    assert f"rank {told['q_proj'] if isinstance(told, dict) else told}" in caught.value.text
