"""A training with rewards: resumed it is uninterrupted, pieces and ranks change nothing, and flat groups are told."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from danlu.core.errors import TrainingError
from danlu.core.files import read_json
from danlu.training.methods.grpo import GRPO
from ranks_kit import together
from rewards_kit import make_trainer


def final_weights(folder: Path) -> bytes:
    last = sorted((folder / "checkpoints").glob("step-*"))[-1]
    return (last / "state.safetensors").read_bytes()


@pytest.mark.parametrize(("adapter", "beta"), [("dropped", 0.0), ("full", 0.1)])
def test_stopped_after_every_step_it_ends_with_the_same_bits(tmp_path: Path, adapter: str, beta: float) -> None:
    """Answers are drawn by seed, step and question, and the reference is the stage's beginning, not where it went on."""
    torch.set_num_threads(1)
    expected = list(make_trainer(tmp_path / "whole", adapter, beta=beta).steps())
    seen = []
    while len(seen) < len(expected):
        trainer = make_trainer(tmp_path / "parts", adapter, beta=beta)
        torch.rand(7)
        steps = trainer.steps()
        seen.append(next(steps))
        trainer.save()
        steps.close()
    figures = [(s.number, s.loss, s.grad_norm, s.metrics, s.validation) for s in seen]
    assert figures == [(s.number, s.loss, s.grad_norm, s.metrics, s.validation) for s in expected]
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


def test_what_is_told_of_a_step(tmp_path: Path) -> None:
    steps = list(make_trainer(tmp_path, max_steps=2, eval_every=0.01).steps())
    names = {"reward", "reward_std", "reward_char_f1", "reward_format", "flat_ratio", "answer_tokens", "cut_ratio"}
    for step in steps:
        assert set(step.metrics) == names and 0 < step.metrics["reward"] < 1.5
        assert 1 <= step.metrics["answer_tokens"] <= 8 and 0 <= step.metrics["flat_ratio"] < 1
        assert step.validation is not None and set(step.validation) == names - {"reward_std", "flat_ratio"}
    assert steps[0].num_supervised_tokens < steps[0].num_tokens <= 700


def test_a_higher_reward_is_the_better_validation(tmp_path: Path) -> None:
    """Where a loss is better when it is lower."""
    trainer = make_trainer(tmp_path, eval_every=0.01, patience=2, max_steps=30)
    told = iter([0.1, 0.4, 0.3, 0.2, 0.9])
    trainer.validate = lambda: {"reward": next(told)}  # type: ignore[method-assign]
    steps = list(trainer.steps())
    assert [step.validation for step in steps] == [{"reward": r} for r in (0.1, 0.4, 0.3, 0.2)]
    assert trainer.is_done and trainer.best is not None and trainer.best.name.endswith("2")
    assert read_json(trainer.last / "state.json")["best"] == {"number": 2, "loss": -0.4, "num_misses": 2}  # type: ignore[operator]


def test_pieces_change_nothing_but_the_last_bits(tmp_path: Path) -> None:
    whole = list(make_trainer(tmp_path / "a", max_steps=2, micro_tokens=4000).steps())
    cut = list(make_trainer(tmp_path / "b", max_steps=2, micro_tokens=60).steps())
    for one, other in zip(whole, cut, strict=True):
        assert one.metrics["reward"] == other.metrics["reward"] and one.num_tokens == other.num_tokens
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)


def test_no_answer_better_than_another_is_no_fault_until_the_end(tmp_path: Path) -> None:
    """Checkpoints on the way are written, with a zero adapter; to ship that is refused."""
    trainer = make_trainer(tmp_path, max_steps=4)
    method = trainer.method
    assert isinstance(method, GRPO)
    method.rewards = {"char_f1": 0.0, "format": 0.0}
    numbers = []
    with pytest.raises(TrainingError) as caught:
        for step in trainer.steps():
            numbers.append(step.number)
            assert step.metrics["flat_ratio"] == 1 and step.grad_norm == 0
    assert caught.value.key == "adapter.empty" and numbers == [1, 2, 3]


def test_ranks_answer_their_share(tmp_path: Path) -> None:
    """Two ranks draw what one would and make the same update, to the order of sums."""
    make_trainer(tmp_path)  # the data, once

    def work(ranks, folder: Path) -> list:
        trainer = make_trainer(folder, max_steps=3, ranks=ranks, save_every=100)
        return [(step.metrics["reward"], step.grad_norm, step.validation) for step in trainer.steps()]

    torch.set_num_threads(1)
    alone = [(s.metrics["reward"], s.grad_norm, s.validation) for s in make_trainer(tmp_path, max_steps=3).steps()]
    (tmp_path / "checkpoints").rename(tmp_path / "alone")
    first, second = together(2, tmp_path, functools.partial(work, folder=tmp_path))
    assert first == second
    for (reward, norm, checked), (its, its_norm, its_checked) in zip(first, alone, strict=True):
        assert reward == pytest.approx(its, abs=1e-6) and norm == pytest.approx(its_norm, rel=1e-4)
        assert (checked is None) == (its_checked is None)
