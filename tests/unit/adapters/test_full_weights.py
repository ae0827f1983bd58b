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


def test_nan_is_noticed(tmp_path):
    attached = Full().attach(tiny_model(tmp_path))
    attached.check()
    next(iter(attached.parameters().values())).data[0] = math.nan
    with pytest.raises(TrainingError, match="NaN"):
        attached.check()
