#!/usr/bin/env python3
"""Records what TRL's GRPOTrainer computes, so that `test_grpo.py` can hold our GRPO to it. Not a test.

TRL is not a dependency; this runs in a virtual environment of its own, in seconds on a CPU:

    pip install "torch==2.13.*" "trl==1.16.*" transformers
    python tests/numerics/make_grpo_trl.py

`GRPOTrainer._compute_loss` is TRL's own code, given a trainer's settings and log-probabilities instead of a model: with
`loss_type="dapo"` and `scale_rewards="group"`, its defaults, and one update a batch. Advantages are worked out in the
middle of a long method that also generates; their two lines are written out below.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

FIXTURE = Path(__file__).parent / "fixtures" / "grpo_trl.json"
GROUP, GROUPS, LONGEST = 4, 3, 6
BETAS = (0.0, 0.04, 0.5)


def main() -> None:
    from trl.trainer.grpo_trainer import GRPOTrainer

    generator = torch.Generator().manual_seed(5)
    num = GROUP * GROUPS
    lengths = torch.randint(1, LONGEST + 1, (num,), generator=generator)
    mask = (torch.arange(LONGEST)[None] < lengths[:, None]).long()
    log_probs = -3 * torch.rand(num, LONGEST, generator=generator, dtype=torch.float64)
    reference = log_probs + 0.3 * torch.randn(num, LONGEST, generator=generator, dtype=torch.float64)
    rewards = torch.rand(num, generator=generator, dtype=torch.float64)
    rewards[:GROUP] = 0.25  # a group without spread
    advantages = _advantages(rewards)
    cases = []
    for beta in BETAS:
        leaf = log_probs.clone().requires_grad_()
        inputs = {
            "prompt_ids": torch.zeros(num, 1, dtype=torch.long), "prompt_mask": torch.ones(num, 1, dtype=torch.long),
            "completion_ids": torch.zeros_like(mask), "completion_mask": mask, "advantages": advantages,
            "num_items_in_batch": mask.sum(), "ref_per_token_logps": reference,
        }  # fmt: skip
        loss = GRPOTrainer._compute_loss(_trainer(leaf, beta), None, inputs)
        loss.backward()
        cases.append({"beta": beta, "loss": loss.item(), "gradient": leaf.grad.tolist()})
    told = {
        "lengths": lengths.tolist(), "log_probs": log_probs.tolist(), "reference": reference.tolist(),
        "rewards": rewards.tolist(), "group": GROUP, "advantages": advantages.tolist(), "cases": cases,
    }  # fmt: skip
    FIXTURE.write_text(json.dumps(told) + "\n", encoding="utf-8")


def _advantages(rewards: torch.Tensor) -> torch.Tensor:
    """As in `_generate_and_score_completions`, with the spread that `nanstd` gives."""
    from trl.trainer.utils import nanstd

    grouped = rewards.view(-1, GROUP)
    means = grouped.mean(1).repeat_interleave(GROUP)
    spreads = nanstd(grouped, dim=1).repeat_interleave(GROUP)
    return (rewards - means) / (spreads + 1e-4)


def _trainer(log_probs: torch.Tensor, beta: float) -> Any:
    """The settings that the loss reads, at TRL's defaults."""
    accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, **_: x
    )
    return SimpleNamespace(
        beta=beta, loss_type="dapo", importance_sampling_level="token", epsilon_low=0.2, epsilon_high=0.2,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, aux_loss_enabled=False, use_vllm=False,
        _entropy_bonus_enabled=False,
        vllm_importance_sampling_correction=False, current_gradient_accumulation_steps=1, accelerator=accelerator,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, gradient_accumulation_steps=1,
                             steps_per_generation=1),
        model=SimpleNamespace(training=True), _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
    )  # fmt: skip


if __name__ == "__main__":
    main()
