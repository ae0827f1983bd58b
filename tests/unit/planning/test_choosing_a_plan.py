"""Choosing: what fits is fast, what does not says so, and every step down is leaner."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_kit import G, any_card, any_work, recipe, within, work_on

from danlu.core.messages import LANGUAGES, say, set_language
from danlu.planning import rates
from danlu.planning.bases import BASES
from danlu.planning.cards import CARDS, Card, cpu_card
from danlu.planning.memory import predict_memory
from danlu.planning.plan import Limits, choose, plan
from danlu.planning.policy import ORDER, Mix
from danlu.planning.what_if import COMMON_CARDS, CONTEXTS, WAYS, smallest_card, what_if
from danlu.planning.why import policy_text, reasons, summary, way_out
from danlu.planning.work import Work, work_of
from danlu.recipe import Recipe

H200 = CARDS["H200"]


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
