"""Parameters side by side in one buffer, their gradients in another, and AdamW over both in one kernel.

For low-rank pairs: hundreds of small tensors, each of which would cost its own launches and bookkeeping. Nothing that
is saved tells of it: parameters and moments keep their names and shapes, as views. Full fine-tuning does not want it,
for a gradient that is handed over whole is cheaper than one that is added into a buffer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from danlu.ops.adamw import adamw_, clip_factor

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
        self.parameters = dict(sorted(parameters.items(), key=lambda item: item[1].ndim < 2))  # a stable sort
        self._starts: dict[str, int] = {}
        unit, size, self.num_decayed = ALIGNMENT_BYTES // first.element_size(), 0, 0
        for name, weight in self.parameters.items():
            self._starts[name] = size
            size += -(-weight.numel() // unit) * unit
            if weight.ndim >= 2:
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


class FlatAdamW(torch.optim.Optimizer):
    """AdamW over flat parameters. Rate, step and clip factor lie on the device, so that a captured graph holds good for
    all steps. All parameters step together: one without a gradient counts as one with a gradient of zero."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float,
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        self.flat = flat = FlatParameters(parameters)
        self.rate = torch.tensor(lr, dtype=torch.float64, device=flat.data.device)
        groups = [
            {"params": weights, "weight_decay": decay}
            for does, decay in ((True, weight_decay), (False, 0.0))
            if (weights := [weight for weight in flat.parameters.values() if (weight.ndim >= 2) is does])
        ]
        super().__init__(groups, {"lr": self.rate, "betas": betas, "eps": eps})
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(flat.data), torch.zeros_like(flat.data)
        self.steps = torch.zeros(len(flat.parameters), device=flat.data.device)  # equal; one for each, as names go
        self.scale = torch.ones((), dtype=flat.data.dtype, device=flat.data.device)
        self._is_clipped = False
        self._segments = [(slice(0, flat.num_decayed), weight_decay), (slice(flat.num_decayed, None), 0.0)]
        averages, squares = flat.views(self.exp_avg), flat.views(self.exp_avg_sq)
        for index, (name, weight) in enumerate(flat.parameters.items()):
            self.state[weight] = {
                "exp_avg": averages[name], "exp_avg_sq": squares[name], "step": self.steps[index]
            }  # fmt: skip

    def norm(self) -> Tensor:
        """The global L2 norm of the gradients, a device scalar."""
        if not self.flat.grad.is_cuda:
            return torch.nn.utils.get_total_norm(list(self.flat.grads.values()))  # the bits of the other optimizer
        norm: Tensor = torch.linalg.vector_norm(self.flat.grad)
        return norm

    def clip(self, norm: Tensor, limit: float) -> None:
        """Let the next step scale gradients so that their norm is at most `limit`; 0 leaves them alone."""
        self._is_clipped = limit > 0
        if self._is_clipped:
            self.scale.copy_(clip_factor(norm, limit))

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
                scale=self.scale if self._is_clipped else None,
            )  # fmt: skip
        self._is_clipped = False

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Gradients stay where they are, at zero, whatever is asked."""
        self.flat.forget_gradients()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take moments and step from named tensors. A parameter without saved ones has none but steps with the rest."""
        for name, weight in self.flat.parameters.items():
            for what, view in self.state[weight].items():
                if (saved := tensors.get(f"{what}/{name}")) is not None:
                    view.copy_(saved)
        self.steps.fill_(self.steps.max())
