"""Some layers alone: what does not train keeps every bit and costs no backward, what trains learns as it would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.load import load_trained
from danlu.adapters.lora import LoRA
from danlu.core.errors import RecipeError, TrainingError
from danlu.core.files import read_json
from danlu.model.build import save_model
from danlu.planning.memory import standing_bytes
from danlu.planning.shapes import Shapes
from danlu.planning.work import Work
from danlu.training.batches import make_batch
from danlu.training.blocks.block import QuickBlock
from danlu.training.blocks.policy import Policy
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.likelihood import summed_nll
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer
from training_kit import PHI3, QWEN2, dataset, logits_of, section, sft_items, tiny_model

FOUR = QWEN2 | {"num_hidden_layers": 4}
DOCUMENTS = [item.tokens[0] for item in sft_items(7, longest=40)]
CHOICES: list[Any] = [2, [0], [1, 2], [0, 3]]


def batch() -> Any:
    return make_batch("train", np.arange(len(DOCUMENTS)), DOCUMENTS)


def stirred(attached: Any) -> Any:
    for number, weight in enumerate(attached.parameters().values()):
        weight.data.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)), alpha=0.1)
    return attached


def gradients(model: Any, attached: Any) -> dict[str, torch.Tensor]:
    model.zero_grad()
    summed_nll(model, batch()).backward()
    return {name: weight.grad.clone() for name, weight in attached.parameters().items()}


@pytest.mark.parametrize("layers", CHOICES, ids=str)
def test_full_gradients_are_those_of_training_all(tmp_path: Path, layers: Any) -> None:
    """fp64, 1e-12."""
    whole = tiny_model(tmp_path / "m", FOUR, dtype=torch.float64)
    model = tiny_model(tmp_path / "m", FOUR, dtype=torch.float64)
    truth, attached = gradients(whole, Full().attach(whole)), Full(layers=layers).attach(model)
    found = gradients(model, attached)
    assert 0 < len(found) < len(truth) and all(".layers." in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, truth[name], rtol=1e-12, atol=1e-12)
    assert all(weight.grad is None for name, weight in model.named_parameters() if name not in found)


@pytest.mark.parametrize("layers", CHOICES, ids=str)
@pytest.mark.parametrize("policy", ["all", "light", "input-host"])
def test_the_quick_form_is_the_decoder_and_ends_at_the_lowest(
    tmp_path: Path, layers: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fp64, 1e-9. Below the lowest layer that trains nothing is kept and nothing goes back."""
    model = tiny_model(tmp_path, FOUR, dtype=torch.float64)
    attached = stirred(LoRA(rank=2, layers=layers).attach(model))
    truth = gradients(model, attached)
    quick = model.quick = QuickTrunk(model)  # type: ignore[arg-type]
    lowest = 4 - layers if isinstance(layers, int) else layers[0]
    quick.use([Policy.parse(policy)] * (4 - lowest))
    seen: dict[str, list[int]] = {"kept": [], "back": []}
    forward, backward = QuickBlock.forward, QuickBlock.backward

    def listen(self: QuickBlock, *words: Any, **named: Any) -> Any:
        made = forward(self, *words, **named)
        seen["kept"] += [self.layer] if made[2] is not None else []
        return made

    def listen_back(self: QuickBlock, *words: Any, **named: Any) -> Any:
        seen["back"].append(self.layer)
        return backward(self, *words, **named)

    monkeypatch.setattr(QuickBlock, "forward", listen)
    monkeypatch.setattr(QuickBlock, "backward", listen_back)
    found = gradients(model, attached)
    assert seen == {"kept": list(range(lowest, 4)), "back": list(range(3, lowest - 1, -1))}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, truth[name], rtol=1e-9, atol=1e-11)


def test_a_leaner_plan_is_of_the_layers_that_keep_anything(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, FOUR)
    LoRA(rank=2, layers=3).attach(model)
    quick = QuickTrunk(model)  # type: ignore[arg-type]
    assert [policy.name for policy in quick.policies] == ["all"] * 3
    assert quick.step_down() == ("3 all", "1 light + 2 all")


@pytest.mark.parametrize("adapter", [LoRA(rank=2, layers=1), Full(layers=1)], ids=["lora", "full"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_frozen_keeps_every_bit(tmp_path: Path, adapter: Any, dtype: torch.dtype) -> None:
    """Also in bf16, where masters of what trains are fp32 and the others stay bf16."""
    model = tiny_model(tmp_path / "m", dtype=dtype)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    attached = adapter.attach(model)
    trained = attached.parameters()
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    data = dataset(tmp_path / "data", sft_items(30))
    losses = [
        step.loss
        for step in Trainer(
            model, attached, SFT(), data, section=section(lr=3e-3, epochs=3), folder=tmp_path / "kept"
        ).steps()
    ]
    assert losses[-1] < losses[0]
    now = dict(model.named_parameters())
    frozen = [name for name in before if name not in trained]
    assert all(now[name].dtype == dtype and torch.equal(now[name], before[name]) for name in frozen)
    assert not any(torch.equal(now[name].to(dtype), before[name]) for name in trained if name in before)
    assert {name.split(".")[2] for name in trained} == {"1"}
    attached.merge()
    assert model.dtype == dtype and not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("config", [FOUR, PHI3 | {"num_hidden_layers": 4}], ids=["qwen2", "phi3-fused"])
@pytest.mark.parametrize("layers", [1, [0, 2]], ids=str)
def test_peft_loads_pairs_of_some_layers(tmp_path: Path, config: dict[str, Any], layers: Any) -> None:
    """And its config says which, as PEFT's own would (`layers_to_transform`)."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tiny_model(tmp_path / "seed", config)
    save_model(model, tmp_path / "base")
    stirred(LoRA(rank=2, layers=layers).attach(model)).save(tmp_path / "adapter")
    told = read_json(tmp_path / "adapter" / "adapter_config.json")
    assert told["layers_to_transform"] == ([3] if layers == 1 else layers) and "o_proj" in told["target_modules"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    adapted = [name for name, module in theirs.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == len(told["layers_to_transform"]) * len(told["target_modules"])
    ids = torch.arange(3, 30)
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, ids), theirs(ids[None]).logits[0], atol=2e-5, rtol=1e-4)
    again = tiny_model(tmp_path / "seed", config)
    load_trained(tmp_path / "adapter", again)
    torch.testing.assert_close(logits_of(again, ids), logits_of(model, ids), atol=1e-5, rtol=1e-5)


def test_layers_of_another_training_are_refused(tmp_path: Path) -> None:
    """As many weights, and others: their moments would be given to the wrong ones."""
    data = dataset(tmp_path / "data", sft_items(20))

    def trainer(layers: Any, adapter: Any) -> Trainer:
        model = tiny_model(tmp_path / "m")
        return Trainer(
            model, adapter(layers=layers).attach(model), SFT(), data, section=section(), folder=tmp_path / "kept"
        )

    for adapter, differing in ((Full, "adapter"), (LoRA, "weights")):
        list(trainer([0], adapter).steps())
        with pytest.raises(TrainingError, match=differing):
            trainer([1], adapter)
        for place in (tmp_path / "kept").glob("*"):
            place.rename(tmp_path / f"{adapter.__name__}-{place.name}")


def test_a_layer_that_is_not_there(tmp_path: Path) -> None:
    for adapter in (LoRA(layers=3), Full(layers=[2])):
        with pytest.raises(RecipeError, match="2 layers, numbered 0 to 1"):
            adapter.attach(tiny_model(tmp_path))


def test_attaching_again_forgets_no_choice(tmp_path: Path) -> None:
    """Going back to the best weights between two stages."""
    model = tiny_model(tmp_path / "m", dtype=torch.bfloat16)
    attached = Full(layers=1).attach(model)
    attached.save(tmp_path / "out")
    again = load_trained(tmp_path / "out", model)
    assert list(again.parameters()) == list(attached.parameters())
    assert model.dtype == torch.bfloat16  # of the head, which does not train


@pytest.mark.parametrize("layers", [None, (1, 3), (3,)], ids=str)
@pytest.mark.parametrize("is_full", [False, True])
def test_the_plan_counts_what_trains(tmp_path: Path, layers: tuple[int, ...] | None, is_full: bool) -> None:
    """Weights, gradients and moments, to the number."""
    config = FOUR | {"tie_word_embeddings": False}
    model = tiny_model(tmp_path, config, dtype=torch.bfloat16)
    adapter: Any = Full(layers=layers) if is_full else LoRA(rank=2, layers=layers)
    trained = sum(weight.numel() for weight in adapter.attach(model).parameters().values())
    shapes = Shapes.read(config)
    assert shapes is not None
    work = Work(shapes, 64, 64, 64, is_full=is_full, rank=2, layers=layers)
    assert work.num_trainable == trained
    _, masters, alive, states = standing_bytes(work)
    assert (masters, alive, states) == (4 * trained, 4 * trained, 8 * trained)
    assert work.depth == 4 - (layers[0] if layers else 0)
