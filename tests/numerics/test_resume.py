"""Stopped at any moment and started again, a training ends with the same bits (others restart, or skip data)."""

import multiprocessing
import random
import signal
import sys
from pathlib import Path

import pytest
import torch

from danlu.adapters.full import Full
from danlu.adapters.load import load_trained
from danlu.core.errors import TrainingError
from danlu.core.files import read_json
from danlu.training.methods.sft import SFT
from danlu.training.trainer import Trainer
from progress_kit import Notes
from training_child import make_trainer, train
from training_kit import dataset, pair_items, section, sft_items, tiny_model
from waiting_kit import PATIENCE_S

# Forking spares each child the seconds that importing torch takes; elsewhere than on Linux it is not safe.
# A forked child may not run backward once CUDA's autograd threads exist.
START = multiprocessing.get_context("fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn")
DELAY_S = 0.1 if sys.platform == "linux" else 5.0
CASES = [
    ("lora", "sft"),
    ("full", "sft"),
    ("lora", "dpo"),
    ("full", "dpo"),
    ("full, last", "sft"),
    ("dora", "sft"),
    ("prefix", "sft"),
    ("prefix", "dpo"),
]


def prepare(folder: Path, method: str) -> Path:
    make = pair_items if method == "dpo" else sft_items
    dataset(folder / "data", make(40), make(10, seed=1))
    return folder


def final_files(folder: Path) -> dict[str, bytes]:
    """Everything that training left: weights and optimizer of every kept checkpoint, best and last."""
    kept = sorted((folder / "checkpoints").rglob("*.safetensors"))
    assert kept
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def run_through(folder: Path, adapter: str, method: str, **knobs) -> list:
    torch.set_num_threads(1)
    return list(make_trainer(folder, adapter, method, **knobs).steps())


@pytest.mark.parametrize(("adapter", "method"), CASES)
def test_stopping_after_every_step_changes_no_bit(tmp_path, adapter, method):
    torch.set_num_threads(1)
    whole, parts = prepare(tmp_path / "whole", method), prepare(tmp_path / "parts", method)
    expected = run_through(whole, adapter, method)
    seen = []
    while len(seen) < len(expected):
        trainer = make_trainer(parts, adapter, method)
        torch.rand(7)  # whatever else draws random numbers in this process must not matter
        steps = trainer.steps()
        seen.append(next(steps))
        trainer.save()
        steps.close()
    assert [(s.number, s.loss, s.grad_norm, s.validation) for s in seen] == [
        (s.number, s.loss, s.grad_norm, s.validation) for s in expected
    ]
    # The stopped one kept other steps' folders; the last and the best are what counts.
    mine, theirs = make_trainer(parts, adapter, method), make_trainer(whole, adapter, method)
    assert mine.is_done
    assert mine.last.name == theirs.last.name
    assert mine.best.name == theirs.best.name
    for one, other in ((mine.last, theirs.last), (mine.best / "weights", theirs.best / "weights")):
        for path in one.rglob("*.safetensors"):
            assert path.read_bytes() == (other / path.relative_to(one)).read_bytes()


@pytest.mark.parametrize(("adapter", "method"), [("lora", "sft"), ("full", "dpo")])
def test_sigkill_at_random_moments_changes_no_bit(tmp_path, adapter, method):
    whole, killed = prepare(tmp_path / "whole", method), prepare(tmp_path / "killed", method)
    expected = run_through(whole, adapter, method)
    chance = random.Random(f"{adapter}{method}")
    num_kills = 0
    for _ in range(12):
        child = START.Process(target=train, args=(killed, adapter, method))
        child.start()
        if num_kills < 5:
            child.join(timeout=DELAY_S + chance.random() * 0.6)
            if child.is_alive():
                child.kill()  # SIGKILL: nothing can be tidied up
        child.join(timeout=PATIENCE_S)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        num_kills += 1
    assert num_kills, "nothing was interrupted"
    assert final_files(killed) == final_files(whole)
    state = read_json(sorted((killed / "checkpoints").glob("step-*"))[-1] / "state.json")
    assert state["number"] == expected[-1].number


def test_ctrl_c_leaves_a_checkpoint_of_the_last_whole_step(tmp_path):
    folder = prepare(tmp_path, "sft")
    trainer = make_trainer(folder, "lora", "sft", save_every=1000)
    calls = iter(range(100))
    plain_loss = trainer.method.loss

    def interrupted(model, batch):
        if next(calls) == 9:
            raise KeyboardInterrupt
        return plain_loss(model, batch)

    object.__setattr__(trainer.method, "loss", interrupted)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for step in trainer.steps():
            seen.append(step.number)
    assert read_json(trainer.last / "state.json")["number"] == seen[-1]
    rest = [step.number for step in make_trainer(folder, "lora", "sft", save_every=1000).steps()]
    assert rest[0] == seen[-1] + 1


def test_a_checkpoint_interrupted_before_its_validation_is_validated_on_return(tmp_path):
    whole, stopped = prepare(tmp_path / "whole", "sft"), prepare(tmp_path / "stopped", "sft")
    run_through(whole, "lora", "sft")
    trainer = make_trainer(stopped, "lora", "sft")

    def interrupted():
        raise KeyboardInterrupt

    trainer.validate = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(trainer.steps())
    run_through(stopped, "lora", "sft")
    assert final_files(stopped) == final_files(whole)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole, damaged = prepare(tmp_path / "whole", "sft"), prepare(tmp_path / "damaged", "sft")
    run_through(whole, "lora", "sft")
    trainer = make_trainer(damaged, "lora", "sft", save_every=1)
    for step in trainer.steps():
        if step.number == 6:
            break
    newest = trainer.last / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-5] ^= 1
    newest.write_bytes(content)
    notes = Notes()
    again = make_trainer(damaged, "lora", "sft", progress=notes)
    assert again.number == 5
    assert "step-00000006" in notes.said[0]
    list(again.steps())
    mine, theirs = again.last, make_trainer(whole, "lora", "sft").last
    assert (mine / "state.safetensors").read_bytes() == (theirs / "state.safetensors").read_bytes()


def test_checkpoints_of_another_run_are_refused(tmp_path):
    folder = prepare(tmp_path, "sft")
    next(iter(run_through(folder, "lora", "sft", max_steps=4)))
    with pytest.raises(TrainingError, match=r"training\.lr"):
        make_trainer(folder, "lora", "sft", max_steps=4, lr=0.5)
    dataset(folder / "data", sft_items(41))
    with pytest.raises(TrainingError, match="data"):
        make_trainer(folder, "lora", "sft", max_steps=4)


def test_a_finished_run_has_nothing_left_to_do(tmp_path):
    folder = prepare(tmp_path, "sft")
    run_through(folder, "lora", "sft")
    before = final_files(folder)
    assert run_through(folder, "lora", "sft") == []
    assert final_files(folder) == before


def test_same_seed_same_curve(tmp_path):
    curves = []
    for seed in (1, 1, 2):
        folder = prepare(tmp_path / f"{len(curves)}", "sft")
        curves.append([step.loss for step in run_through(folder, "lora", "sft", seed=seed)])
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


@pytest.mark.parametrize("adapter", ["lora", "full", "full, last"])
def test_a_second_stage_starts_from_the_same_bits_in_the_same_process_and_in_another(tmp_path, adapter):
    """In bf16, where masters are finer than what is saved."""
    torch.set_num_threads(1)
    folder = prepare(tmp_path, "sft")
    first = make_trainer(folder, adapter, "sft", dtype=torch.bfloat16)
    list(first.steps())
    ends = []
    for number, (model, attached) in enumerate(
        [(first.model, first.adapter), (other := tiny_model(folder / "model", dtype=torch.bfloat16), None)]
    ):
        attached = attached or load_trained(first.last, other, full=Full(layers=1) if "last" in adapter else None)
        second = Trainer(
            model, attached, SFT(), first.dataset, section=section(lr=1e-3), folder=tmp_path / f"second-{number}"
        )
        list(second.steps())
        ends.append((second.last / "state.safetensors").read_bytes())
    assert ends[0] == ends[1]
