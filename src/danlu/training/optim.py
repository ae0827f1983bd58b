"""AdamW over named parameters: which of them decay, and its state as named tensors.

Decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101) on matrices only, never on norms and biases.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from danlu.training.flat import FlatAdamW

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], *, lr: float, weight_decay: float, betas: tuple[float, float],
    is_flat: bool = False,
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW in one fused kernel. States have the dtype of the parameters, which are fp32 masters. `is_flat` lays
    parameters, gradients and states in one buffer each: for many small tensors. On a CPU the results are the same."""
    if is_flat:
        return FlatAdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas)
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
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
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
    if isinstance(optimizer, FlatAdamW):
        optimizer.restore(tensors)
        return
    for name, weight in parameters.items():
        if f"step/{name}" not in tensors:
            continue
        state = {what: tensors[f"{what}/{name}"].to(weight.device, weight.dtype) for what in MOMENTS}
        # The fused kernel wants its step counter beside the weight.
        optimizer.state[weight] = state | {"step": tensors[f"step/{name}"].to(weight.device)}


def gradient_norm(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """The global L2 norm of the gradients, a device scalar; the optimizer, where given, may know a shorter way."""
    if isinstance(optimizer, FlatAdamW):
        return optimizer.norm()
    return torch.nn.utils.get_total_norm([weight.grad for weight in parameters.values() if weight.grad is not None])


def clip_gradients(
    parameters: Mapping[str, nn.Parameter], norm: Tensor, limit: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:  # fmt: skip
    """Scale all gradients so that their norm is at most `limit`; 0 leaves them alone. An optimizer that can scale while
    it steps, where given, does it then."""
    if isinstance(optimizer, FlatAdamW):
        optimizer.clip(norm, limit)
    elif limit:
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)
