"""Learning classes with an encoder: the loss and gradients are transformers', whatever shares a row or a piece; stopped
and started again it ends with the same bits; what can be learnt is learnt, and what is learnt by heart stops early."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from danlu.adapters.full import Full
from danlu.data.tokens import Item, Tokens
from danlu.model.build import save_model
from danlu.model.classifier import Classifier
from danlu.training.methods.classify import Classify
from danlu.training.trainer import Trainer
from training_kit import dataset, section, tiny_model

VOCAB, CLASSES = 60, {"a": 20, "b": 10, "c": 10}
BERT: dict[str, Any] = {
    "model_type": "bert", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def items(num: int, *, seed: int = 0) -> list[Item]:
    """Texts that hold one of three tell-tale tokens somewhere, and last the number of their class."""
    random = np.random.default_rng(seed)
    made = []
    for row in range(num):
        number = int(random.choice(3, p=[0.5, 0.25, 0.25]))
        text = random.integers(10, VOCAB, int(random.integers(4, 20)))
        text[random.integers(len(text))] = 4 + number
        ids = np.array([2, *text, 3, number], dtype=np.int32)
        made.append(Item((Tokens(ids, (np.arange(len(ids)) == len(ids) - 1).astype(np.uint8)),), f"rows.csv:{row + 2}"))
    return made


def encoder(folder: Path, *, dtype: torch.dtype = torch.float64, **further: Any) -> Classifier:
    model = tiny_model(folder, BERT | further, dtype=dtype)
    assert isinstance(model, Classifier)
    model.tell(CLASSES)
    return model


def trainer(folder: Path, model: Classifier, **knobs: Any) -> Trainer:
    data = dataset(folder / "data", items(40), items(12, seed=1))
    return Trainer(
        model, Full().attach(model), Classify(), data, folder=folder / "checkpoints", section=section(**knobs)
    )


def first_gradients(folder: Path, micro_tokens: int) -> tuple[int, float, dict[str, torch.Tensor]]:
    """(pieces, loss, gradients) of one step over all rows."""
    model = encoder(folder / "model")
    torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(2))
    run = trainer(folder, model, batch_tokens=10_000_000, micro_tokens=micro_tokens)
    batches = next(run.feed.steps_after(0)).batches
    num_units = sum(run.method.num_units(batch) for batch in batches)
    assert num_units == 40  # rows, not tokens
    loss = run.passes.accumulate(batches, num_units, 1)["loss"] / num_units
    return len(batches), float(loss), {name: weight.grad.clone() for name, weight in run.parameters.items()}


def test_accumulated_is_one_batch_and_packed_is_alone(tmp_path: Path) -> None:
    num_one, loss_one, one = first_gradients(tmp_path / "one", 4096)
    num_few, loss_few, few = first_gradients(tmp_path / "few", 64)
    num_alone, loss_alone, alone = first_gradients(tmp_path / "alone", 16)  # raised to the longest row
    assert num_one == 1 and num_few > 8 and num_alone > num_few
    assert loss_one == pytest.approx(loss_few, rel=1e-12) == pytest.approx(loss_alone, rel=1e-12)
    for name, gradient in one.items():
        torch.testing.assert_close(few[name], gradient, rtol=1e-9, atol=1e-13, msg=name)
        torch.testing.assert_close(alone[name], gradient, rtol=1e-9, atol=1e-13, msg=name)


def test_loss_and_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    _, loss, gradients = first_gradients(tmp_path, 4096)
    model = encoder(tmp_path / "model")
    torch.nn.init.normal_(model.classifier.weight, generator=torch.Generator().manual_seed(2))
    save_model(model, tmp_path / "theirs", torch.float64)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "theirs", dtype=torch.float64, attn_implementation="eager"
    ).train()
    rows = [item.tokens[0].ids.astype(np.int64) for item in items(40)]
    losses = [theirs(torch.from_numpy(ids[None, :-1]), labels=torch.from_numpy(ids[-1:])).loss for ids in rows]
    mean = torch.stack(losses).mean()
    mean.backward()
    assert loss == pytest.approx(mean.item(), rel=1e-12)
    for name, weight in theirs.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_training_begins_at_the_classes_entropy(tmp_path: Path) -> None:
    """Not at ln 3: the new head knows how frequent each class is, and nothing else."""
    model = encoder(tmp_path / "model", dtype=torch.float32)
    run = trainer(tmp_path, model)
    rows = [int(item.tokens[0].ids[-1]) for item in items(12, seed=1)]
    shares = [count / sum(CLASSES.values()) for count in CLASSES.values()]
    told = run.validate()
    assert told["loss"] == pytest.approx(-sum(math.log(shares[row]) for row in rows) / 12, rel=1e-6)
    assert told["accuracy"] == pytest.approx(rows.count(0) / 12)


def test_stopped_and_started_again_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """With dropout, as encoders are trained."""
    torch.set_num_threads(1)
    dropped = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "classifier_dropout": 0.2}

    def build(folder: Path) -> Trainer:
        return trainer(folder, encoder(folder / "model", dtype=torch.float32, **dropped), epochs=2)

    expected = list(build(tmp_path / "whole").steps())
    assert len({step.loss for step in expected}) == len(expected) > 6
    seen = []
    while len(seen) < len(expected):
        run = build(tmp_path / "parts")
        torch.rand(7)  # whatever else draws random numbers must not matter
        steps = run.steps()
        seen.append(next(steps))
        run.save()
        steps.close()
    told = [[(s.number, s.loss, s.grad_norm, s.metrics, s.validation) for s in steps] for steps in (seen, expected)]
    assert told[0] == told[1]
    one, other = (build(tmp_path / name).last / "weights" / "model.safetensors" for name in ("whole", "parts"))
    assert one.read_bytes() == other.read_bytes()


def test_what_can_be_learnt_is_learnt(tmp_path: Path) -> None:
    model = encoder(tmp_path / "model", dtype=torch.float32)
    data = dataset(tmp_path / "data", items(400), items(60, seed=1))
    told = section(lr=3e-3, epochs=10, batch_tokens=512, micro_tokens=512, patience=0)
    run = Trainer(model, Full().attach(model), Classify(), data, folder=tmp_path / "checkpoints", section=told)
    steps = list(run.steps())
    assert steps[-1].validation["accuracy"] > 0.95  # the most frequent class alone gives one half


def test_what_is_learnt_by_heart_stops_early(tmp_path: Path) -> None:
    """Forty rows are soon known by heart; validation says so."""
    model = encoder(tmp_path / "model", dtype=torch.float32)
    run = trainer(tmp_path, model, lr=3e-3, epochs=200, batch_tokens=512, micro_tokens=512, eval_every=1, patience=2)
    steps = list(run.steps())
    assert len(steps) < run.plan.num_steps
    losses = [step.validation["loss"] for step in steps if step.validation]
    assert min(losses) < min(losses[-2:])
