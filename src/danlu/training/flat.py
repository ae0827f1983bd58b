"""Parameters side by side in one buffer, their gradients in another, and AdamW over both in one kernel.

For low-rank pairs: hundreds of small tensors, each of which would cost its own launches and bookkeeping. Nothing that
is saved tells of it: parameters and moments keep their names and shapes, as views. Full fine-tuning does not want it,
for a gradient that is handed over whole is cheaper than one that is added into a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from danlu.ops.adamw import adamw_
from danlu.training.adamw import DeviceAdamW, decays

ALIGNMENT_BYTES = 16
"""Of each parameter's first element: products and kernels read so many bytes at once."""


class FlatParameters:
    """Moves parameters into one buffer of their dtype. Those that decay (matrices) stand first, each kind in the given
    order; `num_decayed` elements, gaps included, belong to the former. `.data` and `.grad` of each are views from now
    on, and gradients start at zero."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        assert parameters, "there is something to train"
        first = next(iter(parameters.values()))
        same = {(weight.dtype, weight.device) for weight in parameters.values()}
        assert len(same) == 1, f"one buffer has one dtype and one place, not {same}"
        self.parameters = dict(sorted(parameters.items(), key=lambda item: not decays(item[1])))  # a stable sort
        self._starts: dict[str, int] = {}
        unit, size, self.num_decayed = ALIGNMENT_BYTES // first.element_size(), 0, 0
        for name, weight in self.parameters.items():
            self._starts[name] = size
            size += -(-weight.numel() // unit) * unit
            if decays(weight):
                self.num_decayed = size
        self.data = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.grad = torch.zeros_like(self.data)
        self.grads = self.views(self.grad)
        for name, view in self.views(self.data).items():
            weight = self.parameters[name]
            view.copy_(weight.detach())
            weight.data, weight.grad = view, self.grads[name]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Each parameter's part of a buffer laid out like `data`, by name, in its shape."""
        return {
            name: flat[start : start + self.parameters[name].numel()].view(self.parameters[name].shape)
            for name, start in self._starts.items()
        }

    def forget_gradients(self) -> None:
        """All to zero, in one write; those that were taken away come back as views."""
        self.grad.zero_()
        for name, view in self.grads.items():
            self.parameters[name].grad = view

    def check(self) -> None:
        """Our own invariant: whoever replaces a `.grad` trains on nothing."""
        strays = [name for name, view in self.grads.items() if self.parameters[name].grad is not view]
        assert not strays, f"gradients left their buffer: {strays[:3]}"


class FlatAdamW(DeviceAdamW):
    """AdamW over flat parameters. One without a gradient counts as one with a gradient of zero."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float,
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        self.flat = flat = FlatParameters(parameters)
        super().__init__(flat.parameters, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps)
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat.data), torch.zeros_like(flat.data)
        self._segments = [(slice(0, flat.num_decayed), weight_decay), (slice(flat.num_decayed, None), 0.0)]
        averages, squares = flat.views(self.exp_avg), flat.views(self.exp_avg_sq)
        for index, (name, weight) in enumerate(flat.parameters.items()):
            self.state[weight] = {
                "exp_avg": averages[name], "exp_avg_sq": squares[name], "step": self.steps[index]
            }  # fmt: skip

    def norm(self) -> Tensor:
        if not self.flat.grad.is_cuda:
            return torch.nn.utils.get_total_norm(list(self.flat.grads.values()))  # the bits of the other optimizer
        norm: Tensor = torch.linalg.vector_norm(self.flat.grad)
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loop computes gradients, not the optimizer"
        flat, settings = self.flat, self.defaults
        flat.check()
        self.steps.add_(1)
        for part, decay in self._segments:
            adamw_(
                flat.data[part], flat.grad[part], self.exp_avg[part], self.exp_avg_sq[part], lr=self.rate,
                betas=settings["betas"], eps=settings["eps"], weight_decay=decay, step=self.steps[0],
                scale=self.scale if self.is_clipped else None,
            )  # fmt: skip
        self.is_clipped = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients stay where they are, at zero, whatever is asked."""
        self.flat.forget_gradients()
