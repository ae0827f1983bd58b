"""AdamW for full fine-tuning in little memory: parameter by parameter, with 8-bit moments, without masters, and where
nothing has to wait for the last gradient, inside the backward.

`in_backward` applies a gradient as soon as it is complete and frees it, so that no more than one is alive (as LOMO
does, Lv et al. 2023, arXiv:2306.09782). It changes no bit of the result, and for that it needs three things: one piece
per step, no clipping (a global norm is known when the last gradient is; last step's norm would be another algorithm),
and no loss scaling. Where one is missing gradients are kept, which costs 2 bytes a weight, 4 with fp32 masters.

`States` may lie in the machine's memory (as ZeRO-Offload does, Ren et al. 2021, arXiv:2101.06840, but for the update
itself, which the card computes): fp32 masters of bf16 weights, or masters and moments. Those of norms and biases, which
are few, stay on the card. Where they lie changes no bit either.

Eight billion weights: 16 GB in bf16, 16 GB of 8-bit moments, and one gradient (the head's: 1 GB, summed in 2 GB); or
16 GB, one gradient, and 96 GB of masters and moments beside the card.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from danlu.ops.adamw import adamw_
from danlu.ops.adamw_8bit import GROUP, Moments, adamw_8bit_
from danlu.training.adamw import DeviceAdamW, decays
from danlu.training.ferry import CHUNK, Cargo, Ferry, entries
from danlu.training.host_memory import HostMemory, room_for

_HOOKS: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Parameter to the handle of the hook that steps it: a later optimizer of the same parameter takes it off."""


def release(weights: Iterable[nn.Parameter]) -> None:
    """Let no earlier optimizer move these inside a backward any more."""
    for weight in weights:
        handle: RemovableHandle | None = _HOOKS.pop(weight, None)  # type: ignore[no-untyped-call]
        if handle is not None:
            handle.remove()


@dataclass(frozen=True, slots=True)
class States:
    """What an optimizer keeps beside the weights. `has_masters`: fp32 ones of narrower weights, which then are their
    rounding and nothing by chance. `offload`: which of it lies in the machine's memory; `chunk` elements of a parameter
    are fetched at once."""

    is_8bit: bool = False
    has_masters: bool = False
    offload: Literal["none", "masters", "all"] = "none"
    chunk: int = CHUNK

    def of(self, weight: Tensor) -> dict[str, tuple[int, torch.dtype]]:
        """(elements, dtype) of each state of one parameter, by name."""
        size, wide = weight.numel(), torch.promote_types(weight.dtype, torch.float32)
        named: dict[str, tuple[int, torch.dtype]] = {"master": (size, wide)} if self.has_masters else {}
        if self.is_8bit and decays(weight):
            scales = (-(-size // GROUP), torch.float32)
            return named | {
                "exp_avg": (size, torch.int8), "exp_avg_scale": scales,
                "exp_avg_sq": (size, torch.uint8), "exp_avg_sq_scale": scales,
            }  # fmt: skip
        return named | {"exp_avg": (size, wide), "exp_avg_sq": (size, wide)}

    def is_away(self, weight: Tensor, name: str) -> bool:
        """Whether this state of this parameter lies in the machine's memory."""
        return decays(weight) and (self.offload == "all" or (self.offload == "masters" and name == "master"))


class LeanAdamW(DeviceAdamW):
    """Parameters are fp32 masters, or bf16 with masters apart, or bf16 without: then they are rounded by chance, the
    same way after resumption. 8-bit moments are those of matrices; norms and biases, which are few, keep fp32 ones."""

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], *, lr: float, betas: tuple[float, float], weight_decay: float,
        eps: float = 1e-8, states: States, in_backward: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay, eps=eps)
        self.in_backward, self._decay = in_backward, weight_decay
        self._here: dict[nn.Parameter, dict[str, Tensor]] = {}
        self._ashore: dict[nn.Parameter, Cargo] = {}
        self._salts: dict[nn.Parameter, int] = {}
        self._square = torch.zeros((), device=self.steps.device)
        self._done: set[nn.Parameter] = set()
        self._host, self._ferry = self._take_host(states)
        for index, (name, weight) in enumerate(self.parameters.items()):
            assert weight.is_contiguous(), f"{name} lies in one piece"
            self._salts[weight] = index
            self._add_state(weight, states, self.steps[index])
        if in_backward:
            me = weakref.ref(self)
            for weight in self.parameters.values():
                _HOOKS[weight] = weight.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    lambda weight: _step_now(me, weight)
                )

    def _take_host(self, states: States) -> tuple[HostMemory | None, Ferry | None]:
        """Room for all that lies away, and what carries it."""
        away = [
            [room for name, room in states.of(weight).items() if states.is_away(weight, name)]
            for weight in self.parameters.values()
        ]
        num_bytes = sum(room_for(*room) for room in itertools.chain.from_iterable(away))
        if not num_bytes:
            return None, None
        device, sizes = self.steps.device, [rooms[0][0] for rooms in away if rooms]
        per_element = max(sum(n * dtype.itemsize for n, dtype in rooms) / rooms[0][0] for rooms in away if rooms)
        chunk = min(states.chunk, -(-max(sizes) // GROUP) * GROUP)
        return HostMemory(num_bytes, device), Ferry(device, per_element, chunk)

    @torch.no_grad()
    def _add_state(self, weight: nn.Parameter, states: States, step: Tensor) -> None:
        flat: dict[str, Tensor] = {}
        for name, (size, dtype) in states.of(weight).items():
            if states.is_away(weight, name):
                assert self._host is not None, "counted before"
                flat[name] = self._host.zeros(size, dtype)
            else:
                flat[name] = torch.zeros(size, dtype=dtype, device=weight.device)
        if states.has_masters:
            for start in range(0, weight.numel(), CHUNK):  # a copy is widened on the device
                span = slice(start, start + CHUNK)
                flat["master"][span].copy_(weight.data.view(-1)[span])
        ashore = {name: tensor for name, tensor in flat.items() if states.is_away(weight, name)}
        self._here[weight] = {name: tensor for name, tensor in flat.items() if name not in ashore}
        if ashore:
            self._ashore[weight] = Cargo(weight.numel(), ashore)
        shaped = {what: part if what.endswith("scale") else part.view(weight.shape) for what, part in flat.items()}
        self.state[weight] = shaped | {"step": step}

    def settle(self) -> None:
        if self._ferry is not None:
            self._ferry.wait()

    def keep_gradients(self) -> None:
        """From now on they wait for `step`, so that those of several pieces add up."""
        release(self.parameters.values())
        self.in_backward = False
        self._done.clear()

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
        flat, grad = weight.data.view(-1), grad.reshape(-1)
        for span, state in self._spans(weight):
            part, master = flat[span], state.get("master")
            self._update(part if master is None else master, grad[span], state, weight, span.start)
            if master is not None:
                part.copy_(master)

    def _spans(self, weight: nn.Parameter) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """A parameter's elements with their state on the device: all at once, or chunks of what visits it."""
        here, size = self._here[weight], weight.numel()
        cargo = self._ashore.get(weight)
        if cargo is None:
            yield slice(0, size), here
            return
        assert self._ferry is not None, "what is ashore was counted"
        for span, aboard in self._ferry.visits(cargo):
            yield span, aboard | {name: entries(tensor, span, size) for name, tensor in here.items()}

    def _update(self, param: Tensor, grad: Tensor, state: dict[str, Tensor], weight: nn.Parameter, start: int) -> None:
        """Some elements of a parameter, or of its master, from `start` on."""
        decay, salt = self._decay if decays(weight) else 0.0, self._salts[weight]
        betas, eps, scale = self.defaults["betas"], self.defaults["eps"], self.scale if self.is_clipped else None
        if "exp_avg_scale" in state:
            moments = Moments(**{name: state[name] for name in Moments.__slots__})
            adamw_8bit_(
                param, grad, moments, lr=self.rate, betas=betas, eps=eps, weight_decay=decay, step=self.steps[0],
                scale=scale, salt=salt, start=start,
            )  # fmt: skip
        else:
            adamw_(
                param, grad, state["exp_avg"], state["exp_avg_sq"], lr=self.rate, betas=betas, eps=eps,
                weight_decay=decay, step=self.steps[0], scale=scale, salt=salt, start=start,
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
