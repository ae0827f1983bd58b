"""The contract of the shelf: a linear layer whose weight is frozen in few bits.

It stands where the checkpoint has a linear layer, under the same name. It is no `nn.Linear` and has no parameter
`weight`: whoever wants the weight asks for it dequantised, into room of their own if they like. Its forward is the
plain path, for generating and scoring; training multiplies in its own way.

Shapes: T rows, N output width, K input width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

Quantize = Literal["none", "fp8", "nf4", "int8"]
"""What the recipe's `model.quantize` may say."""


class Packed(Protocol):
    """Codes and their scales, as the operations of each kind make and read them."""

    @property
    def codes(self) -> Tensor: ...

    @property
    def num_bytes(self) -> int: ...

    def to(self, device: torch.device | str) -> Self: ...


class QuantizedLinear(nn.Module, ABC):
    """`take` fills it. `dtype` is what it computes in; the bias, if any, is a frozen parameter in that dtype."""

    kind: ClassVar[Quantize]
    can_keep_dequantized: ClassVar[bool] = True
    """False where products take the codes themselves and a dequantised weight would compute something else."""
    bias: nn.Parameter | None
    packed: Packed

    def __init__(self, in_features: int, out_features: int, *, has_bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features, self.dtype = in_features, out_features, dtype
        blank = torch.empty(out_features, dtype=dtype, device="meta")
        self.bias = nn.Parameter(blank, requires_grad=False) if has_bias else None
        self._cache: Tensor | None = None

    @classmethod
    def in_place_of(cls, layer: nn.Linear, dtype: torch.dtype) -> Self:
        """An empty one of a layer's shape."""
        fresh = cls(layer.in_features, layer.out_features, has_bias=layer.bias is not None, dtype=dtype)
        return fresh.train(layer.training)

    @abstractmethod
    def take(self, weight_NK: Tensor) -> None:
        """Quantise a weight in any float dtype, on the device where it lies."""

    @abstractmethod
    def dequantized(self, out_NK: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
        """The weight in `out_NK` (rows may be the leading columns of a wider buffer), else anew in `dtype`."""

    @property
    def num_bytes(self) -> int:
        """What the codes and scales take."""
        return self.packed.num_bytes

    @property
    def codes(self) -> Tensor:
        """The packed elements themselves, for whoever wants to know whether they are the same."""
        return self.packed.codes

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Dequantised.apply(x, self)  # type: ignore[no-untyped-call]
        return out

    @property
    def has_cache(self) -> bool:
        return self._cache is not None

    def keep_dequantized(self) -> None:
        """Hold the dequantised weight from now on: the same numbers, 16 bits an element more, no work per use."""
        self._cache = self.dequantized()

    def drop_dequantized(self) -> None:
        self._cache = None

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The dequantised weight to read, not to keep: the kept one where there is one."""
        if self._cache is not None and self._cache.dtype == dtype:
            return self._cache
        return self.dequantized(dtype=dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Codes and scales follow to another device and never to another dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        to = fn(torch.empty(0, device=self.device)).device
        if to != self.device:
            self.packed = self.packed.to(to)
            self._cache = None if self._cache is None else self._cache.to(to)
        return self

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {self.kind}"


class _Dequantised(torch.autograd.Function):
    """x Wᵀ + b with both frozen; the weight is dequantised again on the way back, and nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        return grad @ ctx.layer.weight(grad.dtype), None
