"""AdamW for full fine-tuning in little memory: parameter by parameter, with 8-bit moments, without masters, and where
nothing has to wait for the last gradient, inside the backward.

`in_backward` applies a gradient as soon as it is complete and frees it, so that no more than one is alive (as LOMO
does, Lv et al. 2023, arXiv:2306.09782). It changes no bit of the result, and for that it needs three things: one piece
per step, no clipping (a global norm is known when the last gradient is; last step's norm would be another algorithm),
and no loss scaling. Where one is missing gradients are kept, which costs 2 bytes a weight, 4 with fp32 masters.

Eight billion weights: 16 GB in bf16, 16 GB of 8-bit moments, and one gradient (the head's: 1 GB, summed in 2 GB).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from danlu.ops.adamw import adamw_
from danlu.ops.adamw_8bit import Moments, adamw_8bit_
from danlu.training.adamw import DeviceAdamW, decays

_HOOKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Parameter to the handle of the hook that steps it: a later optimizer of the same parameter takes it off."""


def release(weights: Iterable[nn.Parameter]) -> None:
    """Let no earlier optimizer move these inside a backward any more."""
    for weight in weights:
        handle: RemovableHandle | None = _HOOKS.pop(weight, None)  # type: ignore[no-untyped-call]
        if handle is not None:
            handle.remove()


class LeanAdamW(DeviceAdamW):
    """Parameters are fp32 masters, or bf16 without: then they are rounded by chance, the same way after resumption.
    With `is_8bit` the moments of matrices are 8-bit; those of norms and biases, which are few, stay fp32."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float,
        eps: float = 1e-8, is_8bit: bool, in_backward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps)
        self.in_backward, self._decay = in_backward, weight_decay
        self._moments: dict[nn.Parameter, Moments | tuple[Tensor, Tensor]] = {}
        self._salts: dict[nn.Parameter, int] = {}
        self._square = torch.zeros((), device=self.steps.device)
        self._done: set[nn.Parameter] = set()
        for index, (name, weight) in enumerate(self.parameters.items()):
            assert weight.is_contiguous(), f"{name} lies in one piece"
            self._salts[weight] = index
            self._add_state(weight, is_8bit and decays(weight), self.steps[index])
        if in_backward:
            me = weakref.ref(self)
            for weight in self.parameters.values():
                _HOOKS[weight] = weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda weight: _step_now(me, weight)
                )

    def _add_state(self, weight: nn.Parameter, is_8bit: bool, step: Tensor) -> None:
        state: dict[str, Tensor] = {}
        if is_8bit:
            moments = self._moments[weight] = Moments.like(weight)
            state = {name: getattr(moments, name) for name in Moments.__slots__}
        else:
            wide = torch.promote_types(weight.dtype, torch.float32)
            average, square = (torch.zeros(weight.numel(), dtype=wide, device=weight.device) for _ in range(2))
            self._moments[weight] = (average, square)
            state = {"exp_avg": average, "exp_avg_sq": square}
        shaped = {what: flat if what.endswith("scale") else flat.view(weight.shape) for what, flat in state.items()}
        self.state[weight] = shaped | {"step": step}

    @property
    def is_torn(self) -> bool:
        """Some weights have taken this step and others not: nothing that may be saved, or computed again."""
        return bool(self._done)

    def norm(self) -> Tensor:
        if self.in_backward:
            return self._square.sqrt()
        squares = [_square_of(weight.grad) for weight in self.parameters.values() if weight.grad is not None]
        return torch.stack(squares).sum().sqrt()

    def clip(self, norm: Tensor, limit: float) -> None:
        assert not (self.in_backward and limit), "nothing is left to clip after a backward that steps"
        super().clip(norm, limit)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loop computes gradients, not the optimizer"
        if self.in_backward:
            self._done.clear()
            return
        self.steps.add_(1)
        for weight in self.parameters.values():
            if weight.grad is not None:
                self._move(weight, weight.grad)
        self.is_clipped = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        assert not self.is_torn, "an update was cut short: only a checkpoint can be gone on from"
        super().zero_grad(set_to_none)

    @torch.no_grad()
    def step_now(self, weight: nn.Parameter) -> None:
        """Apply the gradient of one parameter and free it."""
        assert weight.grad is not None and weight not in self._done, "a step inside the backward has one piece"
        if not self._done:
            self.steps.add_(1)
            self._square.zero_()
        self._done.add(weight)
        self._square += _square_of(weight.grad)
        self._move(weight, weight.grad)
        weight.grad = None

    def _move(self, weight: nn.Parameter, grad: Tensor) -> None:
        moments, decay = self._moments[weight], self._decay if decays(weight) else 0.0
        betas, eps, scale = self.defaults["betas"], self.defaults["eps"], self.scale if self.is_clipped else None
        flat, grad, step, salt = weight.data.view(-1), grad.reshape(-1), self.steps[0], self._salts[weight]
        if isinstance(moments, Moments):
            adamw_8bit_(
                flat, grad, moments, lr=self.rate, betas=betas, eps=eps, weight_decay=decay, step=step, scale=scale,
                salt=salt,
            )  # fmt: skip
        else:
            adamw_(
                flat, grad, *moments, lr=self.rate, betas=betas, eps=eps, weight_decay=decay, step=step, scale=scale,
                salt=salt,
            )  # fmt: skip


def _step_now(optimizer: weakref.ref[LeanAdamW], weight: Tensor) -> None:
    """The hook: it does not keep its optimizer alive."""
    if (alive := optimizer()) is not None:
        alive.step_now(weight)  # type: ignore[arg-type]


def _square_of(grad: Tensor) -> Tensor:
    """The squared norm, summed in fp32 at least."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(grad, dtype=wide)
    return norm.square().float()
