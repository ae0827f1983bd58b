"""Choosing: what fits is fast, what does not says so, and every step down is leaner."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_kit import any_card, any_work, work_on

from danlu.core.messages import LANGUAGES, say, set_language
from danlu.planning import rates
from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS, Card, cpu_card
from danlu.planning.memory import PARTS, predict_memory
from danlu.planning.plan import Limits, choose, leaner, plan, plan_stage
from danlu.planning.policy import ORDER, Mix
from danlu.planning.what_if import COMMON_CARDS, CONTEXTS, WAYS, smallest_card, what_if
from danlu.planning.why import policy_text, reasons, summary, way_out
from danlu.planning.work import Work, work_of
from danlu.recipe import Recipe

G = 2**30
H200 = CARDS["H200"]


def within(gib: float, *, host_gib: float = 256) -> Limits:
    return Limits(int(gib * G), int(host_gib * G))


def a_cpu(gib: float) -> Card:
    return cpu_card(num_cores=4, memory_bytes=int(gib * G), has_bf16=True)


# ---- choosing


def test_with_room_for_everything_everything_is_kept() -> None:
    found = choose(work_on(), H200)
    assert found.fits and found.mix == Mix.of("all", 28) and found.policies == ("all",) * 28


@pytest.mark.parametrize(("gib", "at_least"), [(60, 18_500), (40, 16_500), (25, 15_200), (20, 14_500)])
def test_less_memory_costs_speed_little_by_little(gib: float, at_least: int) -> None:
    found = choose(work_on(), H200, within(gib))
    assert found.fits and gib * 0.9 < found.total_bytes / G <= gib
    assert found.tokens_per_s is not None and found.tokens_per_s > at_least


def test_where_nothing_fits_the_leanest_plan_says_so() -> None:
    found = choose(work_on(), CARDS["RTX 4060"], may_choose_tokens=True)
    assert not found.fits and found.mix == Mix.of("input-host", 28) and found.work.micro_tokens == 2048


def test_a_host_without_memory_is_lent_nothing() -> None:
    found = choose(work_on(), H200, within(25, host_gib=0))
    assert found.memory.host_bytes == 0 and not any(name.endswith("-host") for name in found.policies)


def test_what_may_be_lent_to_the_host_is_a_limit() -> None:
    lent = choose(work_on(), H200, within(50, host_gib=4))
    assert lent.fits and lent.memory.host_bytes <= 4 * G


@given(work=any_work(), card=any_card, share=st.floats(0.05, 1.2))
@settings(max_examples=80)
def test_a_plan_fits_or_says_not(work: Work, card: Card, share: float) -> None:
    leanest = predict_memory(work, Mix.of("input", work.shapes.num_layers)).total_bytes
    limits = Limits(int(share * card.memory_bytes), card.memory_bytes)
    found = choose(work, card, limits)
    assert found.fits == (found.total_bytes <= limits.budget_bytes)
    assert len(found.policies) == work.shapes.num_layers
    assert found.fits or leanest > limits.budget_bytes, "what would have fitted was overlooked"
    assert found.total_bytes == predict_memory(found.work, found.mix).total_bytes


@given(work=any_work(), share=st.floats(0.3, 1.0))
@settings(max_examples=60)
def test_more_memory_is_never_slower(work: Work, share: float) -> None:
    small, large = (choose(work, H200, Limits(int(H200.memory_bytes * s), 2**40)) for s in (share * 0.8, share))
    if small.fits:
        assert large.fits and large.time is not None and small.time is not None
        assert large.time.total_s <= small.time.total_s * 1.0001


def test_lean_layers_come_first() -> None:
    """The backward pass begins at the last layer: what is lean must not have to recompute while all saves lie there."""
    found = choose(work_on(), H200, within(40))
    places = [ORDER.index(name) for name in found.policies]
    assert places == sorted(places) and len(set(places)) > 1


# ---- tokens at once


def test_open_tokens_are_chosen_for_speed() -> None:
    work = work_on(micro_tokens=32_768, batch_tokens=32_768)
    roomy = choose(work, H200, may_choose_tokens=True)
    assert roomy.work.micro_tokens == 32_768 and roomy.has_chosen_tokens
    tight = choose(work, CARDS["A100 40GB"], may_choose_tokens=True)
    assert tight.fits and 2048 <= tight.work.micro_tokens < 32_768


@given(work=any_work(), card=any_card)
@settings(max_examples=50)
def test_chosen_tokens_hold_an_item_and_no_more_than_a_step(work: Work, card: Card) -> None:
    found = choose(work, card, may_choose_tokens=True)
    assert work.min_micro_tokens <= found.work.micro_tokens <= max(work.batch_tokens, work.min_micro_tokens)
    if work.micro_tokens >= work.min_micro_tokens:
        assert found.work.tokens_per_step == work.tokens_per_step, "a plan never changes what a step holds"
    assert not choose(work, card).fits or found.fits


def test_a_cpu_computes_the_whole_step_while_it_fits_in_any_way() -> None:
    """Other tokens at once make other batches: where no speed is won by them, the recipe's own are kept."""
    work = work_on("qwen2.5-0.5b", micro_tokens=8192, batch_tokens=8192, context=512)
    everything = choose(work, a_cpu(64), may_choose_tokens=True)
    assert everything.fits and everything.mix == Mix.of("all", 24)
    full = everything.total_bytes / G
    short = choose(work, a_cpu(0.8 * full), may_choose_tokens=True)
    assert short.fits and short.mix != everything.mix and not any("-" in name for name in short.policies)
    for found in (everything, short):
        assert found.work.micro_tokens == 8192 and not found.has_chosen_tokens
    least = predict_memory(everything.work, Mix.of("input", 24), kind="cpu").total_bytes / G
    fewer = choose(work, a_cpu(0.95 * least), may_choose_tokens=True)
    assert fewer.fits and 512 <= fewer.work.micro_tokens < 8192 and fewer.has_chosen_tokens
    assert not choose(work, a_cpu(0.1), may_choose_tokens=True).fits


def test_without_a_quick_form_there_is_nothing_to_choose_but_tokens() -> None:
    """Layers in several number formats train written out: no policy is promised that nobody follows."""
    work = work_on(has_no_quick_form=True)
    assert choose(work, H200, within(60), may_choose_tokens=True).mix == Mix.of("all", 28)
    assert choose(work_on(), H200, within(20), may_choose_tokens=True).mix != Mix.of("all", 28)


def test_a_preference_pair_is_computed_in_one_piece() -> None:
    work = work_on(method="dpo", context=2048, micro_tokens=16_384)
    assert choose(work, CARDS["RTX 4090"], may_choose_tokens=True).work.micro_tokens >= 4096


# ---- from a recipe


def recipe(**tree: object) -> Recipe:
    return Recipe.from_tree({"model": {"base": "qwen2.5-7b"}, "data": {"sources": ["x.jsonl"]}, **tree})


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


# ---- words


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_plan_has_its_reasons_in_both_languages(language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    try:
        told = [
            " ".join(reasons(choose(work, card, may_choose_tokens=True)))
            for card in (*CARDS.values(), cpu_card(num_cores=2, memory_bytes=8 * G, has_bf16=False))
            for work in (work_on(), work_on("qwen2.5-0.5b", batch_tokens=2048), work_on("qwen2.5-72b"))
        ]
        assert all(told) and not any("{" in text for text in told)
        assert any("一" <= character <= "鿿" for character in told[0]) == (language == "zh")
        for found in (choose(work_on(), H200), choose(work_on(), CARDS["T4"]), plan(recipe(), BASES["qwen2.5-7b"])[0]):
            assert "sft" in summary("sft", found, "L4") and summary("sft", found, None)
    finally:
        set_language(None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_goes_to_the_host_is_named_counted_and_priced(language: str) -> None:
    """Short of memory, one H200 sends all but gate|up away behind its products, then computes gate|up again."""
    set_language(language)  # type: ignore[arg-type]
    try:
        found = choose(work_on(), H200, within(40))
        assert set(found.mix.to_json()) == {"all-split", "light-host"}
        first, again, host, *_ = reasons(found)
        for policy in ("all-split", "light-host"):
            assert f"{found.mix[policy]} × {say('planning.policy_' + policy.replace('-', '_'))}" in first
        assert "%" in again and f"{found.memory.host_bytes / G:.1f} GiB" in host
    finally:
        set_language(None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_cpu_has_no_card_to_keep_things_on(language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    try:
        work = work_on("qwen2.5-0.5b", micro_tokens=8192, batch_tokens=8192, context=512)
        full = choose(work, a_cpu(64)).total_bytes / G
        told = {policy_text(choose(work, a_cpu(share * full))) for share in (2, 0.9, 0.75, 0.6)}
        assert len(told) > 2 and not any("card" in text or "显存" in text for text in told)
    finally:
        set_language(None)


NF4, MASTERS, LORA = "model.quantize=nf4", "adapter.masters=none", "adapter.kind=lora"
AWAY = "adapter.offload=all"


@pytest.mark.parametrize(
    ("changes", "offered"),
    [
        ({}, {NF4}),
        ({"precision": "int8"}, {NF4}),
        ({"precision": "nf4"}, set()),
        ({"is_full": True, "rank": 0}, {LORA, MASTERS, AWAY}),
        ({"is_full": True, "rank": 0, "offload": "all"}, {LORA, MASTERS}),
        ({"is_full": True, "rank": 0, "has_masters": False, "has_8bit_states": True}, {LORA}),
    ],
)
def test_no_way_out_is_offered_that_the_recipe_refuses_or_has_taken(
    changes: dict[str, object], offered: set[str]
) -> None:
    found = choose(work_on("qwen2.5-72b", **changes), CARDS["RTX 4060"])
    assert not found.fits
    for smallest in ("H200", None):
        told = way_out(found, smallest)
        assert {knob for knob in (NF4, MASTERS, LORA, AWAY) if knob in told} == offered
        assert "{" not in told and ("H200" in told) == (smallest is not None)


def test_what_does_not_fit_has_no_speed() -> None:
    found = choose(work_on(num_steps=10), CARDS["RTX 4060"], may_choose_tokens=True)
    told = found.to_json()
    assert not found.fits and found.has_chosen_tokens
    assert told["tokens_per_s"] is told["total_s"] is told["energy_kwh"] is told["mfu_ratio"] is None
    tokens = f"{found.work.micro_tokens:,}"
    assert not any(tokens in reason for reason in reasons(found))


# ---- elsewhere


def test_what_if_answers_every_question() -> None:
    cells = list(what_if(work_on(), [CARDS[name] for name in COMMON_CARDS]))
    assert len(cells) == len(COMMON_CARDS) * len(WAYS) * len(CONTEXTS)
    found = {(cell.card.name, cell.way, cell.context): cell for cell in cells}
    assert found["H200", "lora", 2048].fits and not found["RTX 4060", "lora", 2048].fits
    assert found["RTX 3060 12GB", "nf4", 2048].fits, "QLoRA of a 7B model fits 12 GB"
    assert found["A100 80GB", "full_lean", 2048].fits, "all of a 7B model trains on 80 GB"
    assert found["A100 80GB", "fp8", 2048].plan is None, "Ampere has no fp8"
    told = found["RTX 4060", "lora", 2048].to_json()
    assert told["fits"] is False and told["tokens_per_s"] is None


def test_the_smallest_card_is_the_smallest_that_fits() -> None:
    card = smallest_card(work_on(precision="nf4"), may_choose_tokens=True)
    assert card is not None and card.memory_bytes < 13 * G
    assert smallest_card(work_on("qwen2.5-72b"), may_choose_tokens=True) is None
    smaller = [other for other in CARDS.values() if other.memory_bytes < card.memory_bytes]
    assert not any(choose(work_on(precision="nf4"), other, may_choose_tokens=True).fits for other in smaller)


def test_a_whole_table_takes_seconds_at_most_and_no_torch() -> None:
    """Half a second of computing on a quiet machine; memory that others want too makes a multiple of it."""
    code = (
        "import sys, time\n"
        "from danlu.planning.bases import BASES\nfrom danlu.planning.cards import CARDS\n"
        "from danlu.planning.what_if import COMMON_CARDS, what_if\nfrom danlu.planning.work import Work\n"
        "work = Work(BASES['qwen2.5-7b'], 2048, 16384, 16384)\n"
        "assert len(list(what_if(work, [CARDS[name] for name in COMMON_CARDS]))) > 100\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)\nprint(time.process_time())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 10.0


def test_shapes_of_gemma_slide() -> None:
    """Local layers see a window: long contexts cost them little."""
    local = replace(BASES["gemma-3-12b"], window=None, num_sliding=0)
    near, far = (
        choose(replace(work_on("gemma-3-12b", context=32_768, micro_tokens=32_768), shapes=shapes), H200)
        for shapes in (BASES["gemma-3-12b"], local)
    )
    assert near.time is not None and far.time is not None and near.time.attention_s < 0.4 * far.time.attention_s


def test_several_cards_share_time_and_not_memory() -> None:
    alone = choose(work_on(batch_tokens=65_536, micro_tokens=8192), CARDS["H200"])
    four = choose(work_on(batch_tokens=65_536, micro_tokens=8192, num_ranks=4), CARDS["H200"])
    assert alone.time is not None and four.time is not None and alone.time.exchange_s == 0
    assert four.time.products_s == pytest.approx(alone.time.products_s / 4)
    assert alone.time.total_s / 4 < four.time.total_s < alone.time.total_s / 3.5
    assert four.time.optimizer_s == alone.time.optimizer_s
    assert four.total_bytes == alone.total_bytes + rates.EXCHANGE_BYTES


def test_tokens_at_once_leave_every_card_a_piece() -> None:
    work = work_on(batch_tokens=16_384, micro_tokens=16_384, num_ranks=2)
    assert choose(work, CARDS["H200"], may_choose_tokens=True).work.micro_tokens == 8192


def test_others_gradients_are_waited_for() -> None:
    """One card may apply each gradient in its backward; two have to add them up first."""
    work = work_on(is_full=True, rank=0, frees_gradients=True, has_masters=False)
    assert work.updates_in_backward and not replace(work, num_ranks=2).updates_in_backward


def test_the_recipe_says_how_many_cards() -> None:
    shapes = BASES["qwen2.5-7b"]
    for devices, counted in ((1, 1), (4, 4), ("all", 1)):
        recipe = Recipe.from_tree({"training": {"devices": devices}})
        assert work_of(recipe, recipe.plan_stages()[0], shapes).num_ranks == counted
