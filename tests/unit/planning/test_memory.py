"""Peak memory: known answers for one shape, and what must hold for any."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_kit import any_work, work_on

from danlu.ops import cross_entropy
from danlu.planning import rates
from danlu.planning.memory import (
    chunk_rows,
    is_recorded,
    kept_bytes,
    moved_bytes,
    predict_memory,
    standing_bytes,
    weight_bytes,
)
from danlu.planning.policy import ORDER, Mix, Policy, is_host, is_split, kept
from danlu.planning.work import Work
from danlu.training import ferry
from danlu.training.blocks import trunk
from danlu.training.blocks.policy import Policy as BlockPolicy

G = 2**30


def full(work: Work, policy: Policy = "all") -> Mix:
    return Mix.of(policy, work.shapes.num_layers)


def test_what_qwen_7b_keeps_of_a_token() -> None:
    """By hand, 16-bit: input and the stream after attention 2 x 3584, q|k|v 4608, attention's output 3584, gate|up
    2 x 18944; of the low-rank columns 64 beside each of the four products and once more in gate|up's buffer; fp32
    statistics of 28 heads and one norm."""
    work = work_on()
    everything = 2 * (2 * 3584 + 4608 + 3584 + 2 * 18_944) + 2 * 5 * 64 + 4 * 29
    assert kept_bytes(work, "all") == everything
    assert kept_bytes(work, "light") == everything - 2 * (2 * 18_944 + 2 * 64)
    assert kept_bytes(work, "input") == 2 * 3584 + 2 * 64


def test_adapters_cost_sixteen_bytes_a_parameter() -> None:
    _, masters, gradients, states = standing_bytes(work_on())
    assert masters + gradients + states == 16 * 40_370_176


@pytest.mark.parametrize(
    ("changes", "per_param"),
    [
        ({"has_masters": True}, 2 + 4 + 4 + 8),
        ({"has_masters": True, "has_8bit_states": True}, 2 + 4 + 4 + 2 * (1 + 4 / 256)),
        ({"has_masters": False}, 2 + 2 + 8),
        ({"has_masters": False, "has_8bit_states": True}, 2 + 2 + 2 * (1 + 4 / 256)),
    ],
)
def test_full_fine_tuning_by_the_book(changes: dict[str, bool], per_param: float) -> None:
    work = work_on(is_full=True, rank=0, **changes)
    assert sum(standing_bytes(work)) == pytest.approx(per_param * 7_615_616_512, rel=1e-6)


def test_an_update_in_the_backward_keeps_no_gradients() -> None:
    """But where a step has several pieces, whose gradients are added up."""
    work = work_on(is_full=True, rank=0, has_masters=False)
    lean = replace(work, frees_gradients=True)
    assert standing_bytes(lean)[2] < 0.1 * standing_bytes(work)[2]
    pieces = replace(lean, micro_tokens=4096)
    assert standing_bytes(pieces)[2] == standing_bytes(work)[2] and not pieces.updates_in_backward


@pytest.mark.parametrize(
    ("changes", "here", "away"),
    [
        ({"offload": "all"}, 2 + 2, 4 + 8),
        ({"offload": "all", "has_8bit_states": True}, 2 + 2, 4 + 2 * (1 + 4 / 256)),
        ({"offload": "masters", "has_8bit_states": True}, 2 + 2 + 2 * (1 + 4 / 256), 4),
        ({"offload": "all", "has_masters": False}, 2 + 2, 8),
        ({"offload": "masters", "precision": "32"}, 4 + 4 + 8, 0),
    ],
)
def test_offloaded_states_by_the_book(changes: dict[str, Any], here: float, away: float) -> None:
    """Bytes a weight on the card and in the machine's memory; on the card also three chunks that visit it."""
    work, num_params = work_on(is_full=True, rank=0, **changes), 7_615_616_512
    berths = rates.FERRY_BERTHS * rates.FERRY_CHUNK * away
    assert sum(standing_bytes(work)) == pytest.approx(here * num_params + berths, rel=1e-6)
    found = predict_memory(work, full(work))
    assert found.host_states_bytes == found.host_bytes == pytest.approx(away * num_params, rel=1e-6)


def test_chunks_are_counted_as_they_are_fetched() -> None:
    assert (rates.FERRY_CHUNK, rates.FERRY_BERTHS) == (ferry.CHUNK, ferry.NUM_BERTHS)


@pytest.mark.parametrize(
    ("precision", "gib"), [("16", 14.45), ("fp8", 14.4), ("nf4", 5.6), ("int8", 8.6), ("32", 28.9)]
)
def test_weights_by_precision(precision: str, gib: float) -> None:
    assert weight_bytes(work_on(precision=precision)) / G == pytest.approx(gib, rel=0.02)


def test_nf4_takes_0_516_bytes_a_weight() -> None:
    assert pytest.approx(0.516, abs=5e-4) == rates.NF4_BYTES


def test_lora_on_7b_at_2k_by_policy() -> None:
    """All saves about 2.99 MB a token and layer-sum; lean modes must stay under the peers' 20 GiB."""
    work = work_on()
    peak = {policy: predict_memory(work, full(work, policy)).total_bytes / G for policy in ORDER}
    assert 60 < peak["all"] < 68 and 29 < peak["light"] < 34 and 20 < peak["input"] < 23 and peak["input-host"] < 19.5


def test_only_supervised_rows_go_through_the_last_ffn() -> None:
    work = work_on()
    some = replace(work, supervised_ratio=0.25)
    saving = 0.75 * 16_384 * (kept_bytes(work, "all") - kept_bytes(work, "light"))
    found = predict_memory(work, full(work)).saved_bytes - predict_memory(some, full(some)).saved_bytes
    assert found == pytest.approx(saving, rel=0.25)


def test_dropout_and_full_train_written_out() -> None:
    for work in (work_on(has_dropout=True), work_on(is_full=True, rank=0)):
        shapes = work.shapes
        assert kept_bytes(work, "all") == 2 * (17 * shapes.hidden + 4 * shapes.ffn)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 4000, 16_384, 33_333])
@pytest.mark.parametrize("vocab_of", ["qwen2.5-7b", "llama-2-7b", "gemma-2-2b"])
def test_chunks_of_logits_are_those_of_the_loss(rows: int, vocab_of: str) -> None:
    work = work_on(vocab_of, micro_tokens=rows, context=rows)
    expected = min(rows, cross_entropy.rows_per_chunk(rows, work.shapes.vocab, 2))
    assert chunk_rows(work, "cuda") == expected
    frugal = min(rows, cross_entropy.rows_per_chunk(rows, work.shapes.vocab, 2, trunk.FRUGAL_LOGITS_BYTES))
    assert chunk_rows(work, "cuda", is_short=True) == frugal


def where(policy: Policy) -> str:
    return "split" if is_split(policy) else "host" if is_host(policy) else "device"


def test_the_planner_and_the_blocks_speak_of_the_same_things() -> None:
    blocks = [BlockPolicy.parse(name) for name in ORDER]
    assert len(set(blocks)) == len(ORDER) and [block.kept for block in blocks] == [kept(name) for name in ORDER]
    assert [block.where for block in blocks] == [where(name) for name in ORDER]


@given(work=any_work(), times=st.integers(2, 4))
@settings(max_examples=60)
def test_more_tokens_or_a_higher_rank_never_need_less(work: Work, times: int) -> None:
    """Whole multiples: chunks of logits are of equal size, so that a few rows more may make them smaller. Like with
    like: a larger micro-batch is not recorded as a graph any more, and spares what recording takes."""
    for policy in ("all", "light", "input"):
        now = predict_memory(work, full(work, policy)).total_bytes
        longer = replace(work, micro_tokens=times * work.micro_tokens)
        if is_recorded(longer, full(work, policy)) == is_recorded(work, full(work, policy)):
            assert predict_memory(longer, full(work, policy)).total_bytes > now
        higher = replace(work, rank=times * work.rank)
        assert predict_memory(higher, full(work, policy)).total_bytes > now


@given(work=any_work())
@settings(max_examples=60)
def test_leaner_policies_need_less(work: Work) -> None:
    peaks = [predict_memory(work, full(work, policy)).total_bytes for policy in ("all", "light", "input", "input-host")]
    assert peaks == sorted(peaks, reverse=True) and peaks[0] > peaks[1] > peaks[2]
    hosts = [predict_memory(work, full(work, policy)).host_bytes for policy in ("input-host", "light-host", "all-host")]
    assert 0 < hosts[0] < hosts[1] < hosts[2]


@given(work=any_work())
@settings(max_examples=60)
def test_split_layers_lend_as_much_as_light_ones_and_keep_gate_and_up(work: Work) -> None:
    found = {policy: predict_memory(work, full(work, policy)) for policy in ("all", "all-split", "light-host")}
    assert found["all-split"].host_bytes == found["light-host"].host_bytes > 0
    assert found["light-host"].total_bytes < found["all-split"].total_bytes < found["all"].total_bytes
    moved = moved_bytes(work, "all-split")
    assert moved + kept_bytes(work, "all") - kept_bytes(work, "light") <= kept_bytes(work, "all")


@given(work=any_work(), data=st.data())
@settings(max_examples=60)
def test_each_layer_that_gives_something_up_helps(work: Work, data: st.DataObject) -> None:
    start, end = data.draw(st.sampled_from([("all", "light"), ("light", "input"), ("all-split", "light-host")]))
    mix = full(work, start)
    peaks = [predict_memory(work, mix.move(start, end, n)).total_bytes for n in range(work.shapes.num_layers + 1)]
    assert all(later <= before for before, later in itertools.pairwise(peaks)) and peaks[-1] < peaks[0]
