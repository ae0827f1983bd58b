"""The head and its loss in one: linear layer, log-softmax and pick, a few rows at a time, so that the [N, V] logits
of a big vocabulary never exist as a whole. Give it supervised positions only: gather the rows before, not after.

Logits are made in the weights' dtype and softmax statistics in fp32. The gradient with respect to hidden is
made in the forward, while the logits are at hand: d log p(y) / d hidden = W[y] - softmax · W, one row per token, which
the backward only scales. A trainable head of the summed loss gets its gradient the same way; of the
per-token kind it recomputes logits, because each row's upstream factor is known only then.

On a GPU one kernel reads a chunk of logits twice and leaves their gradient in their place: the normaliser is summed
while the maximum is still being looked for (Milakov & Gimelshein 2018, arXiv:1805.02867), and no fp32 copy exists.

Rows whose target is negative are padding: log-probability 0, no gradient.

Shapes: N supervised tokens, C rows of a chunk, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from danlu.ops.kernels import fits, jit, tl
from danlu.ops.low_rank import add_product_

CPU_CHUNK_BYTES = 8 * 1024 * 1024  # of one chunk's fp32 logits: near the cache
GPU_CHUNK_BYTES = 1024 * 1024 * 1024  # of one chunk's logits in the weights' dtype: rows enough for the multipliers
MOST_ROWS, ROW_STEP = 4096, 128
BLOCK_COLUMNS, NUM_WARPS, NUM_STAGES = 8192, 16, 1
"""Of the kernel: two rows at a time on each multiprocessor, so that its second reading finds some in the cache. Stages
beyond the first are blocks on their way while one is computed."""


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
    """log_probs_N in fp32 (natural), differentiable once in hidden and, where it trains, in the head's weight."""
    hidden_ND, weight_VD = _same_dtype(hidden_ND, weight_VD)
    rows = chunk_rows or _default_rows(len(hidden_ND), weight_VD)
    out_N: Tensor = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, softcap, rows
    )
    return out_N


def linear_cross_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, *, softcap: float | None = None, chunk_rows: int = 0
) -> Tensor:
    """Σ -log p(target), a scalar in fp32, differentiable once; divide by the supervised tokens of the whole batch, not
    of this piece. `chunk_rows` are computed at once, 0 chooses; `rows_per_chunk` knows how many a budget allows."""
    hidden_ND, weight_VD = _same_dtype(hidden_ND, weight_VD)
    rows = chunk_rows or _default_rows(len(hidden_ND), weight_VD)
    out: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, targets_N, softcap, rows
    )
    return out


def rows_per_chunk(num_rows: int, num_columns: int, itemsize: int, chunk_bytes: int = GPU_CHUNK_BYTES) -> int:
    """On a GPU: as few chunks as `chunk_bytes` of logits allow, all of nearly one size, in whole tiles of a product."""
    most = min(MOST_ROWS, chunk_bytes // (itemsize * num_columns))
    most = max(ROW_STEP, most // ROW_STEP * ROW_STEP)
    num_chunks = max(1, -(-num_rows // most))
    return -(-num_rows // (num_chunks * ROW_STEP)) * ROW_STEP or ROW_STEP


def _same_dtype(hidden_ND: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    """What autocast would do to a linear layer, and a bf16 head under an fp32 residual stream."""
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    return hidden_ND.to(dtype), weight_VD.to(dtype)


def _default_rows(num_rows: int, weight_VD: Tensor) -> int:
    if weight_VD.device.type == "cpu":
        return max(64, min(4096, CPU_CHUNK_BYTES // (4 * weight_VD.shape[0])))
    return rows_per_chunk(num_rows, weight_VD.shape[0], weight_VD.element_size())


def _chunks(
    hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None, rows: int, needs_slope: bool
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, log_probs_C, slope_CV) of each chunk. The slope, d(-log p) / d(logits before the cap) = softmax - onehot,
    in the weights' dtype, is there where it was asked for, and holds until the next chunk is taken."""
    num_columns, room_CV = len(weight_VD), None
    if fits(hidden_ND, weight_VD, targets_N) and weight_VD.dtype != torch.float64:
        width = -(-num_columns // 64) * 64  # whatever the vocabulary, rows begin where a product wants them
        room_CV = weight_VD.new_empty(min(rows, len(hidden_ND)), width)[:, :num_columns]
    for start in range(0, len(hidden_ND), rows):
        span = slice(start, min(start + rows, len(hidden_ND)))
        if room_CV is None:
            logits_CV = F.linear(hidden_ND[span], weight_VD)
            yield span, *_chunk(logits_CV, targets_N[span], softcap, needs_slope)
        else:
            logits_CV = torch.mm(hidden_ND[span], weight_VD.T, out=room_CV[: span.stop - start])
            yield span, *chunk_in_place(logits_CV, targets_N[span], softcap, needs_slope)


def _chunk(logits_CV: Tensor, targets_C: Tensor, softcap: float | None, needs_slope: bool) -> tuple[Tensor, Tensor]:
    """(log_probs_C, slope_CV) in torch's own operations. Its softmax is one kernel, its logsumexp five; the largest
    share gives the same normaliser."""
    dtype = logits_CV.dtype
    logits_CV = logits_CV if dtype == torch.float64 else logits_CV.float()
    bent_CV = None
    if softcap is not None:
        bent_CV = torch.tanh(logits_CV / softcap)
        logits_CV = bent_CV * softcap
    slope_CV = logits_CV.softmax(-1)
    normaliser_C1 = logits_CV.amax(-1, keepdim=True) - slope_CV.amax(-1, keepdim=True).log()
    picked_C1 = targets_C.clamp(min=0)[:, None]
    is_padding_C = targets_C < 0
    log_probs_C = (logits_CV.gather(1, picked_C1) - normaliser_C1)[:, 0].masked_fill_(is_padding_C, 0)
    if not needs_slope:
        return log_probs_C, slope_CV
    del logits_CV
    slope_CV.scatter_add_(1, picked_C1, slope_CV.new_full((len(targets_C), 1), -1.0))
    if bent_CV is not None:
        slope_CV.mul_(1 - bent_CV.square_())
    if bool(is_padding_C.any()):
        slope_CV.masked_fill_(is_padding_C[:, None], 0)
    return log_probs_C, slope_CV.to(dtype)


def chunk_in_place(
    logits_CV: Tensor, targets_C: Tensor, softcap: float | None, needs_slope: bool
) -> tuple[Tensor, Tensor]:
    """The same by the kernel: afterwards the slope lies where the logits did. Rows may lie apart."""
    num_rows, num_columns = logits_CV.shape
    assert logits_CV.stride(1) == 1, "a row's logits lie side by side"
    log_probs_C = torch.empty(num_rows, dtype=torch.float32, device=logits_CV.device)
    _loss_kernel[(num_rows,)](
        logits_CV, targets_C, log_probs_C, num_columns, logits_CV.stride(0), softcap or 1.0,
        HAS_CAP=softcap is not None, NEEDS_SLOPE=needs_slope, BLOCK=BLOCK_COLUMNS, STAGES=NUM_STAGES,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    return log_probs_C, logits_CV


@jit
def _bent(x, softcap):  # type: ignore[no-untyped-def]
    """tanh(x / softcap), which the language does not have; its absolute error is below 2e-7."""
    return 1 - 2 / (tl.exp(2 * x / softcap) + 1)


@jit
def _loss_kernel(  # type: ignore[no-untyped-def]
    logits, targets, log_probs, num_columns, row_stride, softcap,
    HAS_CAP: tl.constexpr, NEEDS_SLOPE: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One row each."""
    row = tl.program_id(0).to(tl.int64)
    line = logits + row * row_stride
    target = tl.load(targets + row)
    # Read by every thread before the first barrier below: later one of them overwrites it.
    aim = tl.load(line + tl.maximum(target, 0)).to(tl.float32)
    if HAS_CAP:
        aim = softcap * _bent(aim, softcap)
    lanes = tl.arange(0, BLOCK)
    largest = -float("inf")
    shares_B = tl.zeros([BLOCK], tl.float32)  # Σ exp(x - largest) of each lane
    for start in tl.range(0, num_columns, BLOCK, num_stages=STAGES):
        columns = start + lanes
        x = tl.load(line + columns, mask=columns < num_columns, other=-float("inf")).to(tl.float32)
        if HAS_CAP:
            x = tl.where(columns < num_columns, softcap * _bent(x, softcap), -float("inf"))
        larger = tl.maximum(largest, tl.max(x, 0))
        shares_B = shares_B * tl.exp(largest - larger) + tl.exp(x - larger)
        largest = larger
    normaliser = largest + tl.log(tl.sum(shares_B, 0))
    tl.store(log_probs + row, tl.where(target < 0, 0.0, aim - normaliser))
    if NEEDS_SLOPE:
        num_blocks = tl.cdiv(num_columns, BLOCK)
        for index in tl.range(num_blocks, num_stages=STAGES):
            columns = (num_blocks - 1 - index) * BLOCK + lanes  # backwards: what was read last is still in the cache
            x = tl.load(line + columns, mask=columns < num_columns, other=-float("inf")).to(tl.float32)
            bend = 1.0
            if HAS_CAP:
                bent = _bent(x, softcap)
                x, bend = softcap * bent, 1 - bent * bent
            slope = bend * (tl.exp(x - normaliser) - tl.where(columns == target, 1.0, 0.0))
            slope = tl.where(target < 0, 0.0, slope)
            tl.store(line + columns, slope.to(logits.dtype.element_ty), mask=columns < num_columns)


def _add_product(grad_VD: Tensor, slope_CV: Tensor, hidden_CD: Tensor) -> None:
    """A head's share of its gradient from one chunk."""
    if grad_VD.is_cuda:
        add_product_(grad_VD, slope_CV, hidden_CD)
    else:
        grad_VD += slope_CV.T @ hidden_CD


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, softcap, rows):  # type: ignore[no-untyped-def]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        out_N = hidden_ND.new_empty(len(hidden_ND), dtype=wide)
        ctx.per_row_ND = hidden_ND.new_empty(hidden_ND.shape) if needs_hidden else None
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for span, log_probs_C, slope_CV in _chunks(hidden_ND, weight_VD, targets_N, softcap, rows, needs_hidden):
                out_N[span] = log_probs_C
                if needs_hidden:
                    torch.mm(slope_CV, weight_VD, out=ctx.per_row_ND[span])
        ctx.save_for_backward(*((hidden_ND, weight_VD, targets_N) if needs_weight else (None, None, None)))
        ctx.softcap, ctx.rows, ctx.is_spent = softcap, rows, False
        return out_N

    @staticmethod
    def backward(ctx, upstream_N):  # type: ignore[no-untyped-def]
        assert not ctx.is_spent, "the gradient was handed on in place, once"
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        grad_hidden, ctx.per_row_ND, ctx.is_spent = ctx.per_row_ND, None, True
        grad_weight = None
        if grad_hidden is not None:
            grad_hidden.mul_(-upstream_N[:, None])
        if hidden_ND is not None:
            grad_weight = weight_VD.new_zeros(weight_VD.shape, dtype=upstream_N.dtype)
            for span, _, slope_CV in _chunks(hidden_ND, weight_VD, targets_N, ctx.softcap, ctx.rows, True):
                _add_product(grad_weight, slope_CV, (hidden_ND[span] * -upstream_N[span, None]).to(slope_CV.dtype))
            grad_weight = grad_weight.to(weight_VD.dtype)
        return grad_hidden, grad_weight, None, None, None


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, softcap, rows):  # type: ignore[no-untyped-def]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        wide = torch.float64 if hidden_ND.dtype == torch.float64 else torch.float32
        total = hidden_ND.new_zeros((), dtype=wide)
        ctx.per_row_ND = hidden_ND.new_empty(hidden_ND.shape) if needs_hidden else None
        ctx.grad_weight = weight_VD.new_zeros(weight_VD.shape, dtype=wide) if needs_weight else None
        needs_slope = needs_hidden or needs_weight
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for span, log_probs_C, slope_CV in _chunks(hidden_ND, weight_VD, targets_N, softcap, rows, needs_slope):
                total -= log_probs_C.sum()
                if needs_hidden:
                    torch.mm(slope_CV, weight_VD, out=ctx.per_row_ND[span])
                if needs_weight:
                    _add_product(ctx.grad_weight, slope_CV, hidden_ND[span])
        ctx.dtype, ctx.is_spent = weight_VD.dtype, False
        return total

    @staticmethod
    def backward(ctx, upstream):  # type: ignore[no-untyped-def]
        assert not ctx.is_spent, "the gradient was handed on in place, once"
        grad_hidden, grad_weight = ctx.per_row_ND, ctx.grad_weight
        ctx.per_row_ND, ctx.grad_weight, ctx.is_spent = None, None, True
        if grad_hidden is not None:
            grad_hidden.mul_(upstream)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(upstream).to(ctx.dtype)
        return grad_hidden, grad_weight, None, None, None
