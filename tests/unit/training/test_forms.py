"""Batches rounded up to a form: the same loss and gradients, and few forms for many batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.adapters.lora import LoRA
from danlu.data.tokens import Tokens
from danlu.training.batches import make_batch
from danlu.training.blocks.trunk import QuickTrunk
from danlu.training.forms import Form, fill
from danlu.training.likelihood import summed_nll
from training_kit import tiny_model


def batch_of(lengths, share=0.5, seed=0):
    random = np.random.default_rng(seed)
    documents = [
        Tokens(random.integers(3, 96, n).astype(np.int32), (random.random(n) < share).astype(np.uint8)) for n in lengths
    ]
    return make_batch("train", np.arange(len(documents)), documents)


def gradients(model, attached, batch):
    for weight in attached.parameters().values():
        weight.grad = None
    loss = summed_nll(model, batch)
    loss.backward()
    return loss.detach(), [weight.grad for weight in attached.parameters().values()]


@pytest.mark.parametrize("is_quick", [False, True], ids=["written-out", "quick"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("lengths", [[40, 7, 130, 1, 55], [64, 64, 64], [3]], ids=str)
def test_a_filled_batch_teaches_the_same(lengths, share, is_quick, tmp_path):
    model = tiny_model(tmp_path, dtype=torch.float64)
    attached = LoRA(rank=2).attach(model)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    batch = batch_of(lengths, share)
    if not batch.num_targets:
        pytest.skip("nothing drawn to learn")
    expected, grads = gradients(model, attached, batch)
    if is_quick:
        model.quick = QuickTrunk(model)
    form = Form.of(batch, 1024)
    filled = fill(batch, form).batch
    assert len(filled.ids_T) == form.num_tokens
    assert len(filled.rows_S) == form.num_rows
    loss, others = gradients(model, attached, filled)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(others, grads, rtol=1e-9, atol=1e-12)


@settings(max_examples=80)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=30), st.floats(0, 1), st.integers(0, 9))
def test_every_batch_fits_its_form(lengths, share, seed):
    batch = batch_of(lengths, share, seed)
    form = Form.of(batch, 4096)
    whole = fill(batch, form)
    filled = whole.batch
    assert len(whole.cu_N1) == form.num_documents + 1
    assert torch.equal(whole.cu_N1[: filled.bounds.num_documents + 1], torch.tensor(filled.bounds.cu_seqlens))
    assert bool((whole.cu_N1[filled.bounds.num_documents :] == form.num_tokens).all())
    assert filled.bounds.num_tokens == form.num_tokens >= batch.bounds.num_tokens
    assert filled.bounds.num_documents <= form.num_documents
    assert filled.bounds.max_length <= form.longest
    assert len(filled.rows_S.unique()) == len(filled.rows_S) == form.num_rows
    learnt = filled.targets_S >= 0
    assert torch.equal(filled.rows_S[learnt], batch.rows_S)
    assert torch.equal(filled.targets_S[learnt], batch.targets_S)
    assert form.num_tokens - batch.bounds.num_tokens < 512


def test_a_training_meets_few_forms():
    random = np.random.default_rng(0)
    forms = set()
    for seed in range(200):
        lengths: list[int] = []
        while sum(lengths) < 3900:
            lengths.append(int(np.clip(random.lognormal(5, 0.6), 16, 500)))
        forms.add(Form.of(batch_of(lengths[:-1], 0.4, seed), 4096))
    assert len(forms) <= 16


def test_bounds_that_stand_read_the_buffer():
    batch = batch_of([5, 9])
    cu = torch.tensor([0, 5, 14, 14, 14], dtype=torch.int32)
    bounds = batch.bounds.standing(cu, 128)
    assert bounds.tensor(cu.device) is cu
    assert bounds.max_length == 128
    assert bounds.num_documents == 4
    with pytest.raises(AssertionError, match="room"):
        batch.bounds.standing(cu, 8)
