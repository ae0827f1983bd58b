# ruff: noqa: N815 - shape suffixes
"""Group relative policy optimisation: learning from rewards that can be checked (Shao et al. 2024, arXiv:2402.03300).

For each question a group of answers is drawn from the model as it is; an answer's advantage is how much more it earns
than its group, (r - mean) / (std + ε). So no second model has to guess what a question is worth.

What of the many variants is taken, and why:
- Losses are summed over all tokens of a step's answers and divided by their number (DAPO, Yu et al. 2025,
  arXiv:2503.14476). A mean per answer first, as in the first paper, makes a wrong answer's tokens cheaper the longer it
  is: answers grow (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783).
- Rewards are divided by their spread, as in the first paper and in TRL. Dr. GRPO leaves that out, for it weighs very
  easy and very hard questions more; in return rewards of any scale want one learning rate.
- One update a step, from answers of these very weights. The ratio of new to old probabilities is 1 and nothing is
  clipped: it is the plain policy gradient (Williams 1992), and no answer is stale.
- Answers that were cut count as they stand. Groups without spread have no gradient; they are counted and told.
- KL to the model that the stage began with, per token and never negative: ρ - log ρ - 1, ρ = π_ref / π (equation 4 of
  the first paper, after Schulman). Nothing where beta is 0, as in the later two.

Shapes: N answers, G of a group, S tokens of answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from danlu.data.dataset import Part
from danlu.data.sample import Kind
from danlu.data.tokens import Tokens
from danlu.model.model import Model
from danlu.training.batches import Batch, Items
from danlu.training.likelihood import target_log_probs
from danlu.training.methods.method import Loss, Rollout, Stage
from danlu.training.reference import AsFound, as_found

EPS = 1e-4
"""Added to a group's spread, as TRL does."""


def advantages(rewards_NG: Tensor) -> Tensor:
    """(r - mean) / (std + ε) within each group, [N, G]; all zero where a group's rewards are equal."""
    gap_NG = rewards_NG - rewards_NG.mean(-1, keepdim=True)
    gap_NG = gap_NG.masked_fill(is_flat(rewards_NG)[:, None], 0.0)  # what rounding leaves of a mean is no difference
    return gap_NG / (rewards_NG.std(-1, keepdim=True) + EPS)


def is_flat(rewards_NG: Tensor) -> Tensor:
    """Which groups earn the same with every answer, [N]."""
    return rewards_NG.amax(-1) == rewards_NG.amin(-1)


def grpo_loss(
    log_probs_S: Tensor, advantages_S: Tensor, reference_S: Tensor | None = None, *, beta: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ over tokens of -(π / π_old) A + β (ρ - log ρ - 1), ρ = π_ref / π; π_old is π without a gradient. `reference_S`
    are log-probabilities of the same tokens, wanted where beta is not 0."""
    losses_S = -(log_probs_S - log_probs_S.detach()).exp() * advantages_S
    if not beta:
        return losses_S.sum(), {}
    assert reference_S is not None, "who is held to a reference has one"
    gap_S = reference_S - log_probs_S
    divergence_S = gap_S.exp() - gap_S - 1
    return (losses_S + beta * divergence_S).sum(), {"kl": divergence_S.detach().sum()}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a row. `tokens` are prompt and answer, weighed where they were drawn, the end included; `values` are
    what each metric says of it, unweighted."""

    tokens: Tokens
    values: Mapping[str, float]
    is_cut: bool = False
    """It was as long as it may be before it came to its end."""


class Ask(Protocol):
    """Who answers with the weights as they are in memory and judges, made where engines and metrics are known."""

    def __call__(self, part: str, items: Items, *, number: int | None) -> Sequence[Sequence[Answer]]:
        """To each row a group of answers drawn for step `number`: the same draws for the same step and row. Without a
        number, one likeliest answer each."""
        ...


@dataclass
class GRPO:
    """`rewards`: metrics with their weights; `group` answers a question, each of at most `max_new_tokens`, drawn at
    `temperature`; `beta` holds to the reference. `ask` is no setting: who answers decides nothing that these do not."""

    ask: Ask = field(compare=False, repr=False)
    rewards: Mapping[str, float] = field(default_factory=lambda: {"exact": 1.0})
    group: int = 8
    max_new_tokens: int = 256
    temperature: float = 1.0
    beta: float = 0.0
    kind: Literal["grpo"] = "grpo"
    accepts: frozenset[Kind] = frozenset({"conversation", "label"})
    betas: tuple[float, float] = (0.9, 0.999)
    _as_found: AsFound | None = field(default=None, init=False, repr=False)
    _advantages_N: Tensor = field(default_factory=lambda: torch.zeros(0), init=False, repr=False)

    def begin(self, stage: Stage) -> None:
        self._as_found = as_found(stage.model, stage.attached) if self.beta else None

    # ---- answers

    def expected_tokens(self, part: Part) -> tuple[Items, int]:
        """A prompt is what stands before a row's reference answer."""
        return part.lengths - part.supervised + self.max_new_tokens, self.group

    def roll_out(self, items: Items, number: int) -> Rollout:
        groups = self._asked("train", items, number)
        answers = [answer for group in groups for answer in group]
        rewards_NG = torch.tensor([[self._reward(one) for one in group] for group in groups])
        rewards_NG = rewards_NG.view(len(groups), self.group)  # of no group too
        self._advantages_N = advantages(rewards_NG).flatten()
        sums = self._sums(answers) | {
            "groups": float(len(groups)),
            "flat": float(is_flat(rewards_NG).sum()),
            "spread": float(rewards_NG.std(-1).sum()),
        }
        return Rollout([one.tokens for one in answers], np.repeat(items, self.group), sums)

    def judge(self, part: str, items: Items) -> dict[str, float]:
        return self._sums([answer for group in self._asked(part, items, None) for answer in group])

    def told(self, sums: Mapping[str, float]) -> dict[str, float]:
        num, groups = max(1.0, sums["answers"]), sums.get("groups", 0.0)
        found = {name: sums[name] / num for name in ("reward", "answer_tokens", "cut_ratio")}
        if len(self.rewards) > 1:
            found |= {f"reward_{name}": sums[f"reward_{name}"] / num for name in self.rewards}
        if groups:
            found |= {"reward_std": sums["spread"] / groups, "flat_ratio": sums["flat"] / groups}
        return found

    def _asked(self, part: str, items: Items, number: int | None) -> Sequence[Sequence[Answer]]:
        return self.ask(part, items, number=number) if len(items) else []

    def _reward(self, answer: Answer) -> float:
        return sum(weight * answer.values[name] for name, weight in self.rewards.items())

    def _sums(self, answers: Sequence[Answer]) -> dict[str, float]:
        return {
            "answers": float(len(answers)),
            "reward": sum(map(self._reward, answers)),
            "answer_tokens": float(sum(one.tokens.num_supervised for one in answers)),
            "cut_ratio": float(sum(one.is_cut for one in answers)),
            **{f"reward_{name}": sum(one.values[name] for one in answers) for name in self.rewards},
        }

    # ---- what is learnt from them

    def num_units(self, batch: Batch) -> int:
        return batch.num_targets

    def loss(self, model: Model, batch: Batch) -> Loss:
        advantages_N = self._advantages_N[torch.from_numpy(batch.items)]
        advantages_S = advantages_N.to(model.device).repeat_interleave(batch.num_targets_N.to(model.device))
        reference_S = None
        if self._as_found is not None:  # first: it may exchange weights, which a backward must find as they were
            with torch.no_grad(), self._as_found():
                reference_S = target_log_probs(model, batch, self.temperature)
        log_probs_S = target_log_probs(model, batch, self.temperature)
        value, metrics = grpo_loss(log_probs_S, advantages_S.to(log_probs_S), reference_S, beta=self.beta)
        return Loss(value, batch.num_targets, metrics)
