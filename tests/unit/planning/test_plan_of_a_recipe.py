"""A recipe's plan: its knobs reach the work, and what a device, a host or a CPU has is what may be used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from planning_kit import G, recipe, within, work_on

from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS, cpu_card
from danlu.planning.memory import PARTS, predict_memory
from danlu.planning.plan import Limits, choose, leaner, plan, plan_stage
from danlu.planning.policy import Mix
from danlu.planning.why import reasons, summary, way_out

H200 = CARDS["H200"]


def test_a_recipe_without_a_card_is_told_with_everything_kept() -> None:
    (found,) = plan(recipe(training={"micro_tokens": 4096}), BASES["qwen2.5-7b"])
    assert found.card is None and found.time is None and found.fits
    assert found.num_trainable == 40_370_176 and found.total_bytes == found.full_bytes


def test_every_stage_has_its_own_plan() -> None:
    stages = [{"kind": "pretrain", "training": {"context": 4096}}, "sft", {"kind": "dpo"}]
    found = plan(recipe(stages=stages), BASES["qwen2.5-7b"], H200)
    assert [one.work.method for one in found] == ["pretrain", "sft", "dpo"]
    assert found[0].work.context == 4096 and found[2].time is not None and found[2].time.reference_s > 0
    assert all(one.has_chosen_tokens for one in found)


def test_knobs_reach_the_work() -> None:
    given = recipe(
        adapter={"kind": "lora", "rank": 4, "targets": ["q_proj"]}, training={"micro_tokens": 2048, "max_steps": 7}
    )
    found = plan_stage(given, 0, BASES["qwen2.5-7b"], H200, supervised_ratio=0.2, document_tokens=300)
    assert (found.work.rank, found.work.targets, found.work.num_steps) == (4, ("q_proj",), 7)
    assert (found.work.supervised_ratio, found.work.document, found.work.num_pieces) == (0.2, 300, 8)
    assert not found.has_chosen_tokens
    full = plan(recipe(adapter="full", method={"kind": "sft", "train_on": "all"}), BASES["qwen2.5-0.5b"], H200)[0]
    assert full.work.is_full and full.num_trainable == full.num_params and full.work.supervised_ratio == 1


def test_quantize_masters_and_optimizer_are_read() -> None:
    quantised = recipe(model={"base": "qwen2.5-7b", "quantize": "nf4"})
    assert plan(quantised, BASES["qwen2.5-7b"])[0].work.precision == "nf4"
    lean = recipe(adapter={"kind": "full", "masters": "none"}, training={"optimizer": "adamw_8bit"})
    work = plan(lean, BASES["qwen2.5-7b"])[0].work
    assert work.is_full and not work.has_masters and work.has_8bit_states
    assert work.offload == "none" and not work.frees_gradients
    away = recipe(adapter={"kind": "full", "offload": "all"}, training={"clip": 0})
    work = plan(away, BASES["qwen2.5-7b"])[0].work
    assert work.offload == "all" and work.has_masters_apart and work.frees_gradients


SEVEN_BILLION_ON_80_GB = {
    "8-bit states, no masters": {"adapter": {"masters": "none"}, "training": {"optimizer": "adamw_8bit"}},
    "states and masters away": {"adapter": {"offload": "all"}, "training": {}},
    "masters away, 8-bit states": {"adapter": {"offload": "masters"}, "training": {"optimizer": "adamw_8bit"}},
    "as it is": {"adapter": {}, "training": {}},
}


@pytest.mark.parametrize("base", ["qwen2.5-7b", "llama-3.1-8b"])
@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("way", SEVEN_BILLION_ON_80_GB)
def test_full_fine_tuning_of_7_to_8_billion_on_80_gb(base: str, clip: float, way: str) -> None:
    """Three ways fit and one does not."""
    given = SEVEN_BILLION_ON_80_GB[way]
    full = recipe(adapter={"kind": "full"} | given["adapter"], training={"clip": clip} | given["training"])
    found = plan(full, BASES[base], CARDS["H100 80GB"])[0]
    assert found.fits == (way != "as it is")
    assert (found.memory.host_states_bytes > 0) == ("away" in way)


def test_states_that_this_machine_cannot_hold_do_not_fit() -> None:
    """On a machine that nobody has looked at, the plan says what it would take."""
    work = work_on(is_full=True, rank=0, offload="all", micro_tokens=4096, batch_tokens=4096)
    card = CARDS["H100 80GB"]
    here, elsewhere = (Limits.of(card, host_bytes=given) for given in (64 * G, None))
    short, unseen = choose(work, card, here), choose(work, card, elsewhere)
    assert not short.fits and short.is_host_short and unseen.fits
    assert "64.0 GiB" in reasons(short)[0] and "64.0 GiB" in summary("sft", short, None)
    assert "adapter.offload=masters" in way_out(short, "H200")
    assert any(f"{unseen.memory.host_states_bytes / G:.1f} GiB" in reason for reason in reasons(unseen))


def test_copies_of_states_are_felt_where_nothing_runs_beside_them() -> None:
    card = CARDS["H100 80GB"]
    work = work_on(is_full=True, rank=0, offload="all", micro_tokens=4096, batch_tokens=4096)
    after, within_ = (choose(replace(work, frees_gradients=frees), card) for frees in (False, True))
    assert after.time is not None and within_.time is not None
    assert after.time.host_s > within_.time.host_s > 0.5


def test_a_cpu_without_bf16_holds_fp32_weights() -> None:
    old, new = (cpu_card(num_cores=4, memory_bytes=32 * G, has_bf16=has) for has in (False, True))
    plans = [plan(recipe(), BASES["qwen2.5-0.5b"], card)[0] for card in (old, new)]
    assert [one.work.precision for one in plans] == ["32", "16"]
    assert plans[0].tokens_per_s is not None and plans[1].tokens_per_s is not None
    assert plans[0].tokens_per_s < plans[1].tokens_per_s


def test_where_memory_ended_the_next_plan_is_leaner_until_none_is_left() -> None:
    """From wherever the training has come to; tokens at once stay, for they decide which items share a piece."""
    found, steps = choose(work_on(), H200, within(60)), []
    mix = found.mix
    while (next_one := leaner(found, mix)) is not None:
        steps.append(predict_memory(found.work, mix).total_bytes)
        assert next_one.total_bytes < 0.95 * steps[-1] and next_one.work == found.work
        mix = next_one.mix
    leanest = predict_memory(found.work, Mix.of("input-host", 28)).total_bytes
    assert len(steps) > 5 and predict_memory(found.work, mix).total_bytes < 1.1 * leanest


def test_a_living_device_s_free_memory_is_the_budget() -> None:
    limits = Limits.of(H200, free_bytes=40 * G, host_bytes=0)
    assert 38 * G < limits.budget_bytes < 40 * G and limits.host_bytes == 0
    assert plan_stage(recipe(), 0, BASES["qwen2.5-7b"], H200, limits=limits).total_bytes <= limits.budget_bytes


def test_total_time_and_energy_follow_the_steps() -> None:
    found = choose(work_on(num_steps=1000), H200)
    assert found.time is not None and found.total_s == pytest.approx(1000 * found.time.total_s)
    assert found.energy_kwh == pytest.approx(found.total_s * 630 / 3.6e6)
    assert choose(work_on(), H200).total_s is None
    assert found.mfu_ratio is not None and 0.4 < found.mfu_ratio < 0.7


def test_json_holds_all_of_it() -> None:
    told = json.loads(json.dumps(choose(work_on(), CARDS["RTX 4090"]).to_json()))
    assert told.keys() >= {"num_params", "num_trainable", "trainable_ratio", "tokens_at_once", "total_bytes", "policies",
                           "memory", "time", "fits", "budget_bytes", "tokens_per_s", "card", "total_s"}  # fmt: skip
    assert sum(told["policies"].values()) == 28 and sum(told["memory"][part] for part in PARTS) == told["total_bytes"]
    parts = {name: value for name, value in told["time"].items() if name != "total_s"}
    assert sum(parts.values()) == pytest.approx(told["time"]["total_s"], abs=1e-4)
