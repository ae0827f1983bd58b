"""What our two AdamWs have in common: numbers that change from step to step lie on the device, state is named.

`flat.py` steps all parameters in one kernel; `lean.py` one by one, and may do so while the backward still runs. Which
one a training takes is decided in `optim.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from danlu.ops.adamw import clip_factor


def decays(weight: Tensor) -> bool:
    """Matrices do; norms and biases do not."""
    return weight.ndim >= 2


def decay_groups(weights: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """As torch's optimizers want them: what decays, then what does not; neither is empty."""
    weights = list(weights)
    split = [([w for w in weights if decays(w) is does], weight_decay if does else 0.0) for does in (True, False)]
    return [{"params": members, "weight_decay": decay} for members, decay in split if members]


class DeviceAdamW(torch.optim.Optimizer):
    """Rate (fp64), clip factor and steps are tensors, so that a captured graph holds good for all steps. All parameters
    step together. `state` holds views by torch's names, filled in place: `optim.optimizer_tensors` saves them."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float,
        eps: float = 1e-8,
    ) -> None:  # fmt: skip
        assert parameters, "there is something to train"
        first = next(iter(parameters.values()))
        device = first.device
        self.parameters = dict(parameters)
        self.rate = torch.tensor(lr, dtype=torch.float64, device=device)
        self.scale = torch.ones((), dtype=torch.promote_types(first.dtype, torch.float32), device=device)
        self.steps = torch.zeros(len(parameters), device=device)  # all equal; each name is saved with its own
        self.is_clipped = False
        super().__init__(decay_groups(parameters.values(), weight_decay), {"lr": self.rate, "betas": betas, "eps": eps})

    def norm(self) -> Tensor:
        """The global L2 norm of this step's gradients, a device scalar."""
        raise NotImplementedError

    def clip(self, norm: Tensor, limit: float) -> None:
        """Let the next step scale gradients so that their norm is at most `limit`; 0 leaves them alone."""
        self.is_clipped = limit > 0
        if self.is_clipped:
            self.scale.copy_(clip_factor(norm, limit))

    def settle(self) -> None:
        """Until `state` is all there to be read or written: some of it may be under way."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take moments and step from named tensors. A parameter without saved ones has none but steps with the rest."""
        self.settle()
        for name, weight in self.parameters.items():
            for what, view in self.state[weight].items():
                if (saved := tensors.get(f"{what}/{name}")) is not None:
                    assert saved.is_floating_point() == view.is_floating_point(), f"{what}/{name} is of another kind"
                    view.copy_(saved)
        self.steps.fill_(self.steps.max())
