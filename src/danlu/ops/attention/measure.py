"""How right and how fast a kernel is, on the batch at hand.

Right: its output and gradients on the batch's own shape, where the last queries of a few documents alone carry a
gradient, against softmax written out in fp32 for those queries. That needs no [T, T] scores, and it looks at documents'
ends, where a kernel with wrong bounds goes wrong first.

Shapes: T tokens of all documents, R queries looked at, L keys of their document, H query heads, K key/value heads,
D head size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.ops.attention.bounds import Bounds
from danlu.ops.attention.kernel import AnyKernel, Ask, run

NUM_TIMED = 2  # rounds; the faster counts
HEAD_START_CYCLES = 4_000_000  # about 2 ms
NUM_DOCUMENTS = 4  # looked at
SMALLEST_RATIO = 1e-6  # documents of one token have no gradient in q and k but rounding
MOST_ROWS, MOST_SCORES = 256, 2**22  # queries of a document, and their scores for one head

Inputs = tuple[Tensor, Tensor, Tensor]
"""q_THD, k_TKD, v_TKD."""


@dataclass(frozen=True, slots=True)
class Look:
    """Queries `rows` of the flat row and the keys `document` that they may see."""

    document: slice
    rows: slice


@dataclass(frozen=True, slots=True)
class Truth:
    """What a right kernel gives, in fp32: for each look out_RHD, dq_RHD, dk_LKD, dv_LKD, under `grad`."""

    looks: tuple[Look, ...]
    grad: Tensor
    parts: tuple[tuple[Tensor, ...], ...]


def truth_of(inputs: Inputs, ask: Ask) -> Truth:
    q, k, v = inputs
    looks = looks_at(ask.bounds)
    generator = torch.Generator(q.device).manual_seed(1)
    grad = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    parts = []
    for look in looks:
        grad[look.rows] = torch.randn(grad[look.rows].shape, generator=generator, device=q.device).to(q.dtype)
        exact = [x.detach().float().requires_grad_() for x in (q[look.rows], k[look.document], v[look.document])]
        with torch.enable_grad():
            out = _written_out(exact, look, ask)
        parts.append((out.detach(), *torch.autograd.grad(out, exact, grad[look.rows].float())))
    return Truth(looks, grad, tuple(parts))


def error_of(kernel: AnyKernel, inputs: Inputs, ask: Ask, truth: Truth) -> float:
    """The largest relative error (of norms) among output, dq, dk and dv; NaN where the kernel made one anywhere."""
    out, dq, dk, dv = both_ways(kernel, inputs, truth.grad, ask)
    if not all(bool(x.isfinite().all()) for x in (out, dq, dk, dv)):
        return float("nan")
    off, size = [0.0] * 4, [0.0] * 4
    for look, wanted in zip(truth.looks, truth.parts, strict=True):
        got = (out[look.rows], dq[look.rows], dk[look.document], dv[look.document])
        for index, (near, far) in enumerate(zip(got, wanted, strict=True)):
            off[index] += float((near.float() - far).square().sum())
            size[index] += float(far.square().sum())
    smallest = SMALLEST_RATIO * max(size)
    return math.sqrt(max(o / max(s, smallest) for o, s in zip(off, size, strict=True)))


def time_of(kernel: AnyKernel, inputs: Inputs, ask: Ask) -> float:
    """The device's milliseconds for one forward and backward, after the kernel has run once. The device is kept busy
    first, so that it never waits for launches: big models run behind, small ones run as graphs."""
    generator = torch.Generator(inputs[0].device).manual_seed(2)  # a training's own random numbers stay as they are
    grad = torch.randn(inputs[0].shape, dtype=inputs[0].dtype, device=inputs[0].device, generator=generator)
    times = []
    for _ in range(NUM_TIMED):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        torch.cuda._sleep(HEAD_START_CYCLES)  # type: ignore[no-untyped-call]
        begin.record()
        both_ways(kernel, inputs, grad, ask)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return float(min(times))


def both_ways(kernel: AnyKernel, inputs: Inputs, grad_THD: Tensor, ask: Ask) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, dq, dk, dv) of one forward and backward."""
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in inputs)
        out = run(kernel, q, k, v, ask)
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), grad_THD)
    return out.detach(), dq, dk, dv


def looks_at(bounds: Bounds) -> tuple[Look, ...]:
    """The longest document, the last one, and others between."""
    order = sorted((n for n in range(bounds.num_documents) if bounds.lengths[n]), key=lambda n: -bounds.lengths[n])
    chosen = {*order[:: max(1, len(order) // (NUM_DOCUMENTS - 1))][: NUM_DOCUMENTS - 1], max(order)}
    looks = []
    for n in sorted(chosen):
        start, end = bounds.cu_seqlens[n], bounds.cu_seqlens[n + 1]
        num_rows = max(1, min(MOST_ROWS, MOST_SCORES // (end - start), end - start))
        looks.append(Look(slice(start, end), slice(end - num_rows, end)))
    return tuple(looks)


def _written_out(exact: list[Tensor], look: Look, ask: Ask) -> Tensor:
    """out_RHD: the last R queries of a document over all its keys."""
    q_RHD, k_LKD, v_LKD = exact
    num_shared = q_RHD.shape[1] // k_LKD.shape[1]
    k_HLD, v_HLD = (x.repeat_interleave(num_shared, dim=1).transpose(0, 1) for x in (k_LKD, v_LKD))
    scores_HRL = q_RHD.transpose(0, 1) @ k_HLD.transpose(1, 2) * ask.scale
    if ask.softcap is not None:
        scores_HRL = torch.tanh(scores_HRL / ask.softcap) * ask.softcap
    queries_R = torch.arange(look.rows.start, look.rows.stop, device=q_RHD.device)
    behind_RL = queries_R[:, None] - torch.arange(look.document.start, look.document.stop, device=q_RHD.device)
    is_hidden_RL = behind_RL < 0 if ask.window is None else (behind_RL < 0) | (behind_RL >= ask.window)
    return (scores_HRL.masked_fill(is_hidden_RL, float("-inf")).softmax(-1) @ v_HLD).transpose(0, 1)
