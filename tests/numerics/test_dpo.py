"""DPO: the loss against recorded values of the formula, its gradient, and where its reference comes from."""

import math

import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.lora import LoRA
from danlu.training.batches import read_batch
from danlu.training.likelihood import document_log_probs
from danlu.training.methods.dpo import DPO, AdapterOff, Recorded, dpo_loss
from danlu.training.trainer import Trainer
from training_kit import dataset, pair_items, section, tiny_model

CHOSEN, REJECTED = [-10.2, -7.5, -30.0], [-11.0, -7.0, -25.0]
REFERENCE_CHOSEN, REFERENCE_REJECTED = [-10.9, -7.4, -29.0], [-10.5, -7.2, -26.5]
# log-ratios differ by 1.2, -0.3, -2.5; in fp64 (what TRL computes is in test_dpo_trl.py):
# (1-e)*log1p(exp(-b*d)) + e*log1p(exp(b*d)) for d in (1.2, -0.3, -2.5)
RECORDED = {
    (0.1, 0.0): (0.6349461015956135, 0.7082596763414485, 0.8259394198788436),
    (0.1, 0.1): (0.6469461015956135, 0.7052596763414485, 0.8009394198788435),
    (0.5, 0.0): (0.4374879504858856, 0.770957047789532, 1.501929081345373),
    (0.5, 0.2): (0.5574879504858856, 0.7409570477895321, 1.2519290813453732),
}


def fixture_tensors():
    return [
        torch.tensor(values, dtype=torch.float64) for values in (CHOSEN, REJECTED, REFERENCE_CHOSEN, REFERENCE_REJECTED)
    ]


@pytest.mark.parametrize(("beta", "smoothing"), RECORDED)
def test_loss_is_the_papers(beta, smoothing):
    loss, metrics = dpo_loss(*fixture_tensors(), beta=beta, label_smoothing=smoothing)
    assert float(loss) == pytest.approx(sum(RECORDED[beta, smoothing]), rel=1e-14)
    assert float(metrics["pair_accuracy"]) == 1
    assert float(metrics["reward_margin"]) == pytest.approx(beta * (1.2 - 0.3 - 2.5))
    assert float(metrics["log_prob_chosen"]) == pytest.approx(sum(CHOSEN))


def test_gradient_is_the_papers():
    """Equation 7's gradient: -β σ(-margin) with respect to log π(y_w), and its opposite for y_l."""
    tensors = fixture_tensors()
    for tensor in tensors[:2]:
        tensor.requires_grad_(True)
    loss, _ = dpo_loss(*tensors, beta=0.5)
    loss.backward()
    margin = 0.5 * torch.tensor([1.2, -0.3, -2.5], dtype=torch.float64)
    torch.testing.assert_close(tensors[0].grad, -0.5 * torch.sigmoid(-margin))
    torch.testing.assert_close(tensors[1].grad, 0.5 * torch.sigmoid(-margin))


def test_equal_models_lose_ln_2():
    loss, _ = dpo_loss(*(tensor[:2] for tensor in fixture_tensors()[:2] * 2), beta=0.3)
    assert float(loss) == pytest.approx(2 * math.log(2))


def trainer(tmp_path, adapter, data, **knobs):
    model = tiny_model(tmp_path / "model")
    return Trainer(model, adapter.attach(model), DPO(), data, section=section(**knobs), folder=tmp_path / "checkpoints")


def test_the_first_step_loses_exactly_ln_2_with_a_fresh_adapter(tmp_path):
    data = dataset(tmp_path / "data", pair_items(30))
    run = trainer(tmp_path, LoRA(rank=2), data)
    assert isinstance(run.method.reference, AdapterOff)
    first = next(run.steps())
    assert first.loss == pytest.approx(math.log(2), abs=1e-6)
    assert first.metrics["reward_margin"] == pytest.approx(0, abs=1e-6)


def test_the_reference_is_the_model_this_stage_starts_from(tmp_path):
    """Others have taken the untouched base as reference after an SFT stage. Here an adapter that has learnt goes on: the
    first loss must still be ln 2, which the base as reference would not give."""
    data = dataset(tmp_path / "data", pair_items(30))
    model = tiny_model(tmp_path / "model")
    attached = LoRA(rank=2).attach(model)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(5))
    method = DPO()
    run = Trainer(model, attached, method, data, section=section(), folder=tmp_path / "checkpoints")
    assert isinstance(method.reference, Recorded)
    batch = read_batch("train", data.part("train"), run.plan.steps_after(0).__next__().pieces[0])
    with torch.no_grad(), attached.disabled():
        base = document_log_probs(model, batch)
    assert (base - method.reference.log_probs(model, batch)).abs().max() > 0.1, "base and start differ"
    assert next(run.steps()).loss == pytest.approx(math.log(2), abs=1e-5)


def test_full_fine_tuning_records_its_reference(tmp_path):
    data = dataset(tmp_path / "data", pair_items(30), pair_items(10, seed=1))
    run = trainer(tmp_path, Full(), data, lr=2e-3, epochs=4)
    steps = list(run.steps())
    assert steps[0].loss == pytest.approx(math.log(2), abs=1e-5)
    assert steps[-1].metrics["pair_accuracy"] > 0.8
    assert steps[-1].validation["reward_margin"] > 0


def test_a_wrong_reference_is_caught_before_the_first_step(tmp_path, monkeypatch):
    data = dataset(tmp_path / "data", pair_items(30))
    right = AdapterOff.log_probs
    monkeypatch.setattr(AdapterOff, "log_probs", lambda self, model, batch: right(self, model, batch) * 0.9)
    with pytest.raises(AssertionError, match="ln 2"):
        trainer(tmp_path, LoRA(rank=2), data)


def test_preferences_are_learnt(tmp_path):
    data = dataset(tmp_path / "data", pair_items(240), pair_items(60, seed=1))
    run = trainer(tmp_path, LoRA(rank=8), data, epochs=2, lr=1e-2)
    *_, final = run.steps()
    assert final.validation["pair_accuracy"] > 0.75
    assert final.validation["loss"] < 0.62
