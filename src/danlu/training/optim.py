"""Which AdamW a training takes, and its state as named tensors.

Decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101) on matrices only, never on norms and biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from danlu.training.adamw import DeviceAdamW, decay_groups
from danlu.training.flat import FlatAdamW
from danlu.training.lean import LeanAdamW, States, release

Kind = Literal["adamw", "adamw_8bit"]
Offload = Literal["none", "masters", "all"]


def build_optimizer(
    parameters: Mapping[str, nn.Parameter], *, lr: float, weight_decay: float, betas: tuple[float, float],
    kind: Kind = "adamw", is_flat: bool = False, in_backward: bool = False, has_masters: bool = False,
    offload: Offload = "none",
) -> torch.optim.Optimizer:  # fmt: skip
    """AdamW by what is asked for: over one buffer (`is_flat`: many small fp32 tensors), in little memory (8-bit
    moments, bf16 weights without masters or with masters apart, states in the machine's memory, gradients applied
    `in_backward`: `lean.py` says when it may), or else torch's own, fused, with states in the dtype of the parameters.
    On a CPU the first and the last give the same bits."""
    for name, weight in parameters.items():
        assert weight.is_contiguous(), f"{name} lies in pieces: a fused update would write beside it"
    release(parameters.values())
    if is_flat and kind == "adamw":
        return FlatAdamW(parameters, lr=lr, weight_decay=weight_decay, betas=betas)
    is_narrow = any(weight.dtype == torch.bfloat16 for weight in parameters.values())
    if kind == "adamw_8bit" or in_backward or is_narrow or offload != "none":
        states = States(is_8bit=kind == "adamw_8bit", has_masters=has_masters, offload=offload)
        return LeanAdamW(
            parameters, lr=lr, weight_decay=weight_decay, betas=betas, states=states, in_backward=in_backward
        )
    return torch.optim.AdamW(
        decay_groups(parameters.values(), weight_decay), lr=lr, betas=betas, eps=1e-8, fused=True
    )  # fmt: skip


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's whole state by name: `exp_avg/<parameter>`, `exp_avg_sq/<parameter>`, `step/<parameter>`, and
    `exp_avg_scale/…`, `exp_avg_sq_scale/…` where moments are 8-bit codes, `master/…` where masters lie apart."""
    if isinstance(optimizer, DeviceAdamW):
        optimizer.settle()
    return {
        f"{what}/{name}": tensor
        for name, weight in parameters.items()
        for what, tensor in optimizer.state.get(weight, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """The inverse of `optimizer_tensors`; a parameter without saved state starts with none."""
    if isinstance(optimizer, DeviceAdamW):
        optimizer.restore(tensors)
        return
    for name, weight in parameters.items():
        if f"step/{name}" not in tensors:
            continue
        state = {what: tensors[f"{what}/{name}"].to(weight.device, weight.dtype) for what in ("exp_avg", "exp_avg_sq")}
        # The fused kernel wants its step counter beside the weight.
        optimizer.state[weight] = state | {"step": tensors[f"step/{name}"].to(weight.device)}


def gradient_norm(parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """The global L2 norm of the gradients, a device scalar; the optimizer, where given, may know a shorter way."""
    if isinstance(optimizer, DeviceAdamW):
        return optimizer.norm()
    return torch.nn.utils.get_total_norm([weight.grad for weight in parameters.values() if weight.grad is not None])


def clip_gradients(
    parameters: Mapping[str, nn.Parameter], norm: Tensor, limit: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:  # fmt: skip
    """Scale all gradients so that their norm is at most `limit`; 0 leaves them alone. An optimizer that can scale while
    it steps, where given, does it then."""
    if isinstance(optimizer, DeviceAdamW):
        optimizer.clip(norm, limit)
    elif limit:
        torch.nn.utils.clip_grads_with_norm_(parameters.values(), limit, norm)


def is_torn(optimizer: torch.optim.Optimizer) -> bool:
    """True after a backward that steps, until `step`: some weights have moved and others not. Nothing of that may be
    saved, nor the step computed again."""
    return isinstance(optimizer, LeanAdamW) and optimizer.is_torn
