"""Step times: against what was measured before this engine, and what must hold for any work and card."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from planning_kit import any_card, any_work, work_on

from danlu.engines import native, packed
from danlu.planning import rates
from danlu.planning.answers import num_answers
from danlu.planning.cards import CARDS, Card
from danlu.planning.memory import is_recorded, predict_memory
from danlu.planning.policy import Mix
from danlu.planning.time import flops_per_step, predict_time
from danlu.planning.work import Work
from danlu.training.graphs import METHODS, WORTH_IT

H200 = CARDS["H200"]


def seconds(work: Work, card: Card = H200, policy: str = "all") -> float:
    return predict_time(work, Mix.of(policy, work.shapes.num_layers), card).total_s  # type: ignore[arg-type]


def test_model_flops_of_qwen_7b_at_2k() -> None:
    """4 N + head + 7 S d L a token: 26.10 + 2.18 + 1.44 GFLOP."""
    assert flops_per_step(work_on()) / 16_384 / 1e9 == pytest.approx(26.10 + 2.18 + 1.44, rel=0.005)


@pytest.mark.parametrize(
    ("changes", "tokens_per_s"),
    [({}, 20_300), ({"precision": "fp8"}, 25_700), ({"context": 16_384}, 14_500)],
)
def test_the_sum_of_the_measured_levers_on_h200(changes: dict[str, object], tokens_per_s: float) -> None:
    """Products, attention, head and pointwise work measured one by one on one H200 add up to these."""
    work = work_on(**changes)
    assert work.tokens_per_step / seconds(work) == pytest.approx(tokens_per_s, rel=0.1)


@pytest.mark.parametrize(("documents", "milliseconds"), [(128, 0.83), (512, 1.01), (2048, 1.96), (16_384, 12.6)])
def test_attention_of_one_layer_as_cudnn_was_measured(documents: int, milliseconds: float) -> None:
    """Alone on the card; within a step products leave it less power."""
    found = predict_time(work_on(context=documents), Mix.of("all", 28), H200).attention_s / 28
    assert milliseconds * 0.8 < found * 1e3 < milliseconds * 1.3


@pytest.mark.parametrize(("documents", "milliseconds"), [(128, 1.18), (512, 1.62), (2048, 3.49), (16_384, 21.42)])
def test_attention_over_documents_of_unequal_length_as_flash_was_measured(documents: int, milliseconds: float) -> None:
    work = work_on(context=32_768, document_tokens=documents)
    found = predict_time(work, Mix.of("all", 28), H200).attention_s / 28
    assert work.is_ragged and found * 1e3 == pytest.approx(milliseconds, rel=0.1)


def test_small_models_wait_for_launches_where_no_graph_replays_them() -> None:
    small = work_on("qwen2.5-0.5b", micro_tokens=512, batch_tokens=512, context=512)
    replayed = predict_time(small, Mix.of("all", 24), H200)
    eager = predict_time(replace(small, method="dpo", context=256), Mix.of("all", 24), H200)
    assert eager.waiting_s > replayed.waiting_s


def test_graphs_are_expected_where_training_records_them() -> None:
    assert rates.GRAPH_WORTH == WORTH_IT
    small, large = work_on("qwen2.5-0.5b"), work_on("qwen2.5-7b")
    assert is_recorded(small, Mix.of("all", 24)) and not is_recorded(large, Mix.of("all", 28))
    assert not is_recorded(small, Mix.of("input-host", 24))
    assert not is_recorded(replace(small, method="dpo"), Mix.of("all", 24))
    assert {"sft", "pretrain"} == set(METHODS)


def test_copies_to_the_host_are_felt_on_a_slow_link() -> None:
    work = work_on(micro_tokens=4096, batch_tokens=4096)
    slow = replace(CARDS["RTX 4090"], host_bandwidth=2e9)
    felt = predict_time(work, Mix.of("all-host", 28), slow)
    hidden = predict_time(work, Mix.of("input-host", 28), CARDS["RTX 4090"])
    assert felt.host_s > 0.5 * felt.products_s and hidden.host_s < 0.02 * hidden.products_s


def test_a_layer_s_copies_must_leave_while_the_next_one_runs() -> None:
    """The engine keeps two layers' copies under way: lending half of the layers everything is felt as much, layer for
    layer, as lending all of them; lending all but gate|up is hidden behind products on one H200."""
    work = work_on()
    half, whole = (predict_time(work, Mix.counted({"all-host": n, "all": 28 - n}), H200).host_s for n in (14, 28))
    assert half == pytest.approx(whole * 13 / 27, rel=0.05)
    assert (
        predict_time(work, Mix.of("all-split", 28), H200).host_s
        < 0.02 * predict_time(work, Mix.of("all", 28), H200).total_s
    )


def test_dpo_pays_for_its_reference() -> None:
    sft, dpo = (predict_time(work_on(method=kind), Mix.of("all", 28), H200) for kind in ("sft", "dpo"))
    assert sft.reference_s == 0 and 0.4 < dpo.reference_s / sft.products_s < 0.7


@given(work=any_work(), card=any_card)
@settings(max_examples=80)
def test_leaner_policies_are_never_faster(work: Work, card: Card) -> None:
    times = [seconds(work, card, policy) for policy in ("all", "light", "input", "input-host")]
    assert all(later >= before - 1e-12 for before, later in itertools.pairwise(times))


@given(work=any_work(), card=any_card)
@settings(max_examples=80)
def test_a_faster_card_and_less_to_learn_are_never_slower(work: Work, card: Card) -> None:
    faster = replace(
        card, flops_16=2 * card.flops_16, flops_32=2 * card.flops_32, attention_flops=2 * card.attention_flops,
        bandwidth=2 * card.bandwidth,
    )  # fmt: skip
    assert seconds(work, faster) <= seconds(work, card)
    assert seconds(replace(work, supervised_ratio=0.01), card) <= seconds(work, card)
    longer = replace(work, context=2 * work.context, document_tokens=2 * work.document)
    assert seconds(longer, card) >= seconds(replace(work, document_tokens=work.document), card)


def test_answers_are_written_before_they_are_learnt() -> None:
    """More and longer answers take longer, a group's prompts are read once, and what is not drawn takes nothing."""
    drawn = work_on(method="grpo", group=8, answer_tokens=256, document_tokens=512)
    times = [predict_time(replace(drawn, answer_tokens=tokens), Mix.of("all", 28), H200) for tokens in (64, 256, 500)]
    assert 0 < times[0].answers_s < times[1].answers_s < times[2].answers_s
    assert predict_time(work_on(), Mix.of("all", 28), H200).answers_s == 0
    assert times[1].reference_s == 0 < predict_time(replace(drawn, is_held=True), Mix.of("all", 28), H200).reference_s
    per_answer = [
        predict_time(replace(drawn, batch_tokens=16_384 * n), Mix.of("all", 28), H200).answers_s / n for n in (1, 8)
    ]
    assert per_answer[1] < per_answer[0], "one reading of the weights serves all"
    assert num_answers(drawn) == 32 and num_answers(work_on()) == 0
    on_cpu = [predict_memory(work, Mix.of("all", 28), kind="cpu") for work in (drawn, replace(drawn, group=0))]
    assert on_cpu[0].total_bytes >= on_cpu[1].total_bytes


def test_answers_are_written_as_the_engine_writes_them() -> None:
    assert (rates.SEATS, rates.SEATS_CPU) == (native.MAX_ROWS, native.CPU_ROWS)
    assert rates.PACKED_MOST_BYTES == packed.MOST_BYTES
