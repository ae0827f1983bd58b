"""The head and its loss in one: linear layer, log-softmax and pick, a few rows at a time, so that the [N, V] logits
of a big vocabulary never exist as a whole. Give it supervised positions only: gather the rows before, not after.

Logits are made in the weights' dtype and softmax statistics in fp32. The gradient with respect to hidden is
made in the forward, while the logits are at hand: d log p(y) / d hidden = W[y] - softmax · W, one row per token, which
the backward only scales. A trainable head of the summed loss gets its gradient the same way; of the
per-token kind it recomputes logits, because each row's upstream factor is known only then.

Shapes: N supervised tokens, C rows of a chunk, V vocabulary, D hidden.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

CPU_CHUNK_BYTES, GPU_CHUNK_BYTES = 8 * 1024 * 1024, 256 * 1024 * 1024  # of one chunk's fp32 logits


def reference_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None = None
) -> Tensor:
    """log p(target) with all logits at once; the truth for the two below."""
    logits_NV = F.linear(hidden_ND, weight_VD)
    if softcap is not None:
        logits_NV = torch.tanh(logits_NV / softcap) * softcap
    wide_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    return wide_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]


def token_log_probs(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float | None = None, chunk_rows: int = 0
) -> Tensor:
    """log_probs_N in fp32 (natural), differentiable in hidden and, where it trains, in the head's weight."""
    hidden_ND, weight_VD = _same_dtype(hidden_ND, weight_VD)
    rows = chunk_rows or _default_rows(weight_VD)
    out_N: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, softcap, rows
    )
    return out_N


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float | None = None, chunk_rows: int = 0
) -> Tensor:
    """Σ -log p(target), a scalar in fp32; divide by the supervised tokens of the whole batch, not of this piece."""
    hidden_ND, weight_VD = _same_dtype(hidden_ND, weight_VD)
    rows = chunk_rows or _default_rows(weight_VD)
    out: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, softcap, rows
    )
    return out


def _same_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """What autocast would do to a linear layer, and a bf16 head under an fp32 residual stream."""
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    return hidden_ND.to(dtype), weight_VD.to(dtype)


def _default_rows(weight_VD: Tensor) -> int:
    """A CPU wants a chunk that stays near its cache, a GPU rows enough to fill its multipliers."""
    chunk_bytes = CPU_CHUNK_BYTES if weight_VD.device.type == "cpu" else GPU_CHUNK_BYTES
    return max(64, min(4096, chunk_bytes // (4 * weight_VD.shape[0])))


def _chunk(
    hidden_CD: Tensor, weight_VD: Tensor, targets_C: Tensor, softcap: float | None, needs_slope: bool
) -> tuple[Tensor, Tensor | None]:
    """(log_probs_C, slope_CV). The slope, d(-log p) / d(logits before the cap) = softmax - onehot, is handed on in the
    weights' dtype. torch's softmax is one kernel, its logsumexp five; the largest share gives the same normaliser."""
    logits_CV = F.linear(hidden_CD, weight_VD)
    logits_CV = logits_CV if logits_CV.dtype == torch.float64 else logits_CV.float()
    bent_CV = None
    if softcap is not None:
        bent_CV = torch.tanh(logits_CV / softcap)
        logits_CV = bent_CV * softcap
    slope_CV = logits_CV.softmax(-1)
    normaliser_C1 = logits_CV.amax(-1, keepdim=True) - slope_CV.amax(-1, keepdim=True).log()
    log_probs_C = (logits_CV.gather(1, targets_C[:, None]) - normaliser_C1)[:, 0]
    if not needs_slope:
        return log_probs_C, None
    del logits_CV
    slope_CV.scatter_add_(1, targets_C[:, None], slope_CV.new_full((len(targets_C), 1), -1.0))
    if bent_CV is not None:
        slope_CV.mul_(1 - bent_CV.square_())
    return log_probs_C, slope_CV.to(weight_VD.dtype)


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, softcap, rows):  # type: ignore[no-untyped-def]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        outs, grads = [], []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for hidden_CD, targets_C in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True):
                log_probs_C, slope_CV = _chunk(hidden_CD, weight_VD, targets_C, softcap, needs_hidden)
                outs.append(log_probs_C)
                if slope_CV is not None:
                    grads.append(slope_CV @ weight_VD)
        per_row_ND = torch.cat(grads) if grads else None
        ctx.save_for_backward(per_row_ND, *((hidden_ND, weight_VD, targets_N) if needs_weight else (None, None, None)))
        ctx.softcap, ctx.rows = softcap, rows
        return torch.cat(outs)

    @staticmethod
    def backward(ctx, upstream_N):  # type: ignore[no-untyped-def]
        per_row_ND, hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if per_row_ND is not None:
            grad_hidden = (per_row_ND * -upstream_N[:, None]).to(per_row_ND.dtype)
        if hidden_ND is not None:
            grad_weight = weight_VD.new_zeros(weight_VD.shape, dtype=upstream_N.dtype)
            chunks = (x.split(ctx.rows) for x in (hidden_ND, targets_N, upstream_N))
            for hidden_CD, targets_C, upstream_C in zip(*chunks, strict=True):
                _, slope_CV = _chunk(hidden_CD, weight_VD, targets_C, ctx.softcap, True)
                assert slope_CV is not None, "asked for"
                grad_weight -= slope_CV.T @ (hidden_CD * upstream_C[:, None]).to(slope_CV.dtype)
            grad_weight = grad_weight.to(weight_VD.dtype)
        return grad_hidden, grad_weight, None, None, None


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, softcap, rows):  # type: ignore[no-untyped-def]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        total = hidden_ND.new_zeros((), dtype=wide)
        grad_weight = weight_VD.new_zeros(weight_VD.shape, dtype=wide) if needs_weight else None
        grads = []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for hidden_CD, targets_C in zip(hidden_ND.split(rows), targets_N.split(rows), strict=True):
                needs_slope = needs_hidden or needs_weight
                log_probs_C, slope_CV = _chunk(hidden_CD, weight_VD, targets_C, softcap, needs_slope)
                total -= log_probs_C.sum()
                if slope_CV is not None and needs_hidden:
                    grads.append(slope_CV @ weight_VD)
                if slope_CV is not None and grad_weight is not None:
                    grad_weight += slope_CV.T @ hidden_CD
        ctx.save_for_backward(torch.cat(grads) if grads else None, grad_weight)
        ctx.dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        per_row_ND, grad_weight = ctx.saved_tensors
        grad_hidden = None if per_row_ND is None else (per_row_ND * upstream).to(ctx.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * upstream).to(ctx.dtype)
        return grad_hidden, grad_weight, None, None, None
