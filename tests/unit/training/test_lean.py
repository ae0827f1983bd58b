"""AdamW in little memory: inside the backward as after it, states beside the card as on it, resumed as uninterrupted,
bf16 weights that still learn."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from danlu.adapters.full import Full
from danlu.core.errors import TrainingError
from danlu.data.dataset import Dataset
from danlu.training import checkpoint, host_memory
from danlu.training.batches import Batch, read_batch
from danlu.training.lean import LeanAdamW, States
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
    """Sixteen matrices of 32 MiB: beside weights and moments two matrices' worth of gradients, not sixteen."""
    layers = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(16))).to("cuda", torch.bfloat16)
    optimizer = build_optimizer(dict(layers.named_parameters()), **SETTINGS, kind="adamw_8bit", in_backward=True)
    inputs = torch.randn(64, 4096, device="cuda", dtype=torch.bfloat16)
    for _ in range(2):
        optimizer.zero_grad()
        standing = torch.cuda.memory_allocated()  # the second time with moments and the products' workspace
        torch.cuda.reset_peak_memory_stats()
        layers(inputs).float().square().mean().backward()
        optimizer.step()
    matrix = 4096 * 4096 * 2
    assert torch.cuda.max_memory_allocated() - standing < 2.5 * matrix


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


# ---- states in the machine's memory


def offloaded(course: Course, states: States, *, in_backward: bool = False) -> Course:
    """The course with bf16 weights and an optimizer of these states."""
    settings = {key: SETTINGS[key] for key in ("lr", "weight_decay", "betas")}
    course.optimizer = LeanAdamW(course.parameters, **settings, states=states, in_backward=in_backward)
    return course


STATES = [
    States(has_masters=True), States(has_masters=True, is_8bit=True), States(is_8bit=True), States(),
]  # fmt: skip


@pytest.mark.parametrize("offload", ["masters", "all"])
@pytest.mark.parametrize("states", STATES, ids=str)
@pytest.mark.parametrize("in_backward", [False, True])
def test_where_states_lie_changes_no_bit(tmp_path, states: States, offload: Any, in_backward: bool) -> None:
    """Chunks of 512: matrices come in many, some of them not by whole chunks."""
    clip = 0.0 if in_backward else 1.0
    here = offloaded(Course(tmp_path, "adamw", "none", clip=clip), states, in_backward=in_backward)
    away = Course(tmp_path, "adamw", "none", clip=clip)
    offloaded(away, replace(states, offload=offload, chunk=512), in_backward=in_backward)
    assert here.learn(range(1, 7)) == away.learn(range(1, 7))
    assert same_weights(here, away)
    ours, theirs = (optimizer_tensors(course.optimizer, course.parameters) for course in (here, away))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masters_apart_are_what_weights_are_rounded_from(tmp_path) -> None:
    """bf16 weights follow their masters to the nearest, and the masters move by less than bf16 could tell."""
    course = offloaded(Course(tmp_path, "adamw", "none"), States(has_masters=True, offload="all", chunk=1024))
    course.learn(range(1, 30))
    state = course.optimizer.state
    for weight in course.parameters.values():
        assert weight.dtype == torch.bfloat16 and torch.equal(weight, state[weight]["master"].bfloat16())
    assert any(not torch.equal(weight.float(), state[weight]["master"]) for weight in course.parameters.values())


def test_masters_apart_learn_as_fp32_does(tmp_path) -> None:
    whole = Course(tmp_path, "adamw", "fp32", clip=1.0).learn(range(1, 81))
    ours = offloaded(Course(tmp_path, "adamw", "none", clip=1.0), States(has_masters=True, offload="all"))
    assert sum(ours.learn(range(1, 81))[-10:]) < 1.05 * sum(whole[-10:])


def test_only_matrices_lie_away(tmp_path) -> None:
    course = offloaded(Course(tmp_path, "adamw", "none"), States(has_masters=True, offload="masters"))
    sizes = [weight.numel() for weight in course.parameters.values() if weight.ndim >= 2]
    assert course.optimizer._host is not None
    taken = course.optimizer._host._taken  # type: ignore[attr-defined]
    assert 4 * sum(sizes) <= taken < 4 * sum(sizes) + 256 * len(sizes)


@pytest.mark.parametrize(("masters", "optimizer"), [("fp32", "adamw"), ("fp32", "adamw_8bit"), ("none", "adamw")])
def test_the_loop_resumes_offloaded_states_to_the_bit(tmp_path, masters: Any, optimizer: str) -> None:
    def start(folder) -> Trainer:
        model = tiny_model(tmp_path / "model", dtype=torch.bfloat16)
        place = tmp_path / "data"
        data = Dataset.open(place) if place.is_dir() else dataset(place, rule_items(60), rule_items(12, seed=3))
        knobs = section(epochs=2, clip=1.0, optimizer=optimizer, batch_tokens=128, micro_tokens=128)
        attached = Full(masters, "all").attach(model)
        assert attached.has_masters_apart == (masters == "fp32")
        return Trainer(model, attached, SFT(), data, section=knobs, folder=folder)

    whole = start(tmp_path / "whole")
    losses = [step.loss for step in whole.steps()]
    first = start(tmp_path / "cut")
    half = [step.loss for step in itertools.islice(first.steps(), len(losses) // 2)]
    first.save()
    resumed = start(tmp_path / "cut")
    assert half + [step.loss for step in resumed.steps()] == losses
    assert all(torch.equal(whole.parameters[name], resumed.parameters[name]) for name in whole.parameters)
    ours, theirs = (optimizer_tensors(one.optimizer, one.parameters) for one in (whole, resumed))
    assert any(name.startswith("master/") for name in ours) == (masters == "fp32")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_too_little_memory_for_states_is_said_before_it_is_taken(monkeypatch) -> None:
    """Half of the states pinned, and then the machine stopped answering."""
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 3 * 2**30)
    weight = nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    build_optimizer({"w": weight}, **SETTINGS, has_masters=True, offload="all")  # fits
    with pytest.raises(TrainingError, match=r"3\.0 GiB are available"):
        host_memory.HostMemory(2 * 2**30, torch.device("cpu"))


def test_fp16_weights_are_not_parted_from_their_masters(tmp_path) -> None:
    with pytest.raises(TrainingError, match="bf16 alone"):
        Full("fp32", "all").attach(tiny_model(tmp_path, dtype=torch.float16))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("states", STATES, ids=str)
@pytest.mark.parametrize("in_backward", [False, True])
def test_where_states_lie_changes_no_bit_on_the_device(states: States, in_backward: bool) -> None:
    """Copies beside kernels: a chunk that is read before it has come, or sent before it is done, would show. Chunks
    are small and many, and the device is kept busy so that the CPU runs far ahead."""

    def train(states: States) -> tuple[dict[str, torch.Tensor], nn.Module]:
        torch.manual_seed(0)
        layers = nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(6))).to("cuda", torch.bfloat16)
        parameters = dict(layers.named_parameters())
        optimizer = LeanAdamW(
            parameters, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01, states=states, in_backward=in_backward
        )
        inputs = torch.randn(4096, 1024, device="cuda", dtype=torch.bfloat16)
        for _ in range(8):
            optimizer.zero_grad()
            layers(inputs).float().square().mean().backward()
            optimizer.step()
        return {name: tensor.cpu() for name, tensor in optimizer_tensors(optimizer, parameters).items()}, layers

    ours, here = train(states)
    theirs, away = train(replace(states, offload="all", chunk=2**14))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(a, b) for a, b in zip(here.parameters(), away.parameters(), strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_offloaded_states_are_pinned_and_off_the_card() -> None:
    layers = nn.Sequential(*(nn.Linear(4096, 4096, bias=False) for _ in range(8))).to("cuda", torch.bfloat16)
    before = torch.cuda.memory_allocated()
    optimizer = build_optimizer(
        dict(layers.named_parameters()), **SETTINGS, has_masters=True, offload="all", in_backward=True
    )
    berths = 3 * 12 * 2**24
    assert torch.cuda.memory_allocated() - before < berths + 2**20
    assert all(state["master"].is_pinned() for state in optimizer.state.values())
