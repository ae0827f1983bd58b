"""Gradients added up over micro-batches are those of one big batch (others averaged averages for years)."""

import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.adapters.prefix import PrefixTuning
from danlu.training.methods.dpo import DPO
from danlu.training.methods.pretrain import Pretrain
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer
from training_kit import dataset, pair_items, section, sft_items, tiny_model


def gradients(tmp_path, method, items, adapter, micro_tokens):
    """Of the first step, in fp64, together with its loss; 400 tokens a step in pieces of `micro_tokens`."""
    model = tiny_model(tmp_path / "model", dtype=torch.float64)
    attached = adapter.attach(model)
    data = dataset(tmp_path / "data", items)
    run = Trainer(
        model, attached, method, data, folder=tmp_path / f"checkpoints-{micro_tokens}",
        section=section(batch_tokens=100_000 * micro_tokens, micro_tokens=micro_tokens),
    )  # fmt: skip
    batches = next(run.feed.steps_after(0)).batches
    num_units = sum(method.num_units(batch) for batch in batches)
    loss = run.passes.accumulate(batches, num_units, 1)["loss"] / num_units
    return len(batches), float(loss), {name: weight.grad.clone() for name, weight in run.parameters.items()}


@pytest.mark.parametrize(
    "adapter",
    [LoRA(rank=2), LoRA(rank=2, dora=True), PrefixTuning(num_tokens=3), Full(), Full(layers=1)],
    ids=["lora", "dora", "prefix", "full", "full-last"],
)
@pytest.mark.parametrize(
    ("make_method", "items"),
    [(SFT, sft_items(20)), (Pretrain, sft_items(20)), (DPO, pair_items(12))],
    ids=["sft", "pretrain", "dpo"],
)
def test_accumulated_is_one_big_batch(tmp_path, adapter, make_method, items):
    num_many, loss_many, many = gradients(tmp_path, make_method(), items, adapter, 48)
    num_one, loss_one, one = gradients(tmp_path, make_method(), items, adapter, 2000)
    assert num_one == 1
    assert num_many > 3
    assert loss_many == pytest.approx(loss_one, rel=1e-6)  # the head's sum is taken in fp32 or wider
    for name, gradient in one.items():
        torch.testing.assert_close(many[name], gradient, atol=1e-12, rtol=1e-9)


def test_a_mean_of_means_would_be_noticed(tmp_path):
    """Pieces with few supervised tokens weigh less: the plain mean of the pieces' losses is another number."""
    model = tiny_model(tmp_path / "model")
    attached = LoRA(rank=2).attach(model)
    data = dataset(tmp_path / "data", sft_items(20))
    method = SFT()
    run = Trainer(model, attached, method, data, section=section(batch_tokens=10_000), folder=tmp_path / "c")
    batches = next(run.feed.steps_after(0)).batches
    losses = [method.loss(model, batch) for batch in batches]
    whole = sum(loss.value.item() for loss in losses) / sum(loss.num_units for loss in losses)
    mean_of_means = sum(loss.value.item() / loss.num_units for loss in losses) / len(losses)
    assert abs(whole - mean_of_means) > 1e-4
    assert next(run.steps()).loss == pytest.approx(whole, rel=1e-5)
