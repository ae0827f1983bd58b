"""How likely a model finds the supervised tokens of a batch. The head runs at supervised positions only.

Shapes: T tokens of the flat row, S supervised tokens, N documents, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from danlu.model.model import Model
from danlu.training.batches import Batch


def summed_nll(model: Model, batch: Batch) -> Tensor:
    """Σ -log p(token | what stands before it) over the supervised tokens, a scalar."""
    return model.loss(_predicting(model, batch), batch.targets_S)


def target_log_probs(model: Model, batch: Batch, temperature: float = 1.0) -> Tensor:
    """log_probs_S: of each supervised token, as it is drawn at this temperature."""
    return model.log_probs(_predicting(model, batch), batch.targets_S, temperature)


def document_log_probs(model: Model, batch: Batch) -> Tensor:
    """log_probs_N: the summed log-probability of each document's supervised tokens."""
    return torch.segment_reduce(target_log_probs(model, batch), "sum", lengths=batch.num_targets_N)


def _predicting(model: Model, batch: Batch) -> Tensor:
    """hidden_SD: the hidden states from which the supervised tokens are predicted, each one place before its token."""
    return model.hidden_at(batch.ids_T, batch.positions_T, batch.bounds, batch.rows_S)
