"""LoRA against its formula and against PEFT: both directions of the file format, the same logits."""

import copy

import pytest
import torch

from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA, LoRALinear
from danlu.core.errors import ModelError, TrainingError
from danlu.core.files import read_json
from danlu.model.build import save_model
from danlu.ops.attention import Bounds
from training_kit import PHI3, QWEN2, tiny_model

IDS = torch.arange(3, 35)


def logits(model):
    bounds = Bounds.of([20, 12])
    with torch.no_grad():
        return model.logits(model.hidden(IDS, bounds.positions(), bounds))


def their_logits(model):
    with torch.no_grad():
        return torch.cat([model(input_ids=part[None]).logits[0] for part in IDS.split([20, 12])])


def stir(attached, seed=0):
    """Give every pair values, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.2, generator=generator)


def test_layer_is_its_formula():
    base = torch.nn.Linear(6, 5)
    layer = LoRALinear.from_base(base, rank=2, scaling=3.0)
    layer.lora_A.data.normal_()
    layer.lora_B.data.normal_()
    x = torch.randn(4, 7, 6)
    expected = x @ base.weight.T + base.bias + 3.0 * (x @ layer.lora_A.T) @ layer.lora_B.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fresh_adapter_changes_no_bit(tmp_path, dtype):
    model = tiny_model(tmp_path, dtype=dtype)
    before = logits(model)
    attached = LoRA(rank=4).attach(model)
    assert attached.is_fresh
    assert torch.equal(logits(model), before)
    assert {weight.dtype for weight in attached.parameters().values()} == {torch.float32}


def test_adapter_off_is_the_base_to_the_bit(tmp_path):
    model = tiny_model(tmp_path)
    before = logits(model)
    attached = LoRA(rank=4).attach(model)
    stir(attached)
    assert not torch.equal(logits(model), before)
    with attached.disabled():
        assert torch.equal(logits(model), before)
    attached.detach()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("config", [QWEN2, PHI3], ids=["qwen2", "phi3-fused"])
@pytest.mark.parametrize(
    "lora", [LoRA(rank=4), LoRA(rank=4, alpha=3, rslora=True), LoRA(rank=2, targets=["q_proj", "up_proj"])]
)
def test_peft_loads_ours(tmp_path, config, lora):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed", config)
    save_model(model, tmp_path / "base")
    attached = lora.attach(model)
    stir(attached)
    attached.save(tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    base = their_logits(theirs)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    ours = logits(model)
    assert (ours - base).abs().max() > 0.1, "the adapter says something"
    torch.testing.assert_close(ours, their_logits(theirs), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", [QWEN2, PHI3], ids=["qwen2", "phi3-fused"])
@pytest.mark.parametrize("is_patterned", [False, True])
def test_we_load_pefts(tmp_path, config, is_patterned):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed", config)
    save_model(model, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    patterns = (
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 5}} if is_patterned else {}
    )
    torch.manual_seed(0)
    theirs = peft.get_peft_model(
        theirs,
        peft.LoraConfig(
            r=4, lora_alpha=6, use_rslora=is_patterned, target_modules="all-linear", init_lora_weights=False,
            task_type="CAUSAL_LM", **patterns,
        ),
    )  # fmt: skip
    theirs.eval().save_pretrained(tmp_path / "adapter")
    attached = load_trained(tmp_path / "adapter", model)
    expected = their_logits(theirs)
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)
    # and out again, and in again
    attached.save(tmp_path / "again")
    other = tiny_model(tmp_path / "seed", config)
    load_trained(tmp_path / "again", other)
    torch.testing.assert_close(logits(other), expected, atol=2e-5, rtol=1e-4)


def test_saving_and_loading_keeps_every_bit(tmp_path):
    model = tiny_model(tmp_path / "seed")
    attached = LoRA(rank=3, alpha=7).attach(model)
    stir(attached)
    attached.save(tmp_path / "adapter")
    other = tiny_model(tmp_path / "seed")
    loaded = load_trained(tmp_path / "adapter", other)
    assert torch.equal(logits(other), logits(model))
    assert list(loaded.parameters()) == list(attached.parameters())
    assert read_json(tmp_path / "adapter" / "adapter_config.json")["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_merge_is_the_fp32_sum_cast_once(tmp_path):
    model = tiny_model(tmp_path, dtype=torch.bfloat16)
    attached = LoRA(rank=4).attach(model)
    stir(attached)
    before = {name: copy.deepcopy(layer) for name, layer in attached.layers.items()}
    attached.merge()
    for name, layer in before.items():
        merged = model.get_submodule(name)
        assert type(merged) is torch.nn.Linear
        expected = layer.weight.float() + layer.scaling * (layer.lora_B @ layer.lora_A)
        assert torch.equal(merged.weight, expected.to(torch.bfloat16))
    assert not [name for name, _ in model.named_parameters() if "lora" in name]


def test_merged_model_answers_like_the_adapted_one(tmp_path):
    model = tiny_model(tmp_path)
    attached = LoRA(rank=4).attach(model)
    stir(attached)
    adapted = logits(model)
    attached.merge()
    torch.testing.assert_close(logits(model), adapted, atol=1e-5, rtol=1e-5)


def test_a_module_scaled_by_nine_tenths_is_seen(tmp_path):
    """The smallest broken merge: the tolerance above must notice it."""
    model = tiny_model(tmp_path)
    attached = LoRA(rank=4).attach(model)
    stir(attached)
    adapted = logits(model)
    attached.layers["model.layers.1.mlp.down_proj"].scaling *= 0.9
    attached.merge()
    assert (logits(model) - adapted).abs().max() > 1e-3


def test_merging_twice_is_refused(tmp_path):
    attached = LoRA(rank=2).attach(tiny_model(tmp_path))
    attached.merge()
    with pytest.raises(TrainingError, match="already"):
        attached.merge()
    with pytest.raises(TrainingError, match="already"):
        attached.save(tmp_path / "late")


def test_an_adapter_for_another_shape_is_refused(tmp_path):
    attached = LoRA(rank=2).attach(tiny_model(tmp_path / "a"))
    attached.save(tmp_path / "adapter")
    wide = tiny_model(tmp_path / "b", QWEN2 | {"intermediate_size": 80})
    with pytest.raises(ModelError, match=r"80"):
        load_trained(tmp_path / "adapter", wide)
