"""Packed documents learn as if each were alone: loss and gradients, and no word leaks across a border."""

import numpy as np
import torch

from danlu.adapters.lora import LoRA
from danlu.training.batches import make_batch
from danlu.training.likelihood import document_log_probs, summed_nll
from training_kit import sft_items, tiny_model

DOCUMENTS = [item.tokens[0] for item in sft_items(9, longest=40)]


def adapted(tmp_path):
    model = tiny_model(tmp_path, dtype=torch.float64)
    attached = LoRA(rank=2).attach(model)
    for weight in attached.parameters().values():
        weight.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return model, attached


def batch_of(documents, pad_to=0):
    return make_batch("train", np.arange(len(documents)), documents, pad_to)


def loss_and_gradients(model, attached, batches):
    loss = sum(summed_nll(model, batch) for batch in batches)
    gradients = torch.autograd.grad(loss, list(attached.parameters().values()))
    return loss, gradients


def test_packed_is_unpacked(tmp_path):
    model, attached = adapted(tmp_path)
    packed_loss, packed = loss_and_gradients(model, attached, [batch_of(DOCUMENTS)])
    alone_loss, alone = loss_and_gradients(model, attached, [batch_of([document]) for document in DOCUMENTS])
    torch.testing.assert_close(packed_loss, alone_loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-12)


def test_padding_to_a_fixed_shape_changes_nothing(tmp_path):
    model, attached = adapted(tmp_path)
    plain, padded = batch_of(DOCUMENTS), batch_of(DOCUMENTS, pad_to=1024)
    assert len(padded.ids_T) == 1024
    assert padded.num_tokens == plain.num_tokens == len(plain.ids_T)
    one, other = (loss_and_gradients(model, attached, [batch]) for batch in (plain, padded))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    log_probs = [document_log_probs(model, batch) for batch in (plain, padded)]
    torch.testing.assert_close(*log_probs)


def test_a_neighbours_text_does_not_leak(tmp_path):
    model, _ = adapted(tmp_path)
    changed = [type(DOCUMENTS[0])((DOCUMENTS[0].ids + 1) % 90, DOCUMENTS[0].weights), *DOCUMENTS[1:]]
    one, other = (document_log_probs(model, batch_of(documents)) for documents in (DOCUMENTS, changed))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(one[1:], other[1:])


def test_order_of_documents_does_not_matter(tmp_path):
    model, _ = adapted(tmp_path)
    forwards, backwards = (document_log_probs(model, batch_of(docs)) for docs in (DOCUMENTS, DOCUMENTS[::-1]))
    torch.testing.assert_close(forwards, backwards.flip(0), rtol=1e-12, atol=1e-12)


def test_the_first_token_is_never_a_target():
    batch = batch_of(DOCUMENTS)
    starts = set(batch.bounds.cu_seqlens)
    assert not starts & {int(row) + 1 for row in batch.rows_S}
    assert torch.equal(batch.ids_T[batch.rows_S + 1], batch.targets_S)
    assert batch.num_targets_N.tolist() == [document.num_supervised for document in DOCUMENTS]
