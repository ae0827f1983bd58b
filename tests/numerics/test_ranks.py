"""Several ranks train what one would: the same plan, the same steps, the same weights but for the order of fp32 sums.

Tolerances: losses 2e-6 relative and gradient norms 5e-6, where 2e-7 is seen over 14 steps; weights a hundredth of what
one step moves them at most, where 5e-6 is seen at a rate of 1e-2: Adam divides a gradient by its own size, so the last
bits of one near zero count for more than they weigh.
"""

import functools
import os
import signal
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from danlu.training.ranks import ALONE, deal
from progress_kit import Notes
from ranks_kit import results, start, together
from training_child import make_trainer
from training_kit import dataset, pair_items, section, sft_items

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or torch.cuda.is_available(), reason="ranks of a test are forks, which CUDA forbids"
)
CASES = [
    ("lora, whole", "sft", 2), ("lora, whole", "dpo", 3), ("full", "sft", 3), ("full", "dpo", 2),
    ("full", "pretrain", 2), ("lora, whole", "pretrain", 2),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def prepare(folder, method="sft"):
    make = pair_items if method == "dpo" else sft_items
    dataset(folder / "data", make(40), make(10, seed=1))
    return folder


def run(folder, adapter, method, ranks, **knobs):
    trainer = make_trainer(folder, adapter, method, ranks=ranks, **{"epochs": 2, **knobs})
    return [(s.number, s.loss, s.grad_norm, s.num_tokens, s.validation, s.metrics) for s in trainer.steps()]


def weights(folder):
    (*_, last) = sorted((folder / "checkpoints").glob("step-*"))
    tensors = load_file(last / "state.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("weight/")}


def assert_alike(mine, alone, folder, other, *, lr=1e-2):
    assert [step[0] for step in mine] == [step[0] for step in alone]
    assert [step[3] for step in mine] == [step[3] for step in alone], "the tokens of all ranks"
    for one, two in zip(mine, alone, strict=True):
        assert one[1] == pytest.approx(two[1], rel=2e-6)
        assert one[2] == pytest.approx(two[2], rel=5e-6)
        assert (one[4] or {}) == pytest.approx(two[4] or {}, rel=1e-5, abs=1e-5)
        assert one[5] == pytest.approx(two[5], rel=1e-5, abs=1e-5)
    here, there = weights(folder), weights(other)
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        torch.testing.assert_close(tensor, there[name], rtol=0, atol=lr / 100)


@pytest.mark.parametrize(("adapter", "method", "num_ranks"), CASES)
def test_ranks_train_what_one_would(tmp_path, adapter, method, num_ranks):
    alone, shared = prepare(tmp_path / "alone", method), prepare(tmp_path / "shared", method)
    expected = run(alone, adapter, method, ALONE)
    first, *others = together(num_ranks, tmp_path, functools.partial(run, shared, adapter, method))
    assert all(other == first for other in others), "every rank tells the same story, to the bit"
    assert_alike(first, expected, shared, alone)


def test_who_computes_a_piece_drops_the_same_out_of_it(tmp_path):
    """Four pieces a step, so that no rank count cuts them further: dropout is the piece's, not the rank's."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    for folder in (alone, shared):
        items = [item for item in sft_items(400) if len(item.tokens[0]) == 16][:16]
        assert len(items) == 16
        dataset(folder / "data", items, items[:4])
    knobs = {"batch_tokens": 64, "micro_tokens": 16, "context": 16}
    expected = run(alone, "lora", "sft", ALONE, **knobs)
    (first, _) = together(2, tmp_path, lambda ranks: run(shared, "lora", "sft", ranks, **knobs))
    assert_alike(first, expected, shared, alone)


@pytest.mark.parametrize("began_with", [1, 2])
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, began_with):
    alone, shared = prepare(tmp_path / "alone"), prepare(tmp_path / "shared")
    expected = run(alone, "full", "sft", ALONE)

    def begin(ranks):
        trainer = make_trainer(shared, "full", "sft", ranks=ranks, epochs=2)
        steps = trainer.steps()
        for _ in range(5):
            next(steps)
        trainer.save()
        ranks.wait()

    def go_on(ranks):
        return run(shared, "full", "sft", ranks)

    if began_with == 1:
        begin(ALONE)
        (rest, _) = together(2, tmp_path, go_on)
    else:
        together(2, tmp_path, begin)
        rest = go_on(ALONE)
    assert rest[0][0] == 6
    assert_alike(rest, expected[5:], shared, alone)


def test_early_stop_is_one_decision(tmp_path):
    dataset(tmp_path / "data", sft_items(8), sft_items(8, seed=7))
    knobs = {"epochs": 200, "lr": 3e-2, "eval_every": 1, "patience": 3}
    first, second = together(2, tmp_path, lambda ranks: run(tmp_path, "full", "sft", ranks, **knobs))
    assert first == second
    assert first[-1][0] < 100


def test_more_ranks_than_samples_is_said_once(tmp_path):
    """The third rank has no piece: its gradients are zeros, its sums nothing."""
    dataset(tmp_path / "data", pair_items(2), pair_items(2, seed=1))

    def work(ranks):
        notes = Notes()
        steps = list(make_trainer(tmp_path, "full", "dpo", progress=notes, ranks=ranks, epochs=2).steps())
        return [(step.loss, step.metrics) for step in steps], notes.said

    found = together(3, tmp_path, work)
    assert found[0][0] == found[1][0] == found[2][0]
    assert [len([said for said in notes if "fewer samples" in said]) for _, notes in found] == [1, 1, 1]


def test_ctrl_c_at_one_rank_stops_all_before_the_same_step(tmp_path):
    prepare(tmp_path)

    def work(ranks):
        trainer = make_trainer(tmp_path, "lora", "sft", ranks=ranks, epochs=1000)
        try:
            for step in trainer.steps():
                if ranks.index == 1 and step.number == 5:
                    os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            return trainer.number
        return -1

    first, second = together(2, tmp_path, work)
    assert first == second > 0
    assert make_trainer(tmp_path, "lora", "sft", epochs=1000).number == first, "the first rank has saved that step"


def test_weights_that_drift_apart_end_the_run(tmp_path):
    """A card with bad memory: one bit of one weight."""
    prepare(tmp_path)

    def work(ranks):
        trainer = make_trainer(tmp_path, "full", "sft", ranks=ranks, epochs=2, save_every=3)
        steps = trainer.steps()
        next(steps)
        if ranks.index == 1:
            weight = next(iter(trainer.parameters.values())).data.view(-1)
            weight[:1].view(torch.int32).bitwise_xor_(1)
        return list(steps)

    for said in together(2, tmp_path, work):
        assert "the weights of rank 1 are no longer those of rank 0 (1 tensors" in said


def test_ranks_of_different_trainings_do_not_begin(tmp_path):
    prepare(tmp_path)

    def work(ranks):
        return make_trainer(tmp_path, "full", "sft", ranks=ranks, lr=1e-3 * (1 + ranks.index))

    for said in together(2, tmp_path, work):
        assert said.startswith("TrainingError: rank 1 (at step 0) is about to begin another training")


def test_a_killed_rank_leaves_a_checkpoint_that_goes_on(tmp_path):
    prepare(tmp_path)

    def work(ranks):
        for step in make_trainer(tmp_path, "full", "sft", ranks=ranks, epochs=2).steps():
            if ranks.index == 1 and step.number == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    (first, here), (second, _) = start(2, tmp_path, work)
    (said,) = results([(first, here)])
    second.join(60)
    assert second.exitcode == -signal.SIGKILL
    assert "Error" in said, "nobody waits for the dead"
    assert run(tmp_path, "full", "sft", ALONE)[0][0] == 5, "steps 1 to 4 are on disk"


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    num_pieces=st.integers(1, 9),
    num_ranks=st.integers(1, 6),
)
def test_every_item_is_dealt_once_and_no_rank_has_much_more(lengths, num_pieces, num_ranks):
    sizes = np.array(lengths)
    pieces = [piece for piece in np.array_split(np.arange(len(sizes)), num_pieces) if len(piece)]
    hands = deal(pieces, sizes, num_ranks)
    dealt = [int(item) for hand in hands for _, piece in hand for item in piece]
    assert sorted(dealt) == list(range(len(sizes)))
    loads = [sum(int(sizes[piece].sum()) for _, piece in hand) for hand in hands]
    largest = max((int(sizes[piece].sum()) for hand in hands for _, piece in hand), default=0)
    assert max(loads) - min(loads) <= largest


def test_an_odd_piece_is_halved_rather_than_waited_for():
    hands = deal([np.arange(0, 4), np.arange(4, 8), np.arange(8, 12)], np.full(12, 10), 2)
    assert [sum(len(piece) for _, piece in hand) for hand in hands] == [6, 6]


def test_one_rank_is_dealt_the_plan_itself():
    pieces = [np.arange(3), np.arange(3, 5)]
    assert [(at, piece.tolist()) for at, piece in ALONE.share(pieces, np.ones(5, dtype=np.int64))] == [
        (0, [0, 1, 2]), (1, [3, 4]),
    ]  # fmt: skip
    assert section().devices == 1
