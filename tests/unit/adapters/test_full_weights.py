"""Full fine-tuning: fp32 masters of a narrower model, and back."""

import math

import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.load import load_trained
from danlu.core.errors import TrainingError
from training_kit import QWEN2, tiny_model


def test_masters_are_fp32_and_merging_casts_back(tmp_path):
    model = tiny_model(tmp_path, dtype=torch.bfloat16)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    attached = Full().attach(model)
    assert {weight.dtype for weight in attached.parameters().values()} == {torch.float32}
    assert attached.compute_dtype == torch.bfloat16
    attached.merge()
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert model.dtype == torch.bfloat16
    with pytest.raises(TrainingError, match="already"):
        attached.merge()


def test_tied_weights_are_one_parameter(tmp_path):
    tied, free = (
        Full().attach(tiny_model(tmp_path / str(t), QWEN2 | {"tie_word_embeddings": t})) for t in (True, False)
    )
    assert "lm_head.weight" not in tied.parameters()
    assert "lm_head.weight" in free.parameters()


def test_saving_and_loading(tmp_path):
    model = tiny_model(tmp_path / "a", seed=1)
    attached = Full().attach(model)
    attached.save(tmp_path / "out")
    other = tiny_model(tmp_path / "a", seed=2)
    load_trained(tmp_path / "out", other)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_attaching_again_keeps_the_dtype_to_compute_in(tmp_path):
    """Going back to the best weights between two stages must not turn bf16 training into fp32 training."""
    model = tiny_model(tmp_path / "a", dtype=torch.bfloat16)
    attached = Full().attach(model)
    attached.save(tmp_path / "out")
    again = load_trained(tmp_path / "out", model)
    assert again.compute_dtype == torch.bfloat16
    assert model.dtype == torch.float32
    assert Full().attach(tiny_model(tmp_path / "a", dtype=torch.bfloat16)) is not again


def test_settled_masters_are_what_was_saved(tmp_path):
    model = tiny_model(tmp_path / "a", dtype=torch.bfloat16)
    attached = Full().attach(model)
    for weight in attached.parameters().values():
        weight.data += 1e-4
    attached.save(tmp_path / "out")
    attached.settle()
    other = tiny_model(tmp_path / "a", dtype=torch.bfloat16, seed=5)
    loaded = load_trained(tmp_path / "out", other)
    mine, theirs = attached.parameters(), loaded.parameters()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_for_answering_the_dtype_stays(tmp_path):
    model = tiny_model(tmp_path / "a", dtype=torch.bfloat16)
    Full().attach(model).save(tmp_path / "out")
    other = tiny_model(tmp_path / "a", dtype=torch.bfloat16)
    load_trained(tmp_path / "out", other, to_train=False)
    assert other.dtype == torch.bfloat16
    assert not any(weight.requires_grad for weight in other.parameters())


def test_nan_is_noticed(tmp_path):
    attached = Full().attach(tiny_model(tmp_path))
    attached.check()
    next(iter(attached.parameters().values())).data[0] = math.nan
    with pytest.raises(TrainingError, match="NaN"):
        attached.check()


def test_without_masters_weights_stay_as_they_came(tmp_path):
    """Half the memory; going back to the best weights between two stages leaves it so."""
    model = tiny_model(tmp_path / "a", dtype=torch.bfloat16)
    attached = Full(masters="none").attach(model)
    assert attached.compute_dtype == torch.bfloat16
    assert all(w.dtype == torch.bfloat16 and w.requires_grad for w in attached.parameters().values())
    before = {name: weight.detach().clone() for name, weight in attached.parameters().items()}
    attached.settle()
    attached.save(tmp_path / "out")
    again = load_trained(tmp_path / "out", model)
    assert {weight.dtype for weight in again.parameters().values()} == {torch.bfloat16}
    assert all(torch.equal(weight, before[name]) for name, weight in again.parameters().items())
    again.merge()
    assert {weight.dtype for weight in Full().attach(model).parameters().values()} == {torch.float32}


def test_masters_can_be_told_when_weights_are_loaded(tmp_path):
    """A new process goes on from a checkpoint: nothing but the recipe knows how its weights trained."""
    Full().attach(tiny_model(tmp_path / "a", dtype=torch.bfloat16)).save(tmp_path / "out")
    loaded = load_trained(tmp_path / "out", tiny_model(tmp_path / "a", dtype=torch.bfloat16), full=Full("none"))
    assert {weight.dtype for weight in loaded.parameters().values()} == {torch.bfloat16}


def test_fp16_needs_masters(tmp_path):
    with pytest.raises(TrainingError, match="fp16"):
        Full(masters="none").attach(tiny_model(tmp_path, dtype=torch.float16))
