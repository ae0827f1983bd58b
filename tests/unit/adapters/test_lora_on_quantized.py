"""QLoRA and its kin: pairs beside a base in few bits learn, save and load, and cannot be merged into codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.adapters.lora import LoRA, LoRALinear
from danlu.core.errors import TrainingError
from danlu.model.build import load_model, save_model
from danlu.model.decoder import Decoder
from danlu.model.quantized import quantized_layers
from danlu.ops.attention import Bounds
from training_kit import QWEN2, tiny_model

IDS = torch.arange(4, 44) % 23 + 3
BOUNDS = Bounds.of([40])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("qlora")
    save_model(tiny_model(home / "seed", QWEN2), home / "base")
    return home / "base"


def load(folder: Path, kind: Any) -> Decoder:
    model = load_model(folder, dtype="fp32", quantize=kind)
    assert isinstance(model, Decoder)
    return model


def hidden(model: Decoder) -> torch.Tensor:
    return model.hidden(IDS, BOUNDS.positions("cpu"), BOUNDS)


def learn(model: Decoder, attached: Any, num_steps: int = 12) -> list[float]:
    optimizer = torch.optim.AdamW(attached.parameters().values(), lr=2e-2)
    losses = []
    for _ in range(num_steps):
        loss = model.loss(hidden(model)[:-1], IDS[1:]) / 39
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_pairs_learn_beside_codes_as_they_do_beside_weights(folder: Path, kind: str, tmp_path: Path) -> None:
    model, whole = load(folder, kind), load(folder, "none")
    codes = [layer.dequantized().clone() for layer in quantized_layers(model)]
    attached = LoRA(rank=4).attach(model)
    assert len(attached.layers) == 14 and attached.is_fresh
    with torch.no_grad(), attached.disabled():
        bare = hidden(model)
    with torch.no_grad():
        assert torch.equal(hidden(model), bare), "a fresh adapter changes nothing"
    ours, theirs = learn(model, attached), learn(whole, LoRA(rank=4).attach(whole))
    assert ours[-1] < 0.5 * ours[0]
    assert abs(ours[-1] - theirs[-1]) < 0.2 * theirs[0], "as on whole weights, but for the rounding"
    assert all(torch.equal(a, b.dequantized()) for a, b in zip(codes, quantized_layers(model), strict=True))
    with torch.no_grad():
        tuned = hidden(model)
        with attached.disabled():
            assert torch.equal(hidden(model), bare)
    attached.save(tmp_path / "adapter")
    again = load(folder, kind)
    read = LoRA.load(tmp_path / "adapter", again)
    with torch.no_grad():
        assert torch.equal(hidden(again), tuned)
    read.detach()
    with torch.no_grad():
        assert torch.equal(hidden(again), bare)


def test_gradients_beside_codes_are_those_beside_the_dequantised_weight(folder: Path) -> None:
    """NF4 and int8 are a plain layer with other numbers in it."""
    for kind in ("nf4", "int8"):
        model, plain = load(folder, kind), load(folder, "none")
        for name, parameter in plain.named_parameters():
            if "_proj.weight" in name:
                parameter.data.copy_(model.get_submodule(name.removesuffix(".weight")).dequantized())  # type: ignore[operator]
        gradients = []
        for each in (model, plain):
            attached = LoRA(rank=4).attach(each)
            for at, weight in enumerate(attached.parameters().values()):
                torch.nn.init.normal_(weight, std=0.1, generator=torch.Generator().manual_seed(at))
            each.loss(hidden(each)[:-1], IDS[1:]).backward()
            gradients.append([weight.grad for weight in attached.parameters().values()])
        for ours, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_codes_are_not_merged_into_and_nothing_is_changed(folder: Path) -> None:
    model = load(folder, "nf4")
    attached = LoRA(rank=2).attach(model)
    with pytest.raises(TrainingError, match="nf4"):
        attached.merge()
    assert all(isinstance(layer, LoRALinear) and layer.quantized is not None for layer in attached.layers.values())
    attached.save(folder.parent / "still-there")


def test_dropout_reaches_the_pair_and_not_the_base(folder: Path) -> None:
    model = load(folder, "int8")
    attached = LoRA(rank=2, dropout=0.5).attach(model)
    model.train()
    with torch.no_grad():
        assert torch.equal(hidden(model), hidden(model)), "B is zero: dropping its input changes nothing"
        for layer in attached.layers.values():
            layer.lora_B.data.normal_()
        assert not torch.equal(hidden(model), hidden(model))
