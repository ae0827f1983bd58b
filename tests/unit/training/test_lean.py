"""AdamW in little memory: inside the backward as after it, resumed as uninterrupted, bf16 weights that still learn."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from danlu.adapters.full import Full
from danlu.data.dataset import Dataset
from danlu.training import checkpoint
from danlu.training.batches import Batch, read_batch
from danlu.training.lean import LeanAdamW
from danlu.training.likelihood import summed_nll
from danlu.training.methods.sft import SFT
from danlu.training.optim import (
    build_optimizer,
    clip_gradients,
    gradient_norm,
    optimizer_tensors,
    restore_optimizer,
    set_rate,
)
from danlu.training.plan import in_order
from danlu.training.trainer import Trainer
from training_kit import dataset, rule_items, section, tiny_model

SETTINGS = {"lr": 1e-2, "weight_decay": 0.01, "betas": (0.9, 0.99)}
KINDS = [("adamw", "fp32"), ("adamw", "none"), ("adamw_8bit", "fp32"), ("adamw_8bit", "none")]


class Course:
    """A tiny bf16 model on its way through a rule, one batch a step."""

    def __init__(self, folder, kind: str, masters: str, *, in_backward: bool = False, clip: float = 0.0) -> None:
        self.model = tiny_model(folder / "model", dtype=torch.bfloat16)
        attached = Full(masters=masters).attach(self.model)
        self.parameters, self.clip = attached.parameters(), clip
        self.optimizer = build_optimizer(self.parameters, **SETTINGS, kind=kind, in_backward=in_backward)
        self.is_autocast = masters == "fp32"
        place = folder / "data"
        data = Dataset.open(place) if place.is_dir() else dataset(place, rule_items(120))
        self.part = data.part("train")
        self.norms: list[float] = []

    def batches(self) -> list[Batch]:
        return [read_batch("train", self.part, items) for items in in_order(self.part.lengths, 128, seed=0, epoch=0)]

    def learn(self, numbers: range) -> list[float]:
        losses, batches = [], self.batches()
        for number in numbers:
            batch = batches[number % len(batches)]
            self.optimizer.zero_grad()
            set_rate(self.optimizer, 1e-2 / number**0.5)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.is_autocast):
                loss = summed_nll(self.model, batch) / batch.num_targets
            loss.backward()
            norm = gradient_norm(self.parameters, self.optimizer)
            clip_gradients(self.parameters, norm, self.clip, self.optimizer)
            self.optimizer.step()
            self.norms.append(float(norm))
            losses.append(loss.item())
        return losses


def same_weights(one: Course, other: Course) -> bool:
    return all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)


@pytest.mark.parametrize(("kind", "masters"), KINDS)
def test_it_learns_as_fp32_does(tmp_path, kind: str, masters: str) -> None:
    """From 4.6 nats of knowing nothing; the loss of the last steps within 12 % of torch's AdamW over fp32 masters."""
    whole = Course(tmp_path, "adamw", "fp32", clip=1.0).learn(range(1, 81))
    ours = Course(tmp_path, kind, masters, clip=1.0).learn(range(1, 81))
    assert ours[0] == pytest.approx(whole[0], rel=1e-3) and ours[0] > 4.4
    assert sum(ours[-10:]) < 1.12 * sum(whole[-10:]) < 0.6 * 10 * ours[0]


@pytest.mark.parametrize(("kind", "masters"), KINDS)
def test_inside_the_backward_it_is_the_same_to_the_bit(tmp_path, kind: str, masters: str) -> None:
    """The tied head is used twice and must be stepped once; reported norms agree but for the order of their sum."""
    after, inside = (Course(tmp_path, kind, masters, in_backward=inside) for inside in (False, True))
    assert after.learn(range(1, 9)) == inside.learn(range(1, 9))
    if (kind, masters) != ("adamw", "fp32"):  # that one is torch's own kernel
        assert same_weights(after, inside)
    assert after.norms == pytest.approx(inside.norms, rel=1e-5)
    assert all(weight.grad is None for weight in inside.parameters.values())


@pytest.mark.parametrize(("kind", "masters"), KINDS)
@pytest.mark.parametrize("in_backward", [False, True])
def test_resumed_equals_uninterrupted_to_the_bit(tmp_path, kind: str, masters: str, in_backward: bool) -> None:
    """Codes, scales and the noise of rounding, through a checkpoint on disk."""
    whole = Course(tmp_path, kind, masters, in_backward=in_backward)
    whole.learn(range(1, 9))

    first = Course(tmp_path, kind, masters, in_backward=in_backward)
    first.learn(range(1, 5))
    tensors = {f"weight/{name}": weight for name, weight in first.parameters.items()}
    tensors |= optimizer_tensors(first.optimizer, first.parameters)
    checkpoint.write_checkpoint(tmp_path / "kept", 4, {"best": None}, tensors, lambda folder: folder.mkdir())
    found = checkpoint.read_newest(tmp_path / "kept", lambda name, reason: pytest.fail(reason))
    assert found is not None

    resumed = Course(tmp_path, kind, masters, in_backward=in_backward)
    with torch.no_grad():
        for name, weight in resumed.parameters.items():
            weight.copy_(found.tensors[f"weight/{name}"])
    restore_optimizer(resumed.optimizer, resumed.parameters, found.tensors)
    resumed.learn(range(5, 9))
    assert same_weights(whole, resumed)


def test_one_gradient_is_alive_at_a_time(tmp_path, monkeypatch) -> None:
    """What the memory arithmetic of full fine-tuning rests on."""
    course = Course(tmp_path, "adamw_8bit", "none", in_backward=True)
    alive: list[int] = []

    def watch(optimizer: LeanAdamW, weight: nn.Parameter) -> None:
        alive.append(sum(other.grad is not None for other in course.parameters.values()))
        original(optimizer, weight)

    original = LeanAdamW.step_now
    monkeypatch.setattr(LeanAdamW, "step_now", watch)
    course.learn(range(1, 2))
    assert alive == [1] * len(course.parameters)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_of_a_step_inside_the_backward() -> None:
    """Sixteen matrices of 32 MiB: weights, 8-bit moments, and two matrices' worth of gradients, not sixteen."""
    layers = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(16))).to("cuda", torch.bfloat16)
    optimizer = build_optimizer(dict(layers.named_parameters()), **SETTINGS, kind="adamw_8bit", in_backward=True)
    inputs = torch.randn(64, 4096, device="cuda", dtype=torch.bfloat16)
    for _ in range(2):
        optimizer.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        layers(inputs).float().square().mean().backward()
        optimizer.step()
    matrix = 4096 * 4096 * 2
    assert torch.cuda.max_memory_allocated() < (16 * (1 + 1.05) + 2.5) * matrix


def test_eight_bits_take_eight_bits(tmp_path) -> None:
    """Two bytes and a fraction for both moments of a matrix; norms and biases keep theirs in fp32."""
    course = Course(tmp_path, "adamw_8bit", "none")
    for name, weight in course.parameters.items():
        state = course.optimizer.state[weight]
        taken = sum(tensor.nbytes for what, tensor in state.items() if what != "step")
        assert taken <= (
            2 * weight.numel() + 8 * (weight.numel() // 256 + 1) if weight.ndim >= 2 else 8 * weight.numel()
        )
        assert weight.dtype == torch.bfloat16, name


def test_two_pieces_inside_the_backward_are_refused(tmp_path) -> None:
    """The second piece would be computed with weights that have moved; and what was begun must not be saved."""
    course = Course(tmp_path, "adamw_8bit", "none", in_backward=True)
    one, other = itertools.islice(course.batches(), 2)
    summed_nll(course.model, one).backward()
    assert isinstance(course.optimizer, LeanAdamW) and course.optimizer.is_torn
    with pytest.raises(AssertionError, match="one piece"):
        summed_nll(course.model, other).backward()
    with pytest.raises(AssertionError, match="cut short"):
        course.optimizer.zero_grad()


def test_clipping_inside_the_backward_is_refused(tmp_path) -> None:
    with pytest.raises(AssertionError, match="clip"):
        Course(tmp_path, "adamw_8bit", "none", in_backward=True, clip=1.0).learn(range(1, 2))


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_the_loop_resumes_it_to_the_bit(tmp_path, clip: float) -> None:
    """The whole trainer, interrupted between two steps; with clipping gradients are kept, without they need not be."""

    def start(folder) -> Trainer:
        model = tiny_model(tmp_path / "model", dtype=torch.bfloat16)
        place = tmp_path / "data"
        data = Dataset.open(place) if place.is_dir() else dataset(place, rule_items(60), rule_items(12, seed=3))
        knobs = section(epochs=2, clip=clip, optimizer="adamw_8bit", batch_tokens=128, micro_tokens=128)
        return Trainer(model, Full("none").attach(model), SFT(), data, section=knobs, folder=folder)

    whole = start(tmp_path / "whole")
    losses = [step.loss for step in whole.steps()]
    first = start(tmp_path / "cut")
    half = [step.loss for step in itertools.islice(first.steps(), len(losses) // 2)]
    first.save()
    resumed = start(tmp_path / "cut")
    assert resumed.number == len(half)
    assert half + [step.loss for step in resumed.steps()] == losses
    assert all(torch.equal(whole.parameters[name], resumed.parameters[name]) for name in whole.parameters)
    assert {weight.dtype for weight in resumed.parameters.values()} == {torch.bfloat16}


def test_a_later_optimizer_takes_the_parameters_over() -> None:
    """Two stages of one run train the same parameters: the first stage's optimizer must not go on moving them."""
    weight = nn.Parameter(torch.ones(4, 4))
    earlier = build_optimizer({"w": weight}, **SETTINGS, kind="adamw_8bit", in_backward=True)
    later = build_optimizer({"w": weight}, **SETTINGS)
    (weight * 2).sum().backward()
    assert torch.equal(weight, torch.ones(4, 4)) and weight.grad is not None
    later.step()
    assert not torch.equal(weight, torch.ones(4, 4))
    assert not earlier.is_torn  # type: ignore[attr-defined]
