"""DoRA against its formula and against PEFT: forward, backward, the file both ways, the merge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.adapters.load import load_trained
from danlu.adapters.lora import DoRALinear, LoRA
from danlu.adapters.peft_format import MAGNITUDE
from danlu.core.errors import EngineError, ModelError
from danlu.core.files import read_json, write_json
from danlu.engines.lenses import load_lens
from danlu.engines.packed import packed
from danlu.exports.deltas import compare_delta
from danlu.model.build import load_model, save_model
from danlu.planning.shapes import Shapes
from danlu.planning.work import Work
from danlu.training.batches import make_batch
from danlu.training.blocks.trunk import why_not
from danlu.training.likelihood import summed_nll
from training_kit import PHI3, QWEN2, logits_of, sft_items, tiny_model

IDS = torch.arange(3, 35)
DOCUMENTS = [item.tokens[0] for item in sft_items(6, longest=40)]


def stirred(attached: Any, size: float = 0.2) -> Any:
    """Values as training would leave them; magnitudes near the rows' own."""
    generator = torch.Generator().manual_seed(4)
    for name, weight in attached.parameters().items():
        noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
        weight.data.copy_(weight.data * (1 + size * noise) if name.endswith(MAGNITUDE) else size * noise)
    return attached


def test_layer_is_its_formula_forward_and_backward() -> None:
    """fp64, 1e-12; the norm takes no gradient."""
    base = torch.nn.Linear(6, 5, dtype=torch.float64).requires_grad_(False)
    layer = DoRALinear.from_base(base, rank=2, scaling=1.7)
    for weight in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
        torch.nn.init.normal_(weight)
    x = torch.randn(4, 7, 6, dtype=torch.float64, requires_grad=True)
    whole = base.weight + 1.7 * layer.lora_B @ layer.lora_A
    expected = x @ (layer.lora_magnitude_vector / whole.norm(dim=1).detach() * whole.T) + base.bias
    inputs = (x, layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    upstream = torch.randn_like(expected)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    for ours, truth in zip(
        torch.autograd.grad(layer(x), inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_fresh_one_changes_no_bit_and_off_it_is_the_base(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny_model(tmp_path, dtype=dtype)
    before = logits_of(model, IDS)
    attached = LoRA(rank=4, dora=True).attach(model)
    assert attached.is_fresh and torch.equal(logits_of(model, IDS), before)
    next(iter(attached.layers.values())).lora_magnitude_vector.data[0] *= 1.01
    assert not attached.is_fresh
    stirred(attached)
    assert not torch.equal(logits_of(model, IDS), before)
    with attached.disabled():
        assert torch.equal(logits_of(model, IDS), before)


def their_model(peft: Any, transformers: Any, folder: Path) -> Any:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    return peft.PeftModel.from_pretrained(theirs, folder / "adapter", is_trainable=True)


@pytest.mark.parametrize("config", [QWEN2, PHI3], ids=["qwen2", "phi3-fused"])
@pytest.mark.parametrize(
    "lora", [LoRA(rank=4, dora=True), LoRA(rank=2, dora=True, rslora=True, targets=["q_proj", "up_proj"])]
)
def test_peft_loads_ours_and_learns_the_same(tmp_path: Path, config: dict[str, Any], lora: LoRA) -> None:
    """Logits to 2e-5; every gradient to 1e-4 of its size (fp32, another order of sums)."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed", config)
    save_model(model, tmp_path / "base")
    attached = stirred(lora.attach(model))
    attached.save(tmp_path / "adapter")
    theirs = their_model(peft, transformers, tmp_path).eval()
    ours, logits = logits_of(model, IDS), theirs(IDS[None]).logits[0]
    torch.testing.assert_close(ours, logits, atol=2e-5, rtol=1e-4)
    if config is PHI3:
        return  # their pairs are of fused layers
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    ours.backward(upstream)
    logits.backward(upstream)
    found = {
        name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight"): weight.grad
        for name, weight in theirs.named_parameters()
        if weight.grad is not None
    }
    assert found.keys() == attached.parameters().keys()
    for name, weight in attached.parameters().items():
        assert float((weight.grad - found[name]).norm() / found[name].norm()) < 1e-4, name


@pytest.mark.parametrize("config", [QWEN2, PHI3], ids=["qwen2", "phi3-fused"])
def test_we_load_pefts(tmp_path: Path, config: dict[str, Any]) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed", config)
    save_model(model, tmp_path / "base")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    torch.manual_seed(0)
    settings = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=True, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    theirs = peft.get_peft_model(theirs, settings).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    attached = load_trained(tmp_path / "adapter", model)
    with torch.no_grad():
        expected = theirs(IDS[None]).logits[0]
    torch.testing.assert_close(logits_of(model, IDS), expected, atol=2e-5, rtol=1e-4)
    attached.save(tmp_path / "again")  # and out again, and in again
    other = tiny_model(tmp_path / "seed", config)
    load_trained(tmp_path / "again", other)
    torch.testing.assert_close(logits_of(other, IDS), expected, atol=2e-5, rtol=1e-4)


def test_merged_is_the_adapted_one_and_its_proof_notices_a_lost_magnitude(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    attached = stirred(LoRA(rank=4, dora=True).attach(model))
    name, layer = list(attached.layers.items())[3]
    before, pair, adapted = layer.weight.detach().clone(), layer.pair(), logits_of(model, IDS)
    attached.merge()
    torch.testing.assert_close(logits_of(model, IDS), adapted, atol=1e-5, rtol=1e-5)
    merged = model.get_submodule(name).weight.detach()
    assert type(model.get_submodule(name)) is torch.nn.Linear
    assert compare_delta(name, before, merged, pair).num_wrong == 0
    assert compare_delta(name, before, before + pair.scaling * pair.B @ pair.A, pair).num_wrong > 0


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_beside_codes_it_is_what_it_is_beside_the_weights_they_stand_for(tmp_path: Path, kind: Any) -> None:
    """1e-4: the same numbers, multiplied in another order."""
    config = QWEN2 | {"hidden_size": 64, "intermediate_size": 128}
    save_model(tiny_model(tmp_path / "seed", config), tmp_path / "saved")
    model = load_model(tmp_path / "saved", dtype=torch.float32, quantize=kind)
    attached = stirred(LoRA(rank=3, dora=True).attach(model))
    layer = attached.layers["model.layers.1.mlp.up_proj"]
    x = torch.randn(5, 64)
    weight = layer.quantized.dequantized(dtype=torch.float32)
    torch.testing.assert_close(layer(x), x @ (weight + layer.pair().update_of(weight)).T, atol=1e-4, rtol=1e-4)
    assert packed(model, with_adapter=True) is None, "a quick way that would drop the magnitudes is not taken"


def test_packed_is_unpacked(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, dtype=torch.float64)
    weights = list(stirred(LoRA(rank=2, dora=True).attach(model)).parameters().values())
    together = make_batch("train", np.arange(len(DOCUMENTS)), DOCUMENTS)
    alone = [make_batch("train", np.arange(1), [document]) for document in DOCUMENTS]
    one = torch.autograd.grad(summed_nll(model, together), weights)
    other = torch.autograd.grad(sum(summed_nll(model, each) for each in alone), weights)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_what_knows_no_magnitudes_refuses_or_steps_aside(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "m")
    attached = stirred(LoRA(rank=2, dora=True).attach(model))
    assert why_not(model, attached) == "dora"
    assert packed(model, with_adapter=True) is None, "answers by the plain path"
    attached.save(tmp_path / "adapter")
    with pytest.raises(EngineError, match="DoRA"):
        load_lens("law", tmp_path / "adapter", tiny_model(tmp_path / "m"))
    config = tmp_path / "adapter" / "adapter_config.json"
    write_json(config, read_json(config) | {"use_dora": False})
    with pytest.raises(ModelError, match="pair"):
        load_trained(tmp_path / "adapter", tiny_model(tmp_path / "m"))


def test_the_plan_counts_magnitudes(tmp_path: Path) -> None:
    attached = LoRA(rank=2, dora=True, layers=1).attach(tiny_model(tmp_path))
    shapes = Shapes.read(QWEN2)
    assert shapes is not None
    work = Work(shapes, 64, 64, 64, rank=2, layers=(1,), has_magnitudes=True)
    assert work.num_trainable == sum(weight.numel() for weight in attached.parameters().values())
    assert work.is_written_out
