"""AdamW over named parameters: which of them decay, and its state as named tensors.

Decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101) on matrices only, never on norms and biases.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], *, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW in one fused kernel. States have the dtype of the parameters, which are fp32 masters."""
    decaying = [weight for weight in parameters.values() if weight.ndim >= 2]
    steady = [weight for weight in parameters.values() if weight.ndim < 2]
    groups = [
        {"params": weights, "weight_decay": decay}
        for weights, decay in ((decaying, weight_decay), (steady, 0.0))
        if weights
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's whole state by name: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`."""
    return {
        f"{what}/{name}": state[what]
        for name, weight in parameters.items()
        if (state := optimizer.state.get(weight))
        for what in (*MOMENTS, "step")
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; a parameter without saved state starts with none."""
    for name, weight in parameters.items():
        if f"step/{name}" not in tensors:
            continue
        state = {what: tensors[f"{what}/{name}"].to(weight.device, weight.dtype) for what in MOMENTS}
        # The fused kernel wants its step counter beside the weight.
        optimizer.state[weight] = state | {"step": tensors[f"step/{name}"].to(weight.device)}


def gradient_norm(parameters: Mapping[str, nn.Parameter]) -> Tensor:
    """The global L2 norm of the gradients, a device scalar."""
    return torch.nn.utils.get_total_norm([weight.grad for weight in parameters.values() if weight.grad is not None])


def clip_gradients(parameters: Mapping[str, nn.Parameter], norm: Tensor, limit: float) -> None:
    """Scale all gradients so that their norm is at most `limit`; 0 leaves them alone."""
    if limit:
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)
