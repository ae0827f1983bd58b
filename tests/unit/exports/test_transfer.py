"""How much of each module's update arrived: the figure is right, noise does not reach it, and it speaks of the module."""

from __future__ import annotations

import pytest
import torch

from danlu.data.sample import Message
from danlu.engines.engine import Question
from danlu.engines.native import NativeEngine
from danlu.exports.parity import Record, hear, record
from danlu.exports.transfer import (
    Effects,
    check_modules,
    check_weights,
    measure_effects,
    measure_weights,
    scaled,
    shrunk,
)
from tiny_chat import QUESTIONS, tuned_engine, write_base


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[NativeEngine, list[Record], Effects]:
    engine, _ = tuned_engine(write_base(tmp_path_factory.mktemp("base")), size=0.05)
    prompts = [engine.prompt_ids(Question((Message("user", text),))) for text in QUESTIONS]
    records = record(engine, prompts, max_new_tokens=8)
    return engine, records, measure_effects(engine, records)


def noisy(heard: list[torch.Tensor], size: float, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [logits + size * torch.randn(logits.shape, generator=generator) for logits in heard]


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.9, 0.97, 1.1])
def test_what_is_missing_of_a_module_is_read_from_the_logits(tuned, factor: float) -> None:
    engine, records, effects = tuned
    for place, layer in list(enumerate(engine.adapter.layers.values()))[::4]:
        with scaled([layer], factor):
            missing = effects.read(records, hear(records, engine))
        slack = 0.02 + 0.5 * abs(1 - factor) ** 2  # the direction is that of a small step
        assert float(missing[place]) == pytest.approx(1 - factor, abs=slack)


def test_a_tenth_shows_through_noise_that_hides_it_in_each_logit(tuned) -> None:
    engine, records, effects = tuned
    heard = hear(records, engine)
    layer = list(engine.adapter.layers.values())[5]
    with scaled([layer], 0.9):
        spoilt = hear(records, engine)
    size = 2 * max(float((a - b).abs().max()) for a, b in zip(heard, spoilt, strict=True)) / 3
    honest = [noisy(heard, size, seed) for seed in (1, 2, 3)]
    right = check_modules("right", effects, records, noisy(heard, size, 9), honest)
    wrong = check_modules("wrong", effects, records, noisy(spoilt, size, 9), honest)
    assert right.verdict == "pass", right
    name = list(engine.adapter.layers)[5]
    assert wrong.verdict == "fail" and name in wrong.note, wrong


def test_noise_too_loud_for_a_module_is_told_as_unshown(tuned) -> None:
    engine, records, effects = tuned
    heard = hear(records, engine)
    check = check_modules("loud", effects, records, heard, [noisy(heard, 5.0, seed) for seed in range(3)])
    assert check.numbers["num_unshown"] > 0 and check.verdict == "pass"


def test_untold_tokens_and_rows_are_left_out(tuned) -> None:
    engine, records, effects = tuned
    with scaled(list(engine.adapter.layers.values()), 0.8):
        heard = hear(records, engine)
    whole = effects.read(records, heard)
    partial = []
    for logits in heard:
        told = logits.log_softmax(-1)[-10:]
        least = told.topk(100, dim=-1).values[:, -1:]
        partial.append(told.masked_fill(told < least, torch.nan))
    assert torch.allclose(effects.read(records, partial), whole, atol=0.25)
    assert bool((effects.read(records, partial) > 0.02).any())


def test_a_lost_number_has_not_arrived(tuned) -> None:
    engine, records, effects = tuned
    heard = [torch.full_like(logits, torch.nan) for logits in hear(records, engine)]
    found = check_modules("lost", effects, records, heard, [hear(records, engine)])
    assert found.verdict == "fail" and found.numbers["num_wrong_modules"] == len(effects.names)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_whole_weight_that_is_too_small_is_named(tuned, factor: float) -> None:
    engine, records, _ = tuned
    weights = measure_weights(engine, records)
    names = list(engine.adapter.layers)
    honest = [hear(records, engine)]
    for name in (names[0], names[9]):
        with shrunk([engine.adapter.layers[name]], factor):
            check = check_weights("weights", weights, records, hear(records, engine), honest)
        assert check.verdict == "fail" and name in check.note, check
    right = check_weights("weights", weights, records, honest[0], honest)
    assert right.verdict == "pass" and right.numbers["num_modules"] == len(names)


def test_shrinking_leaves_the_bias() -> None:
    layer = torch.nn.Linear(3, 2)
    x = torch.randn(4, 3)
    with shrunk([layer], 0.5):
        found = layer(x)
    assert torch.allclose(found, 0.5 * (x @ layer.weight.T) + layer.bias)
    assert not layer._forward_hooks
