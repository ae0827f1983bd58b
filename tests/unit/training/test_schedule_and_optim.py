"""Learning rates, which weights decay, and an optimizer's state as named tensors."""

import pytest
import torch
from torch import nn

from danlu.training.optim import build_optimizer, clip_gradients, gradient_norm, optimizer_tensors, restore_optimizer
from danlu.training.schedule import learning_rate


def rates(schedule, num_steps=10, warmup_ratio=0.2):
    return [
        learning_rate(i, num_steps, peak=1.0, schedule=schedule, warmup_ratio=warmup_ratio) for i in range(num_steps)
    ]


def test_linear_rises_then_falls_towards_zero():
    assert rates("linear") == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])


def test_cosine_is_half_way_in_the_middle():
    values = rates("cosine")
    assert values[2] == 1.0
    assert values[6] == pytest.approx(0.5)
    assert 0 < values[-1] < 0.05


def test_constant_stays():
    assert rates("constant") == [0.5] + [1.0] * 9


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_no_step_is_wasted_on_a_rate_of_zero(schedule, num_steps):
    assert all(rate > 0 for rate in rates(schedule, num_steps, 0.03))


def weights():
    return {
        "linear.weight": nn.Parameter(torch.ones(3, 2)),
        "linear.bias": nn.Parameter(torch.ones(3)),
        "norm.weight": nn.Parameter(torch.ones(3)),
    }


def test_norms_and_biases_do_not_decay():
    parameters = weights()
    optimizer = build_optimizer(parameters, lr=0.1, weight_decay=0.5, betas=(0.9, 0.999))
    for weight in parameters.values():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.allclose(parameters["linear.weight"], torch.full((3, 2), 0.95))
    assert torch.equal(parameters["linear.bias"], torch.ones(3))
    assert torch.equal(parameters["norm.weight"], torch.ones(3))


def test_a_restored_optimizer_goes_on_to_the_bit():
    def step(parameters, optimizer, number):
        for index, weight in enumerate(parameters.values()):
            weight.grad = torch.full_like(weight, 0.1 * (index + 1) * number)
        optimizer.step()

    whole = weights()
    optimizer = build_optimizer(whole, lr=0.1, weight_decay=0.01, betas=(0.9, 0.95))
    for number in (1, 2):
        step(whole, optimizer, number)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, whole).items()}
    resumed = {name: nn.Parameter(weight.detach().clone()) for name, weight in whole.items()}
    fresh = build_optimizer(resumed, lr=0.1, weight_decay=0.01, betas=(0.9, 0.95))
    restore_optimizer(fresh, resumed, saved)
    step(whole, optimizer, 3)
    step(resumed, fresh, 3)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_clipping_scales_the_whole_and_zero_leaves_it():
    parameters = weights()
    for weight in parameters.values():
        weight.grad = torch.ones_like(weight)
    norm = gradient_norm(parameters)
    assert float(norm) == pytest.approx(12**0.5)
    clip_gradients(parameters, norm, 0)
    assert float(gradient_norm(parameters)) == pytest.approx(12**0.5)
    clip_gradients(parameters, norm, 1.0)
    assert float(gradient_norm(parameters)) == pytest.approx(1.0, abs=1e-5)
