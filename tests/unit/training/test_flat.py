"""Flat parameters and their AdamW: views everywhere, torch's own results, checkpoints by name, exact resumption."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from danlu.adapters.lora import LoRA
from danlu.training import checkpoint
from danlu.training.flat import FlatAdamW, FlatParameters
from danlu.training.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norm,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from training_kit import tiny_model

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.99)}


def weights(seed: int = 0) -> dict[str, nn.Parameter]:
    """Odd sizes, so that there are gaps; what does not decay stands in the middle."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a.lora_A": (3, 7), "a.bias": (5,), "a.lora_B": (6, 3), "b.lora_A": (1, 1), "b.norm": (2,)}
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in shapes.items()}


def learn(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, numbers: range, clip: float) -> None:
    """Steps whose gradients follow from their number; added up in two pieces, as a backward does it."""
    for number in numbers:
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(number)
        for _ in range(2):
            factors = {name: torch.randn(weight.shape, generator=generator) for name, weight in parameters.items()}
            sum((weight * factors[name]).sum() for name, weight in parameters.items()).backward()
        clip_gradients(parameters, gradient_norm(parameters, optimizer), clip, optimizer)
        set_rate(optimizer, 1e-2 / number)
        optimizer.step()


def test_parameters_lie_aligned_in_the_given_order_matrices_first() -> None:
    parameters = weights()
    before = {name: weight.detach().clone() for name, weight in parameters.items()}
    flat = FlatParameters(parameters)
    assert list(flat.parameters) == ["a.lora_A", "a.lora_B", "b.lora_A", "a.bias", "b.norm"]
    places = [weight.data_ptr() for weight in flat.parameters.values()]
    assert places == sorted(places) and all((place - places[0]) % 16 == 0 for place in places)
    assert flat.num_decayed == 24 + 20 + 4
    assert all(torch.equal(weight, before[name]) for name, weight in parameters.items())
    flat.data.fill_(3.0)
    flat.grad.fill_(2.0)
    assert all(bool((weight == 3).all() and (weight.grad == 2).all()) for weight in parameters.values())


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_it_is_torchs_adamw_to_the_bit_on_a_cpu(clip: float) -> None:
    ours, theirs = weights(), weights()
    learn(ours, build_optimizer(ours, **SETTINGS, is_flat=True), range(1, 8), clip)
    learn(theirs, build_optimizer(theirs, **SETTINGS), range(1, 8), clip)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("saved_by", ["flat", "plain"])
@pytest.mark.parametrize("resumed_by", ["flat", "plain"])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, saved_by: str, resumed_by: str) -> None:
    """Through a checkpoint on disk, which does not tell how its parameters lay in memory."""

    def start(kind: str) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        parameters = weights()
        return parameters, build_optimizer(parameters, **SETTINGS, is_flat=kind == "flat")

    whole, optimizer = start("flat")
    learn(whole, optimizer, range(1, 9), 0.5)

    first, optimizer = start(saved_by)
    learn(first, optimizer, range(1, 5), 0.5)
    tensors: dict[str, Tensor] = {f"weight/{name}": weight for name, weight in first.items()}
    tensors |= optimizer_tensors(optimizer, first)
    checkpoint.write_checkpoint(tmp_path, 4, {"best": None}, tensors, lambda folder: folder.mkdir())
    found = checkpoint.read_newest(tmp_path, lambda name, reason: pytest.fail(reason))
    assert found is not None and found.tensors["exp_avg/a.lora_A"].shape == (3, 7)

    resumed, optimizer = start(resumed_by)
    with torch.no_grad():
        for name, weight in resumed.items():
            weight.copy_(found.tensors[f"weight/{name}"])
    restore_optimizer(optimizer, resumed, found.tensors)
    learn(resumed, optimizer, range(5, 9), 0.5)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_gradient_that_left_its_buffer_is_noticed() -> None:
    parameters = weights()
    optimizer = FlatAdamW(parameters, **SETTINGS)
    parameters["a.bias"].grad = torch.ones(5)
    with pytest.raises(AssertionError, match=r"a\.bias"):
        optimizer.step()
    optimizer.zero_grad()
    optimizer.step()


def test_gaps_between_parameters_stay_empty() -> None:
    parameters = weights()
    optimizer = FlatAdamW(parameters, **SETTINGS)
    learn(parameters, optimizer, range(1, 5), 0.5)
    flat = optimizer.flat
    inside = torch.zeros_like(flat.data)
    for view in flat.views(inside).values():
        view.fill_(1)
    for buffer in (flat.data, flat.grad, optimizer.exp_avg, optimizer.exp_avg_sq):
        assert not buffer[inside == 0].any() and buffer[inside == 1].all()


def test_a_low_rank_adapter_lies_flat_and_saves_as_before(tmp_path) -> None:
    """safetensors refuses tensors that share memory; parts of one buffer do not overlap."""
    attached = LoRA(rank=2).attach(tiny_model(tmp_path / "model"))
    attached.save(tmp_path / "before")
    FlatAdamW(attached.parameters(), **SETTINGS)
    attached.save(tmp_path / "after")
    name = "adapter_model.safetensors"
    assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_captured_step_is_played_again_with_another_rate() -> None:
    """A CUDA graph holds addresses, not numbers: rate, step and clip factor change between two plays."""
    ours, truth = ({name: nn.Parameter(weight.detach().cuda()) for name, weight in weights().items()} for _ in range(2))
    captured, plain = FlatAdamW(ours, **SETTINGS), FlatAdamW(truth, **SETTINGS)
    graph = torch.cuda.CUDAGraph()
    captured.flat.grad.fill_(0.1)
    captured.step()  # compiles
    plain.flat.grad.fill_(0.1)
    plain.step()
    with torch.cuda.graph(graph):
        captured.clip(captured.norm(), 0.5)
        captured.step()
        captured.zero_grad()
    for number in range(1, 5):
        for optimizer in (captured, plain):
            optimizer.flat.grad.fill_(0.3 * number)
            set_rate(optimizer, 1e-2 / number)
        graph.replay()
        plain.clip(plain.norm(), 0.5)
        plain.step()
        plain.zero_grad()
        assert torch.equal(captured.flat.data, plain.flat.data)
        assert not captured.flat.grad.any()
