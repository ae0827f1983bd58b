"""The pieces of parity: units in the last place, dither, distances, and the weight-by-weight comparison."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from danlu.adapters.peft_format import Pair
from danlu.exports.deltas import compare_delta
from danlu.exports.parity import (
    Check,
    Difference,
    Record,
    difference,
    dithered,
    judge_logits,
    lead_at_parting,
    limits_of,
    sum_up,
    ulp,
)
from danlu.exports.proof import bounded


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_unit_in_the_last_place_is_the_distance_to_the_next_number(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 1.5, 2.0, -3.0, 0.01, 100.0]).to(dtype)
    up = torch.nextafter(values.abs(), torch.tensor(float("inf"), dtype=dtype))
    assert torch.equal(ulp(values.float(), dtype), (up.float() - values.abs().float()))
    assert float(ulp(torch.zeros(1), dtype)) > 0


def test_dither_stays_within_half_a_unit_and_is_undone_to_the_bit() -> None:
    weight = nn.Parameter(torch.randn(50, 50))
    before = weight.detach().clone()
    with dithered([weight], torch.bfloat16, seed=1):
        moved = (weight - before).abs()
        assert bool((moved <= 0.5001 * ulp(before, torch.bfloat16)).all()) and bool((moved > 0).float().mean() > 0.99)
    assert torch.equal(weight, before)


def test_distances_see_what_a_constant_does_not_change() -> None:
    logits = torch.randn(5, 30)
    assert difference(logits, logits + 3.0).max_abs < 1e-6
    other = logits.clone()
    other[2, 7] += 0.1
    found = difference(logits, other)
    assert found.max_abs > 0.05 and 0 < found.mean_kl <= found.max_kl and found.num_positions == 5
    broken = logits.clone()
    broken[0, 0] = float("nan")
    assert difference(logits, broken).max_abs == float("inf") == difference(logits, logits[:4]).mean_kl


def test_kl_is_the_textbook_s() -> None:
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.4, 0.2]])
    expected = float((p * (p / q).log()).sum())
    assert difference(p.log(), q.log()).mean_kl == pytest.approx(expected, rel=1e-5)


def test_where_answers_part_the_reference_s_lead_counts() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0, 0.0], [0.0, 1.0, 3.0, 2.5], [5.0, 0.0, 0.0, 0.0]])
    told = Record((3,), (1, 2, 0), logits)
    assert lead_at_parting(told, [1, 3, 0]) == pytest.approx(0.5)
    assert lead_at_parting(told, [1, 2]) == float("inf"), "another stop is no noise"


def test_limits_grow_with_the_floor_and_never_reach_zero() -> None:
    assert limits_of(Difference(), 3.0)["mean_kl"] > 0
    floor = Difference(max_abs=1.0, mean_abs=0.5, mean_kl=0.1)
    assert limits_of(floor, 3.0) == pytest.approx({"max_abs": 3.0, "mean_abs": 1.5, "mean_kl": 0.9})


def test_a_check_that_was_not_run_is_no_pass() -> None:
    good, bad, idle = (Check("a", verdict) for verdict in ("pass", "fail", "not run"))
    assert sum_up([good])["verdict"] == "pass" and sum_up([good, idle])["verdict"] == "incomplete"
    assert sum_up([good, idle, bad])["verdict"] == "fail"


def random_pair(seed: int, size: float) -> tuple[torch.Tensor, Pair]:
    generator = torch.Generator().manual_seed(seed)
    base = (0.05 * torch.randn(24, 16, generator=generator)).bfloat16()
    A, B = torch.randn(4, 16, generator=generator), size * torch.randn(24, 4, generator=generator)
    return base, Pair(A, B, 2.0)


@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-5, 1e-3, 0.05, 1.0]),
    st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
@settings(max_examples=60)
def test_a_right_merge_is_never_called_wrong(seed: int, size: float, dtype: torch.dtype) -> None:
    base, pair = random_pair(seed, size)
    merged = (base.double() + 2.0 * (pair.B.double() @ pair.A.double())).to(
        dtype
    )  # another order and precision of sums
    delta = compare_delta("q", base, merged, pair)
    assert delta.num_wrong == 0 and delta.excess == 0.0


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.01, 2.0]))
@settings(max_examples=60)
def test_a_wrong_scale_is_always_seen_where_files_can_show_it(seed: int, factor: float) -> None:
    base, pair = random_pair(seed, 0.05)
    right, wrong = ((base.float() + scale * 2.0 * (pair.B @ pair.A)).bfloat16() for scale in (1.0, factor))
    delta = compare_delta("q", base, wrong, pair)
    assert not torch.equal(right, wrong) and delta.num_wrong > 0 and delta.excess > 0
    assert delta.kept_ratio == pytest.approx(factor, abs=0.02)


def test_an_update_below_the_files_precision_is_reported_as_lost() -> None:
    _, pair = random_pair(0, 1e-7)
    base = torch.full((24, 16), 0.05).bfloat16()
    delta = compare_delta("q", base, base.clone(), pair)
    assert delta.num_wrong == 0 and delta.kept_ratio == 0.0, "rounded rightly, and nothing of it is left"


def test_a_number_lost_in_merging_is_wrong() -> None:
    base, pair = random_pair(0, 0.05)
    merged = (base.float() + 2.0 * (pair.B @ pair.A)).bfloat16()
    merged[3, 3] = float("nan")
    assert compare_delta("q", base, merged, pair).num_wrong == 1


def test_what_passes_in_too_much_noise_is_not_proven() -> None:
    floor = Difference(num_positions=4, max_abs=2.0, mean_abs=1.0, mean_kl=0.5)
    check = judge_logits("x_logits", floor, floor, 3.0)
    assert check.verdict == "pass" and bounded(check, floor).verdict == "not run"
    quiet = Difference(num_positions=4, max_abs=1e-5, mean_abs=1e-6, mean_kl=1e-12)
    assert bounded(judge_logits("x_logits", quiet, quiet, 3.0), quiet).verdict == "pass"
    assert bounded(judge_logits("x_logits", floor, quiet, 3.0), quiet).verdict == "fail"


@given(st.integers(0, 10_000), st.integers(1, 29))
@settings(max_examples=40)
def test_what_a_program_does_not_tell_is_left_out_and_counted_as_one_token(seed: int, num_told: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.randn(6, 30, generator=generator) for _ in range(2))
    log_probs = theirs.log_softmax(-1)
    least = log_probs.topk(num_told, dim=-1).values[:, -1:]
    partial = log_probs.masked_fill(log_probs < least, float("nan"))
    whole, part = difference(ours, theirs), difference(ours, partial, is_partial=True)
    assert 0 <= part.mean_kl <= whole.mean_kl + 1e-5, "tokens taken together differ less"
    assert part.num_flips == whole.num_flips and part.max_abs <= whole.max_abs + 1e-6
    assert difference(ours, partial[-2:], is_partial=True).num_positions == 2
    assert difference(ours, partial).max_abs == float("inf"), "a program that tells everything may lose nothing"
    nothing = torch.full((6, 30), float("nan"))
    assert difference(ours, nothing, is_partial=True).max_abs == float("inf")
