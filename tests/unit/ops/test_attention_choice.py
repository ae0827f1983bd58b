"""Choosing among kernels, and the arithmetic that feeds them; all of it without a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from danlu.ops.attention import Bounds, attention_backward, attention_forward, padded_attention, reference_attention
from danlu.ops.attention.bounds import round_up_count, round_up_length
from danlu.ops.attention.choice import KERNELS, Kind, by_rule, fitting_kernels, measure
from danlu.ops.attention.cudnn import as_batch, as_row, padded_length
from danlu.ops.attention.flash import Flash, indices_fit
from danlu.ops.attention.flex import BLOCK, make_block_mask
from danlu.ops.attention.kernel import AnyKernel, Ask, Heads
from danlu.ops.attention.leading import asks_of, border, num_leading
from danlu.ops.attention.measure import Inputs, error_of, truth_of

LENGTHS = [(300, 50, 7, 411, 1), (600, 600), (1,), (5, 0, 900)]
HOPPER = Heads(torch.bfloat16, 28, 4, 128, (9, 0))


def fused(lengths: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Inputs:
    """q, k, v as slices of one row, as a model makes them."""
    generator = torch.Generator().manual_seed(sum(lengths))
    row = torch.randn(sum(lengths), 8, 16, generator=generator).to(dtype)
    return row[:, :4], row[:, 4:6], row[:, 6:]


class Padded:
    """A kernel in the contract's form; `wrong` lets documents see each other."""

    is_deterministic = True

    def __init__(self, name: str, *, wrong: bool = False, fails: bool = False) -> None:
        self.name, self.wrong, self.fails = name, wrong, fails

    def fits(self, heads: Heads, ask: Ask) -> bool:
        return True

    def run(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, ask: Ask) -> Tensor:
        if self.fails:
            raise RuntimeError("no kernel image is available\nand more")
        bounds = Bounds.of([ask.bounds.num_tokens]) if self.wrong else ask.bounds
        return padded_attention(q_THD, k_TKD, v_TKD, bounds, scale=ask.scale, window=ask.window, softcap=ask.softcap)


# ---- held to fp32


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("variant", [{}, {"window": 33}, {"softcap": 2.0}], ids=str)
def test_a_right_kernel_has_the_error_of_its_dtype(lengths: tuple[int, ...], variant: dict[str, float]) -> None:
    ask = Ask(Bounds.of(lengths), 0.25, **variant)  # type: ignore[arg-type]
    exact, rough = fused(lengths), fused(lengths, torch.bfloat16)
    assert error_of(Padded("fp32"), exact, ask, truth_of(exact, ask)) < 2e-4
    assert error_of(Padded("bf16"), rough, ask, truth_of(rough, ask)) < 0.01


@pytest.mark.parametrize("lengths", [(300, 50, 7, 411, 1), (600, 600)], ids=str)
def test_a_kernel_that_mixes_documents_is_found_out(lengths: tuple[int, ...]) -> None:
    ask, inputs = Ask(Bounds.of(lengths), 0.25), fused(lengths)
    assert error_of(Padded("leaks", wrong=True), inputs, ask, truth_of(inputs, ask)) > 0.1


def test_the_fastest_of_the_right_kernels_is_chosen_and_the_others_are_told() -> None:
    lengths = (300, 50, 7, 411, 1)
    ask, inputs = Ask(Bounds.of(lengths), 0.25), fused(lengths)
    kernels: list[AnyKernel] = [
        Padded("slow"), Padded("quick"), Padded("quick but wrong", wrong=True), Padded("broken", fails=True),
    ]  # fmt: skip
    times = {"slow": 2.0, "quick": 1.0}
    kind = Kind.of(Heads.of(*inputs[:2]), ask)
    choice = measure(kind, kernels, inputs, ask, clock=lambda kernel, inputs, ask: times[kernel.name])
    assert choice.name == "quick" and choice.times_ms == times
    assert choice.excluded["quick but wrong"].startswith("error ")
    assert choice.excluded["broken"] == "RuntimeError: no kernel image is available"


def test_where_nothing_works_documents_are_padded() -> None:
    lengths = (30, 5)
    ask, inputs = Ask(Bounds.of(lengths), 0.25), fused(lengths)
    choice = measure(Kind.of(HOPPER, ask), [Padded("broken", fails=True)], inputs, ask)
    assert choice.kernel is None and choice.name == "padded"


# ---- by hand, for blocks


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_forward_and_backward_apart_equal_autograd(lengths: tuple[int, ...]) -> None:
    bounds = Bounds.of(lengths)
    q, k, v = (x.double().requires_grad_() for x in fused(lengths))
    truth = reference_attention(q, k, v, bounds, scale=0.25)
    grad = torch.randn_like(truth)
    expected = torch.autograd.grad(truth, (q, k, v), grad)
    with torch.no_grad():
        attended = attention_forward(q, k, v, bounds, scale=0.25)
        got = attention_backward(grad, q, k, v, attended)
    torch.testing.assert_close(attended.out_THD, truth.detach(), rtol=1e-10, atol=1e-10)
    assert not attended.out_THD.requires_grad
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# ---- rules


@pytest.mark.parametrize(
    ("heads", "lengths", "wanted"),
    [
        (HOPPER, [2048] * 8, "cuDNN"),
        (HOPPER, [2048, 100], "varlen FA2"),
        (Heads(torch.bfloat16, 28, 4, 128, (8, 0)), [2048] * 8, "varlen FA2"),  # cuDNN is slower on Ampere
        (Heads(torch.bfloat16, 28, 4, 128, (12, 0)), [2048] * 8, "varlen FA2"),
        (Heads(torch.float16, 28, 4, 128, (7, 5)), [2048] * 8, "varlen memory-efficient"),
        (Heads(torch.float32, 28, 4, 128, (9, 0)), [2048] * 8, "varlen memory-efficient"),
        (Heads(torch.bfloat16, 28, 4, 300, (9, 0)), [2048] * 8, None),
    ],
    ids=str,
)
def test_rule_of_thumb(heads: Heads, lengths: list[int], wanted: str | None) -> None:
    ask = Ask(Bounds.of(lengths), 0.1)
    kernel = by_rule(fitting_kernels(heads, ask), heads)
    assert (kernel.name if kernel else None) == wanted


def test_softcap_is_for_kernels_that_know_it() -> None:
    """Gemma 2 on a flash kernel without softcap would train another model."""
    assert fitting_kernels(HOPPER, Ask(Bounds.of([2048] * 8), 0.1, softcap=50.0)) == []


def test_fa2_is_not_asked_beyond_32_bit_indices() -> None:
    """Its backward's padded accumulator is indexed in 32 bits: a million tokens of short documents wrote elsewhere."""
    assert indices_fit(Bounds.of([2048] * 8), 28, 128)
    many = Bounds.of([64] * 8192)
    assert not indices_fit(many, 32, 128)
    assert not Flash().fits(HOPPER, Ask(many, 0.1))


def test_deterministic_kernels_are_known() -> None:
    assert [kernel.name for kernel in KERNELS if kernel.is_deterministic] == ["varlen FA2"]


def test_kinds_do_not_multiply() -> None:
    """A training of mixed batches is measured once or twice, not per batch."""
    generator = torch.Generator().manual_seed(0)
    kinds = set()
    for _ in range(50):
        lengths = torch.empty(80).log_normal_(5.0, 0.7, generator=generator).clamp(16, 1024).int().tolist()
        kinds.add(Kind.of(HOPPER, Ask(Bounds.of(lengths), 0.1)))
    assert len(kinds) <= 2


# ---- equal documents as a batch


@pytest.mark.parametrize("lengths", [(128,) * 3, (100,) * 3, (1500,), (1,)], ids=str)
def test_padded_batches_give_rows_back(lengths: tuple[int, ...]) -> None:
    bounds = Bounds.of(lengths)
    row = torch.randn(sum(lengths), 6, 4)[:, 1:3]
    batch = as_batch(row, bounds)
    assert batch.shape == (len(lengths), 2, padded_length(lengths[0]), 4)
    assert torch.equal(as_row(batch, bounds), row)
    assert not batch[:, :, lengths[0] :].any()
    assert (batch.data_ptr() == row.data_ptr()) == (lengths[0] % 128 == 0), "whole lengths are views"


@given(length=st.integers(1, 200_000))
def test_padded_lengths_are_few_and_near(length: int) -> None:
    padded = padded_length(length)
    assert length <= padded < length + max(128, length / 4) and padded_length(padded) == padded


@pytest.mark.parametrize("length", [128, 256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 131_072])
def test_lengths_people_choose_are_not_padded(length: int) -> None:
    assert padded_length(length) == length


# ---- bounds in buckets


@given(count=st.integers(1, 5000))
def test_count_buckets(count: int) -> None:
    bucket = round_up_count(count)
    assert count <= bucket <= max(1.5 * count, 1) and round_up_count(bucket) == bucket


@given(length=st.integers(0, 200_000))
def test_length_buckets(length: int) -> None:
    bucket = round_up_length(length)
    assert length <= bucket < max(2 * length, 129) and bucket & (bucket - 1) == 0


def test_standing_bounds_are_read_on_the_device_alone() -> None:
    """A recorded graph replays other documents: nothing may be taken from those it was recorded with."""
    bounds = Bounds.of([4, 4])
    cu = torch.tensor([0, 4, 8, 8], dtype=torch.int32)
    standing = bounds.standing(cu, 4)
    assert standing.is_standing and standing.num_documents == 3 and not bounds.is_standing
    assert standing.tensor(torch.device("cpu")) is cu
    ask = Ask(bounds.standing(torch.tensor([0, 4, 8], dtype=torch.int32), 4), 0.1)
    assert ask.bounds.is_even and "cuDNN" not in [kernel.name for kernel in fitting_kernels(HOPPER, ask)]


def test_what_layers_share_is_made_once() -> None:
    bounds, made = Bounds.of([3, 4]), []
    for _ in range(3):
        bounds.derived(("x",), torch.device("cpu"), lambda: made.append(1))
    assert made == [1]


@pytest.mark.parametrize(("lengths", "count"), [((7, 7, 7, 3, 1), 3), ((7, 7), 2), ((3, 7), 0), ((7, 3, 7), 1)])
def test_equal_documents_that_lead_are_a_dense_batch(lengths: tuple[int, ...], count: int) -> None:
    ask = Ask(Bounds.of(lengths), 0.1)
    assert num_leading(ask.bounds) == count and border(ask) == 7 * count
    if 0 < count < len(lengths):
        equal, rest = asks_of(ask)
        assert equal.bounds.is_even and equal.bounds.lengths + rest.bounds.lengths == lengths


# ---- the block mask


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(0, 300), min_size=1, max_size=6), window=st.none() | st.integers(1, 400))
def test_block_mask_equals_the_written_out_mask(lengths: list[int], window: int | None) -> None:
    lengths = [*lengths, -sum(lengths) % BLOCK]
    if not sum(lengths):
        return
    bounds = Bounds.of(lengths)
    mask = make_block_mask(bounds, window, torch.device("cpu"))
    document_T = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    behind = torch.arange(bounds.num_tokens)[:, None] - torch.arange(bounds.num_tokens)
    seen = (behind >= 0) & (document_T[:, None] == document_T)
    seen &= behind < window if window is not None else seen
    B = bounds.num_tokens // BLOCK
    count = seen.view(B, BLOCK, B, BLOCK).sum((1, 3))
    partly, fully = torch.zeros(B, B, dtype=torch.bool), torch.zeros(B, B, dtype=torch.bool)
    for row in range(B):
        partly[row, mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].long()] = True
        fully[row, mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].long()] = True
    assert torch.equal(fully, count == BLOCK * BLOCK)
    assert not (partly & fully).any() and not ((count > 0) & ~partly & ~fully).any()
    q, k = torch.meshgrid(torch.arange(bounds.num_tokens), torch.arange(bounds.num_tokens), indexing="ij")
    zero = torch.tensor(0)
    assert torch.equal(mask.mask_mod(zero, zero, q, k), seen)
