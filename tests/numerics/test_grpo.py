"""GRPO against TRL's own numbers, against its equations written out, and against the engine whose answers it learns
from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.engines.engine import Sampling
from danlu.engines.native import NativeEngine
from danlu.engines.sampling_extras import SamplingExtras
from danlu.training.batches import make_batch
from danlu.training.likelihood import target_log_probs
from danlu.training.methods.grpo import GRPO, advantages, grpo_loss, is_flat
from rewards_kit import encoder_of, make_trainer

TRL = json.loads((Path(__file__).parent / "fixtures" / "grpo_trl.json").read_text())


# ---- the loss


def flat(rows: list[list[float]]) -> torch.Tensor:
    """Padded rows of answers, end to end, without the padding."""
    kept = [value for row, length in zip(rows, TRL["lengths"], strict=True) for value in row[:length]]
    return torch.tensor(kept, dtype=torch.float64)


@pytest.mark.parametrize("case", TRL["cases"], ids=lambda case: f"beta {case['beta']}")
def test_loss_and_gradient_are_trls(case: dict) -> None:
    """TRL 1.16 with its defaults (dapo, group). Tolerance: fp64, but for its spreads, which pass through fp32."""
    lengths = torch.tensor(TRL["lengths"])
    rewards_NG = torch.tensor(TRL["rewards"], dtype=torch.float64).view(-1, TRL["group"])
    advantages_N = torch.tensor(TRL["advantages"], dtype=torch.float64)
    torch.testing.assert_close(advantages(rewards_NG).flatten(), advantages_N, rtol=0, atol=1e-7)
    log_probs_S = flat(TRL["log_probs"]).requires_grad_()
    value, _ = grpo_loss(
        log_probs_S, advantages_N.repeat_interleave(lengths), flat(TRL["reference"]), beta=case["beta"]
    )
    mean = value / len(log_probs_S)
    mean.backward()
    assert mean.item() == pytest.approx(case["loss"], abs=1e-12)
    assert log_probs_S.grad is not None
    torch.testing.assert_close(log_probs_S.grad, flat(case["gradient"]), rtol=0, atol=1e-12)


def test_the_equations_written_out_token_by_token() -> None:
    """-A + β (ρ - log ρ - 1), ρ = π_ref / π; its gradient is -A + β (1 - ρ), seen by finite differences of the
    objective with the old policy held."""
    random = np.random.default_rng(3)
    now, reference, worth = (random.normal(size=9) for _ in range(3))
    beta, step = 0.2, 1e-6

    def objective(log_probs: np.ndarray) -> float:
        total = 0.0
        for new, old, ref, advantage in zip(log_probs, now, reference, worth, strict=True):
            ratio = np.exp(ref - new)
            total += -np.exp(new - old) * advantage + beta * (ratio - np.log(ratio) - 1)
        return total

    leaf = torch.tensor(now, requires_grad=True)
    value, metrics = grpo_loss(leaf, torch.tensor(worth), torch.tensor(reference), beta=beta)
    value.backward()
    assert value.item() == pytest.approx(objective(now), abs=1e-12)
    assert leaf.grad is not None and float(metrics["kl"]) >= 0
    for at in range(len(now)):
        moved = step * np.eye(len(now))[at]
        slope = (objective(now + moved) - objective(now - moved)) / (2 * step)
        assert leaf.grad[at].item() == pytest.approx(slope, abs=1e-7)
        assert leaf.grad[at].item() == pytest.approx(-worth[at] + beta * (1 - np.exp(reference[at] - now[at])))


groups = st.integers(2, 8).flatmap(
    lambda size: st.lists(st.lists(st.floats(-4, 4), min_size=size, max_size=size), min_size=1, max_size=5)
)


@given(groups, st.floats(-3, 3), st.randoms())
@settings(max_examples=60)
def test_an_advantage_is_how_much_more_an_answer_earns_than_its_group(rewards: list, shift: float, random) -> None:
    rewards_NG = torch.tensor(rewards, dtype=torch.float64)
    found_NG = advantages(rewards_NG)
    torch.testing.assert_close(found_NG.mean(-1), torch.zeros(len(rewards), dtype=torch.float64), rtol=0, atol=1e-9)
    assert bool((found_NG[is_flat(rewards_NG)] == 0).all()), "a group without spread has nothing to say, to the bit"
    spread_N = rewards_NG.std(-1)
    wanted_N = spread_N / (spread_N + 1e-4)
    torch.testing.assert_close(found_NG.std(-1), wanted_N, rtol=1e-6, atol=1e-9)
    ordered = found_NG.gather(-1, rewards_NG.argsort(-1))
    assert bool((ordered.diff(dim=-1) >= -1e-9).all()), "who earns more is no worse"
    order = list(range(len(rewards[0])))
    random.shuffle(order)
    torch.testing.assert_close(advantages(rewards_NG[:, order]), found_NG[:, order], rtol=0, atol=1e-9)
    worth = rewards_NG.std(-1) > 1e-3  # a shift rounds what is smaller
    torch.testing.assert_close(advantages(rewards_NG + shift)[worth], found_NG[worth], rtol=0, atol=1e-6)


# ---- whose answers they are


@pytest.mark.parametrize("adapter", ["lora", "full", "prefix"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_engine_draws_what_training_counts(tmp_path: Path, adapter: str, temperature: float) -> None:
    """Log-probabilities of drawn tokens as the engine had them, and recomputed for the gradient: fp32, other orders of
    sums, so to 2e-5. The weights are those of a step in the middle."""
    trainer = make_trainer(tmp_path, adapter, temperature=temperature, max_steps=3, lr=0.03)
    for _ in trainer.steps():
        pass
    method, model = trainer.method, trainer.model
    assert isinstance(method, GRPO)
    rollout = method.roll_out(np.arange(4), 9)
    batch = make_batch("rollout", np.arange(16), rollout.documents)
    counted = target_log_probs(model, batch, temperature).detach()
    said = engine_log_probs(
        NativeEngine(model, encoder_of(model), name="p", adapter=trainer.adapter), rollout, temperature
    )
    torch.testing.assert_close(counted.double(), said, rtol=0, atol=2e-5)
    assert counted.std() > 0.05, "a model that is sure of nothing in particular would agree with anything"


def engine_log_probs(engine: NativeEngine, rollout, temperature: float) -> torch.Tensor:
    """What an engine says of the same answers while it decodes: the answers are drawn again with the same seeds, and
    the logits of each step are read."""
    found = []
    for tokens in rollout.documents:
        start = int(np.flatnonzero(tokens.weights)[0])
        prompt, answer = tokens.ids[:start].tolist(), tokens.ids[start:].tolist()
        row = engine._row(0, prompt, Sampling(max_new_tokens=len(answer)), needs_text=False)
        row.extras = SamplingExtras(num_likeliest=0)
        seen = []
        forward = engine._forward([row])
        decoding_logits(engine, forward, row, answer, seen, temperature)
        found += seen
    return torch.tensor(found, dtype=torch.float64)


def decoding_logits(engine: NativeEngine, forward, row, answer: list[int], seen: list, temperature: float) -> None:
    """Decode step by step, the answer's tokens being forced."""
    from danlu.engines.plain import Plain
    from danlu.engines.rows import Span

    forward = forward or Plain(engine.model, 1, row.most_tokens, engine._weights)
    forward.begin([row])
    spans = [Span(row, row.num_done, len(row.prompt))]
    for token in answer:
        with torch.inference_mode():
            _, hidden_RD = forward.run(spans)
            logits_V = forward.logits(hidden_RD)[0].double() / temperature
        seen.append(float(logits_V.log_softmax(-1)[token]))
        row.ids.append(token)
        spans = []


def test_draws_follow_from_seed_step_and_question_alone(tmp_path: Path) -> None:
    """Whoever else is asked beside it; another step draws others."""
    trainer = make_trainer(tmp_path)
    method = trainer.method
    assert isinstance(method, GRPO)
    alone, among = method.roll_out(np.array([5]), 3), method.roll_out(np.array([1, 5, 7, 8]), 3)
    other = method.roll_out(np.array([5]), 4)

    def texts(rollout, item: int) -> list[list[int]]:
        return [d.ids.tolist() for d, at in zip(rollout.documents, rollout.items, strict=True) if at == item]

    assert texts(alone, 5) == texts(among, 5) != texts(other, 5)
    assert len({tuple(ids) for ids in texts(alone, 5)}) > 1, "a group's answers are drawn apart"


def test_the_reference_is_the_model_as_the_stage_found_it(tmp_path: Path) -> None:
    """A fresh adapter is switched off, of all weights a copy is kept: at the first step the divergence is 0, later it
    is not, and asking for it changes no weight."""
    for adapter in ("lora", "full"):
        trainer = make_trainer(tmp_path / adapter, adapter, beta=0.1, lr=0.02, max_steps=3)
        told = [step.metrics["kl"] for step in trainer.steps()]
        assert abs(told[0]) < 1e-6 < told[1] < told[2]
        before = {name: weight.detach().clone() for name, weight in trainer.parameters.items()}
        with trainer.method._as_found():  # type: ignore[union-attr]
            pass
        assert all(torch.equal(before[name], weight) for name, weight in trainer.parameters.items())
