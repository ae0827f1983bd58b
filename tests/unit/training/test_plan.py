"""Which items make which step: all of them, once an epoch, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.training.batches import longest_first
from danlu.training.plan import Plan


def plan(lengths, **knobs):
    usual = {"epochs": 1.0, "max_steps": None, "batch_tokens": 64, "micro_tokens": 32, "seed": 1}
    return Plan(np.array(lengths, dtype=np.int64), **(usual | knobs))


def items_of(steps):
    return [item for step in steps for piece in step.pieces for item in piece.tolist()]


@settings(max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 32), min_size=1, max_size=60), epochs=st.sampled_from([1.0, 2.0, 3.0]),
    batch_tokens=st.sampled_from([16, 32, 100]), seed=st.integers(0, 9),
)  # fmt: skip
def test_every_item_once_an_epoch_and_no_piece_too_large(lengths, epochs, batch_tokens, seed):
    steps = list(plan(lengths, epochs=epochs, batch_tokens=batch_tokens, seed=seed).steps_after(0))
    assert sorted(items_of(steps)) == sorted([*range(len(lengths))] * int(epochs))
    assert [step.number for step in steps] == [*range(1, len(steps) + 1)]
    for step in steps:
        assert all(sum(lengths[item] for item in piece) <= 32 for piece in step.pieces)
        assert sum(lengths[item] for piece in step.pieces for item in piece) <= max(batch_tokens, *lengths, 0)


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(1, 32), min_size=1, max_size=60), micro_tokens=st.sampled_from([32, 50, 100, 400]))
def test_what_a_device_computes_at_once_does_not_decide_what_a_step_holds(lengths, micro_tokens):
    """Another card, another plan: the same steps, so the same model."""
    whole = plan(lengths, batch_tokens=100, micro_tokens=400).steps_after(0)
    for step, other in zip(
        whole, plan(lengths, batch_tokens=100, micro_tokens=micro_tokens).steps_after(0), strict=True
    ):
        assert sorted(items_of([step])) == sorted(items_of([other]))


def test_steps_after_a_number_are_the_rest_of_all_steps():
    lengths = np.random.default_rng(0).integers(4, 30, 50)
    whole = plan(lengths, epochs=2.5)
    every = list(whole.steps_after(0))
    assert len(every) == whole.num_steps
    for number in (1, whole.steps_per_epoch, whole.steps_per_epoch + 1, whole.num_steps):
        rest = list(plan(lengths, epochs=2.5).steps_after(number))
        assert [step.number for step in rest] == [step.number for step in every[number:]]
        assert items_of(rest) == items_of(every[number:])


def test_order_differs_by_seed_and_epoch():
    lengths = [8] * 40
    one, same, other = (items_of(plan(lengths, seed=seed).steps_after(0)) for seed in (1, 1, 2))
    assert one == same != other
    two_epochs = items_of(plan(lengths, epochs=2).steps_after(0))
    assert two_epochs[:40] == one
    assert two_epochs[40:] != one


def test_max_steps_decides_whatever_epochs_says():
    assert plan([8] * 40, max_steps=3).num_steps == 3
    longer = plan([8] * 40, max_steps=17)
    assert len(list(longer.steps_after(0))) == 17


def test_half_an_epoch_is_half_the_steps():
    assert plan([32] * 40, epochs=0.5).num_steps == 10
    assert plan([32], epochs=0.01).num_steps == 1


def test_epoch_is_told_as_passes_over_the_data():
    *_, last = plan([32] * 8, epochs=2).steps_after(0)
    assert last.epoch == pytest.approx(2.0)


def test_longest_first_keeps_every_item_and_the_order_of_equals() -> None:
    """Order inside a row is for the kernels; which tokens are trained is the pack's business."""
    lengths = np.array([5, 9, 9, 2, 9, 7])
    items = np.array([3, 4, 0, 2, 5, 1])
    found = longest_first(items, lengths)
    assert found.tolist() == [4, 2, 1, 5, 0, 3]
